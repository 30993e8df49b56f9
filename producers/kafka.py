"""How the producer's clients reach the brokers."""

import asyncio
import logging
import ssl
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from driftline.producers.config import ProducerConfig
from driftline.schemas.topics import LARGE

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 2.0  # aiokafka's stop waits for requests to a broker that may be gone


def client_options(config: ProducerConfig) -> dict[str, Any]:
    """For any aiokafka client."""
    options: dict[str, Any] = {
        "bootstrap_servers": config.brokers,
        "request_timeout_ms": config.request_timeout_ms,
        "metadata_max_age_ms": config.metadata_max_age_ms,
        "security_protocol": config.security_protocol,
    }
    if config.security_protocol.endswith("SSL"):
        options["ssl_context"] = ssl.create_default_context(cafile=config.ssl_ca_file)
    if config.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = config.sasl_mechanism
        options["sasl_plain_username"] = config.sasl_username
        options["sasl_plain_password"] = config.sasl_password and config.sasl_password.get_secret_value()
    return options


async def connect(config: ProducerConfig) -> AIOKafkaProducer:
    """A started producer. Raises KafkaError or OSError when no broker answers."""
    producer = AIOKafkaProducer(
        **client_options(config),
        acks="all",
        enable_idempotence=config.idempotent,
        compression_type=config.compression,
        max_request_size=LARGE,
        max_batch_size=config.max_batch_bytes,
    )
    try:
        await producer.start()
    except BaseException:
        await disconnect(producer)
        raise
    return producer


async def disconnect(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await producer.stop()
    except (TimeoutError, KafkaError, OSError) as error:
        logger.debug("producer did not stop in order: %r", error)
        await producer.client.close()
