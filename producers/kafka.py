"""How the producer's clients reach the brokers."""

import asyncio
import functools
import logging
import ssl
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    NoError,
    UnknownError,
    UnsupportedVersionError,
    for_code,
)
from aiokafka.protocol.transaction import InitProducerIdRequest

from driftline.producers.config import ProducerConfig
from driftline.schemas.batches import READING
from driftline.schemas.topics import LARGE

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 2.0  # aiokafka's stop waits for requests to a broker that may be gone

# What a broker says that hands out no producer ids: an unknown request, an unknown version of it, or no right to them.
NO_IDEMPOTENCE = (UnknownError, UnsupportedVersionError, IncompatibleBrokerVersion, ClusterAuthorizationFailedError)


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


def reader_options(config: ProducerConfig) -> dict[str, Any]:
    """For every consumer, `client_options` among them: batches are bounded, and what a transaction took back never
    happened. Where it begins is the consumer's to say: nothing is committed."""
    return {**client_options(config), **READING}


async def connect(config: ProducerConfig) -> AIOKafkaProducer:
    """A started producer. Raises KafkaError or OSError when no broker answers.

    A broker that has no idempotent producers, as the embedded one, is no reason to deliver nothing: a batch that is
    written twice is recognised by its events' ids."""
    idempotent = config.idempotent and await _has_idempotence(config)
    producer = AIOKafkaProducer(
        **client_options(config),
        acks="all",
        enable_idempotence=idempotent,
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


async def _has_idempotence(config: ProducerConfig) -> bool:
    """Asked for here, since aiokafka's own producer logs an error for each refusal and cannot go on without."""
    client = AIOKafkaClient(**client_options(config))
    try:
        await client.bootstrap()
        request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=config.request_timeout_ms)
        response = await client.send(client.get_random_node(), request)
        error = for_code(response.error_code)
    except NO_IDEMPOTENCE as refusal:
        error = type(refusal)
    finally:
        await client.close()
    if issubclass(error, NO_IDEMPOTENCE):
        _say_once(f"{config.brokers} has no idempotent producers ({error.__name__}): repeats are left to events' ids")
        return False
    if error is not NoError:
        logger.debug("%s gave no producer id now (%s)", config.brokers, error.__name__)  # the producer asks again
    return True


@functools.cache
def _say_once(message: str) -> None:
    logger.info(message)


async def disconnect(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await producer.stop()
    except (TimeoutError, KafkaError, OSError) as error:
        logger.debug("producer did not stop in order: %r", error)
        await producer.client.close()
