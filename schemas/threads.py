"""Blocking calls from an event loop."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def abandonable(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, for calls that wait for a server: once this is cancelled, nobody waits for the thread, so
    that a server which hangs holds up no process that is asked to stop."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def work() -> None:
        try:
            outcome.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (whatever it is belongs to the caller)
            outcome.set_exception(error)

    threading.Thread(target=work, name=getattr(call, "__name__", "call"), daemon=True).start()
    return await asyncio.wrap_future(outcome)
