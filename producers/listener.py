"""Control signals on their way back into the application.

router, breakers = CanaryRouter(config), BreakerState()
listener = SignalListener(ProducerConfig.load(app="support-bot"), on_rollback=router.obey, on_breaker=breakers.obey)
listener.start()            # a thread of its own; or, in an async application: await listener.run()
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Literal, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from driftline.producers.config import ProducerConfig
from driftline.producers.kafka import STOP_TIMEOUT_S, reader_options
from driftline.producers.loop_thread import LoopThread
from driftline.schemas.codec import DecodeError, decode
from driftline.schemas.results import BreakerSignal, RollbackSignal
from driftline.schemas.text import for_log
from driftline.schemas.topics import Topics

logger = logging.getLogger(__name__)

MAX_BACKOFF_S = 5.0

S = TypeVar("S", RollbackSignal, BreakerSignal)


class SignalListener:
    """Calls back once per signal id for signals of its app, in the order of the log. Reads all that is retained first
    (`since="earliest"`), so that a restarted application knows what was rolled back before it started."""

    def __init__(
        self,
        config: ProducerConfig,
        *,
        on_rollback: Callable[[RollbackSignal], object] | None = None,
        on_breaker: Callable[[BreakerSignal], object] | None = None,
        since: Literal["earliest", "latest"] = "earliest",
    ) -> None:
        topics = Topics(config.topic_prefix)
        self._config = config
        self._rollbacks, self._breakers = topics.rollbacks, topics.breakers
        self._on_rollback = on_rollback
        self._on_breaker = on_breaker
        self._since = since
        self._seen: set[str] = set()
        self._thread: LoopThread | None = None

    def start(self) -> None:
        """Listen in a thread until `stop`."""
        if self._thread is None:
            self._thread = LoopThread(f"driftline-signals-{self._config.app}", self.run)

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.cancel()
            thread.join(STOP_TIMEOUT_S)

    async def run(self) -> None:
        """Listen until cancelled, through outages of the broker."""

        def complain(state: RetryCallState) -> None:
            logger.warning(
                "cannot listen for signals on %s: %s", self._config.brokers, state.outcome and state.outcome.exception()
            )

        retrying = AsyncRetrying(
            retry=retry_if_exception_type((KafkaError, OSError)),
            wait=wait_random_exponential(0.1, max=MAX_BACKOFF_S),
            before_sleep=complain,
        )
        await retrying(self._listen)

    async def _listen(self) -> None:
        consumer = AIOKafkaConsumer(
            self._rollbacks,
            self._breakers,
            **reader_options(self._config),
            auto_offset_reset=self._since,
        )
        try:
            await consumer.start()
            async for record in consumer:
                self._take(record)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await consumer.stop()

    def _take(self, record: ConsumerRecord) -> None:
        try:
            if record.topic == self._rollbacks:
                self._deliver(decode(record.value, RollbackSignal), self._on_rollback)
            else:
                self._deliver(decode(record.value, BreakerSignal), self._on_breaker)
        except DecodeError as error:
            logger.warning("skipped %s/%d at %d: %s", record.topic, record.partition, record.offset, for_log(error))

    def _deliver(self, signal: S, callback: Callable[[S], object] | None) -> None:
        if signal.app != self._config.app or signal.id in self._seen:
            return
        self._seen.add(signal.id)
        if callback is None:
            return
        try:
            callback(signal)
        except Exception:  # the application's code: its failure must not end the listening
            logger.exception("the callback for signal %s failed", for_log(signal.id))
