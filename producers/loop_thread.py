"""A daemon thread with an event loop of its own, so that sync and async applications alike can use asyncio clients."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class _Loop(asyncio.SelectorEventLoop):
    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """In this thread, which is ours to block: at the interpreter's exit, when the last events are flushed, the
        executor that asyncio would use is already gone."""
        return socket.getaddrinfo(host, port, family, type, proto, flags)


class LoopThread:
    """Runs one coroutine until it returns or `cancel` is called."""

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._main = main
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run it in the loop; nothing happens when the loop has ended."""
        self._started.wait()
        if self._loop is None or self._loop.is_closed():
            return
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # closed in between
            logger.debug("the loop of %s has just ended", self._thread.name)

    def cancel(self) -> None:
        self.call_soon(lambda: self._task and self._task.cancel())

    def join(self, timeout: float | None = None) -> bool:
        """True when the thread has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_Loop) as runner:
                runner.run(self._supervise())
        except asyncio.CancelledError:
            logger.debug("%s was cancelled", self._thread.name)
        except Exception:  # a thread has no caller to raise to
            logger.exception("%s stopped: this is a bug in driftline", self._thread.name)
        finally:
            self._started.set()

    async def _supervise(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._started.set()
        await self._main()
