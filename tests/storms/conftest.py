"""Brokers, servers and pipelines for the storms."""

import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from driftline.sinks.clickhouse.embedded import EmbeddedServer
from tests.brokers import Kafka
from tests.storms.harness import SESSION_S, Node, Services, World, kafka_config

Pipeline: TypeAlias = Callable[..., AbstractAsyncContextManager[World]]

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("aiokafka", "aiohttp.server"):  # which lose their connections again and again
        caplog.set_level(logging.CRITICAL, name)


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    services = Services()
    yield services
    services.close()


@pytest.fixture(scope="module")
def node(apache_kafka_home: Path, services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(apache_kafka_home, tmp_path_factory.mktemp("storm-kafka"))
    node.format()
    services.call(node.start)
    yield node
    node.kill()


@pytest.fixture(scope="module")
def server(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path_factory.mktemp("storm-clickhouse"), port=0)
    services.call(server.start)
    yield server
    services.call(server.stop)


@pytest.fixture
def pipeline(node: Node, server: EmbeddedServer, services: Services, tmp_path: Path) -> Pipeline:
    """`pipeline(seed=…)`: topics and a database of its own, roles to be started, and supervised to the block's end."""

    @asynccontextmanager
    async def make(*, seed: int, session_s: float = SESSION_S, **options: Any) -> AsyncIterator[World]:
        prefix = f"storm{os.getpid()}-{next(_numbers)}"
        async with Kafka(kafka_config(node, prefix, session_s)) as kafka:
            world = World(kafka, server, services, tmp_path, seed=seed, **options)
            async with world.supervised():
                yield world

    return make
