from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaProducer

from driftline.producers import BreakerState, CanaryConfig, CanaryRouter, ProducerConfig, SignalListener
from driftline.schemas.codec import encode
from driftline.schemas.results import BreakerSignal, RollbackSignal

NOW = 1_793_606_400_000_000


def rollback(id: str, app: str, deployment_id: str) -> RollbackSignal:
    return RollbackSignal(
        id=id, deployment_id=deployment_id, app=app, release="v2", stable="v1", decided_at=NOW, revision=1, reason="",
        log_e={}, weights={}, log_e_total=5.0, threshold=4.0, alpha=0.01, counts={}, effects={}, share=0.1,
    )  # fmt: skip


def opened(id: str, app: str) -> BreakerSignal:
    return BreakerSignal(
        id=id, app=app, provider="openai", model="m", state="open", at=NOW, revision=0, reason="",
        probe_share=0.05, requests=0, errors=0,
    )  # fmt: skip


async def publish(brokers: str, topic: str, *values: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=brokers, acks="all")
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value, key=b"bot")
    finally:
        await producer.stop()


async def test_signals_reach_router_and_breakers(
    tansu: str, until_async: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    router = CanaryRouter(CanaryConfig(stable="v1", canary="v2", share=1.0, deployment_id="mine"))
    breakers = BreakerState()
    seen: list[str] = []

    def on_rollback(signal: RollbackSignal) -> None:
        seen.append(signal.id)
        if signal.id == "fails":
            raise RuntimeError("the application's callback")
        router.obey(signal)

    config = ProducerConfig(app="bot", brokers=tansu, topic_prefix="signals")
    await publish(
        tansu,
        "signals.rollbacks",
        b"not json",
        encode(rollback("others", "another-app", "mine")),
        encode(rollback("fails", "bot", "x")),
        encode(rollback("r1", "bot", "mine")),
        encode(rollback("r1", "bot", "mine")),
    )
    await publish(tansu, "signals.breakers", encode(opened("b0", "another-app")))
    listener = SignalListener(config, on_rollback=on_rollback, on_breaker=breakers.obey)
    listener.start()
    try:
        await until_async(lambda: "r1" in seen)
        assert not router.route("u").is_canary
        assert breakers.allows("openai", "m", "u")
        await publish(tansu, "signals.breakers", encode(opened("b1", "bot")))
        await until_async(lambda: not breakers.allows("openai", "m", "u"))
        await publish(tansu, "signals.rollbacks", encode(rollback("r2", "bot", "next")))
        await until_async(lambda: "r2" in seen)
    finally:
        listener.stop()
    assert seen == ["fails", "r1", "r2"]
    assert "not a RollbackSignal" in caplog.text
