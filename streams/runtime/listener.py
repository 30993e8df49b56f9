"""What a Kafka listener speaks, asked before a client that speaks TLS waits half a minute for one that does not."""

import asyncio
import struct
from contextlib import suppress

from driftline.schemas.errors import ConfigError
from driftline.streams.runtime.config import KafkaConfig

ANSWER_S = 2.0
_NUMBER = 1
_ASK = struct.pack(">ihhih", 10, 18, 0, _NUMBER, -1)  # size, ApiVersions, its version 0, correlation id, no client id


async def require_tls(config: KafkaConfig) -> None:
    """:raises ConfigError: TLS is set, and a broker answers without."""
    if not config.security_protocol.endswith("SSL"):
        return
    plain = config.security_protocol.replace("SASL_SSL", "SASL_PLAINTEXT").replace("SSL", "PLAINTEXT")
    for broker in config.brokers.split(","):
        if await _answers_plainly(broker.strip()):
            raise ConfigError(
                f"Kafka at {broker.strip()} speaks no TLS there, and kafka.security_protocol is "
                f"{config.security_protocol}: name its TLS port in kafka.brokers, or set {plain}"
            )


async def _answers_plainly(broker: str) -> bool:
    host, _, port = broker.rpartition(":")
    writer = None
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.write(_ASK)
            size: int
            number: int
            size, number = struct.unpack(">ii", await reader.readexactly(8))
            return size >= 4 and number == _NUMBER
    except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        if writer is not None:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
