"""The embed role killed again and again: each sampled text has the vectors of an undisturbed run."""

from typing import Any

import msgspec
import pytest

from driftline.schemas.codec import decode_embeddings
from driftline.schemas.events import Tick
from driftline.schemas.results import Embedding, EmbeddingEvent
from driftline.streams.embed.config import EmbedConfig, SampleConfig
from driftline.streams.embed.fold import embed_fold_factory
from driftline.streams.fold import FoldFactory, Output, Record
from driftline.streams.monitor.drift import drift_fold_factory
from tests.storms.conftest import Pipeline
from tests.storms.harness import PARTITIONS

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

RATE = 0.05
KILLS = 5


class Sent:
    """A record that an undisturbed run would have written."""

    def __init__(self, offset: int, value: bytes) -> None:
        self.offset, self.value, self.key = offset, value, None


async def test_embed_killed_again_and_again(pipeline: Pipeline) -> None:
    async with pipeline(seed=51, traces=20, settings={"DRIFTLINE_EMBED__SAMPLE__RATE": str(RATE)}) as world:
        _, _, embed = await world.started("monitor", "archive", "embed")
        async with world.traffic.flowing():
            for number in range(KILLS):
                await world.pause(3, 8)
                embed.kill()
                if number % 2:  # not only while it loads its model
                    await world.pause(1, 2)
                    await world.at_work(embed)
            await world.pause(3, 4)
        await world.settle()
        await world.stop()

        kafka = world.kafka
        events, written = await kafka.read(kafka.topics.events), await kafka.read(kafka.topics.embeddings)
        factory = embed_fold_factory(EmbedConfig(sample=SampleConfig(rate=RATE)), kafka.topics, 3600)
        undisturbed = {p: await folded(factory, p, of_partition(events, p)) for p in range(PARTITIONS)}
        embeddings = 0
        for partition in range(PARTITIONS):
            expected, _ = items([output.value for output in undisturbed[partition]])
            found, copies = items([record.value for record in of_partition(written, partition)])
            assert copies == len(found), "two copies of an embedding differ"
            assert found.keys() == expected.keys()
            assert found == expected
            embeddings += sum(isinstance(item, Embedding) for item in found.values())
        assert embeddings > 100

        drift = drift_fold_factory(world.monitor, world.detectors, kafka.topics)
        also: dict[str, set[bytes]] = {}
        for partition in range(PARTITIONS):
            outputs = await folded(drift, partition, of_partition(written, partition))
            quiet = [Sent(offset, output.value) for offset, output in enumerate(undisturbed[partition])]
            assert without_revision(outputs) == without_revision(await folded(drift, partition, quiet))
            for output in outputs:
                also.setdefault(output.topic, set()).add(output.value)
        truth = await world.check(also=also)
        drifts = sum(map(len, also.values()))
        world.report("kill -9 of embed", truth, embeddings=embeddings, written=len(written), drift_results=drifts)
        assert drifts > 0
        assert embed.killed == KILLS
        assert not embed.ended


async def folded(factory: FoldFactory, partition: int, records: list[Any]) -> list[Output]:
    log: list[Record] = records
    return await factory(partition, None).absorb(log)


def of_partition(records: list[Any], partition: int) -> list[Any]:
    return [record for record in records if record.partition == partition]


def items(values: list[bytes]) -> tuple[dict[Any, EmbeddingEvent], int]:
    """By key, and how many distinct ones there are."""
    found: dict[Any, EmbeddingEvent] = {}
    distinct = set()
    for value in values:
        for item in decode_embeddings(value):
            found[item.ts if isinstance(item, Tick) else (item.app, item.key)] = item
            distinct.add(msgspec.msgpack.encode(item))
    return found, len(distinct)


def without_revision(outputs: list[Output]) -> list[dict[str, Any]]:
    results = [msgspec.json.decode(output.value) for output in outputs]
    return [{name: value for name, value in result.items() if name != "revision"} for result in results]
