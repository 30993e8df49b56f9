"""The thread that brings batches to Kafka and never gives up while the application lives.

Batches go out in rounds, in order; the next round starts when every batch of this one is acknowledged or given up. What
fails in any way (broker gone, request timed out, a sequence number the broker does not know after a restart) is sent
again by a new producer. That may write a batch twice, or after the next of its round: the pipeline recognises repeats
by the events' ids and orders by event time. It loses none.
"""

import asyncio
import atexit
import contextlib
import ctypes
import logging
import os
import threading
import weakref

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from tenacity import AsyncRetrying, retry_if_result, wait_random_exponential

from driftline.producers import kafka
from driftline.producers.buffer import Batch, Buffer, DropReason, Stats
from driftline.producers.config import ProducerConfig
from driftline.producers.loop_thread import LoopThread
from driftline.schemas.topics import Topics

logger = logging.getLogger(__name__)

MAX_BACKOFF_S = 5.0  # a broker that comes back is found within this


class Sender:
    """Owns the buffer and, from the first event on, the thread. A fork leaves the child with an empty one: what was
    pending belongs to the parent, which sends it."""

    def __init__(self, config: ProducerConfig) -> None:
        self._config = config
        self._topic = Topics(config.topic_prefix).events
        self._reset()
        _senders.add(self)

    def _reset(self) -> None:
        self._buffer = Buffer(
            max_batch_events=self._config.max_batch_events,
            max_batch_bytes=self._config.max_batch_bytes,
            max_pending_events=self._config.max_pending_events,
            max_pending_bytes=self._config.max_pending_bytes,
        )
        self._starting = threading.Lock()
        self._thread: LoopThread | None = None
        self._producer: AIOKafkaProducer | None = None
        self._failing = False

    def disown(self) -> None:
        """In a forked child: begin anew, and keep what the parent's thread uses out of reach of finalizers, which would
        act on sockets and on an epoll instance that the child shares with the parent."""
        for inherited in (self._thread, self._producer):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
        self._reset()

    def send(self, app: str, encoded: bytes) -> None:
        """Never blocks, never raises."""
        wake = self._buffer.put(app, encoded)
        if self._thread is None:
            self._start()
        if wake and self._thread is not None:
            self._thread.call_soon(self._wake.set)

    def drop(self, reason: DropReason) -> None:
        self._buffer.drop(reason)

    def stats(self) -> Stats:
        return self._buffer.stats()

    def flush(self, timeout: float) -> bool:
        """Wait until everything emitted before has been acknowledged or dropped; False when time ran out."""
        count = self._buffer.hurry()
        if self._thread is not None:
            self._thread.call_soon(self._wake.set)
        return self._buffer.wait_settled(count, timeout)

    def close(self, timeout: float) -> bool:
        """Flush, then stop. What is still pending after `timeout` seconds is counted as undelivered (False)."""
        self._buffer.close()
        flushed = self.flush(timeout)
        if self._thread is not None:
            if not flushed:
                self._thread.cancel()
            self._thread.join(kafka.STOP_TIMEOUT_S * 2)
        lost = self._buffer.abandon()
        if lost:
            logger.warning(
                "closed with %d events undelivered: no broker of %s acknowledged them in time",
                lost,
                self._config.brokers,
            )
        return not lost

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or self._buffer.closed:
                return
            self._wake = asyncio.Event()
            try:
                self._thread = LoopThread(f"driftline-{self._config.app}", self._deliver)
            except RuntimeError as error:  # the interpreter is going down, or the system has no thread left
                logger.warning("cannot start the sender's thread, will try again at the next event: %r", error)

    async def _deliver(self) -> None:
        try:
            while batches := await self._next_round():
                await self._deliver_round(batches)
        finally:
            if self._producer is not None:
                await kafka.disconnect(self._producer)

    async def _next_round(self) -> list[Batch]:
        """Empty only when closed and drained."""
        while True:
            self._wake.clear()
            if not self._buffer.arm(full=False):
                await self._wake.wait()
            self._wake.clear()
            if not self._buffer.arm(full=True):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._config.linger_ms / 1000):
                        await self._wake.wait()
            closed = self._buffer.closed  # asked first: what was put before it is in the batches
            batches = self._buffer.take()
            if batches or closed:
                return batches

    async def _deliver_round(self, batches: list[Batch]) -> None:
        left = batches

        async def attempt() -> list[Batch]:
            nonlocal left
            left = await self._attempt(left)
            return left

        await AsyncRetrying(retry=retry_if_result(bool), wait=wait_random_exponential(0.1, max=MAX_BACKOFF_S))(attempt)

    async def _attempt(self, batches: list[Batch]) -> list[Batch]:
        """Returns those that are still to be sent, in order."""
        sent: list[tuple[Batch, asyncio.Future[object]]] = []
        left: list[Batch] = []
        try:
            if self._producer is None:
                self._producer = await kafka.connect(self._config)
            for batch in batches:
                sent.append((batch, await self._producer.send(self._topic, batch.value, key=batch.app.encode())))
        except Exception as error:  # noqa: BLE001  whatever the client raises, events are held and tried again
            self._complain(error)
            left = batches[len(sent) :]
        outcomes = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        failed: list[Batch] = []
        for (batch, _), outcome in zip(sent, outcomes, strict=True):
            if isinstance(outcome, MessageSizeTooLargeError):
                self._refused(batch, outcome)
            elif isinstance(outcome, BaseException):
                self._complain(outcome)
                failed.append(batch)
            else:
                self._buffer.settle(batch)
        left = failed + left
        if left and self._producer is not None:
            producer, self._producer = self._producer, None
            await kafka.disconnect(producer)
        elif not left and self._failing:
            self._failing = False
            logger.info("connected to %s again", self._config.brokers)
        return left

    def _refused(self, batch: Batch, error: BaseException) -> None:
        """Of a batch with company the limit of bytes is our own, so a record over the broker's limit is one event."""
        logger.warning("the broker refused a record of %d bytes: %r", len(batch.value), error)
        self._buffer.settle(batch, "too_large")

    def _complain(self, error: BaseException) -> None:
        level = logging.DEBUG if self._failing else logging.WARNING
        self._failing = True
        logger.log(level, "cannot deliver to %s, holding events until it answers: %r", self._config.brokers, error)


_senders: weakref.WeakSet[Sender] = weakref.WeakSet()


def _after_fork() -> None:
    for sender in _senders:
        sender.disown()


def _at_exit() -> None:
    for sender in list(_senders):
        sender.close(sender._config.close_timeout_s)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
