import asyncio

import pytest

from driftline.schemas.errors import ConfigError
from driftline.streams.runtime.admin import require_topics, wait_for_broker
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.listener import require_tls
from tests.brokers import Broker, on_each_broker


@on_each_broker
async def test_a_listener_without_tls_is_named(broker: Broker) -> None:
    """Before a client waits for its answer, and not tried again: it is a setting."""
    config = broker.config().model_copy(update={"security_protocol": "SSL"})
    for asked in (require_topics(config, ["t"]), wait_for_broker(config)):
        with pytest.raises(ConfigError, match=r"speaks no TLS there, .* or set PLAINTEXT"):
            await asked
    login = config.model_copy(update={"security_protocol": "SASL_SSL"})
    with pytest.raises(ConfigError, match="or set SASL_PLAINTEXT"):
        await require_tls(login)
    await require_tls(broker.config())


@pytest.mark.parametrize("answer", [b"", b"\x15\x03\x03\x00\x02\x02\x46", b"HTTP/1.1 400 Bad Request"])
async def test_what_is_no_plain_kafka_is_left_to_the_client(answer: bytes) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await require_tls(KafkaConfig(brokers=f"127.0.0.1:{port}", security_protocol="SSL"))
