"""How far apart the texts of two periods are, by their embeddings, which Kafka keeps for a day."""

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors.digests import digests
from driftline.detectors.effects import Effects, Texts, compare
from driftline.schemas.codec import embeddings_in
from driftline.schemas.errors import PermanentError
from driftline.schemas.ids import joined
from driftline.schemas.results import Embedding
from driftline.streams.baselines.collect import embeddings_of
from driftline.streams.monitor.drift import COMPONENTS
from driftline.streams.monitor.drift_texts import vectors
from driftline.streams.operate.log import Log
from driftline.streams.settings import Settings

MOST = 5_000  # embeddings of a period in memory: five times as many as are compared


class TextEffects(msgspec.Struct, frozen=True):
    component: str  # prompt or response
    effects: Effects | None
    note: str = ""  # why there are none


async def texts_of(settings: Settings, app: str, since: int, until: int) -> list[Embedding]:
    """Those of [since, until) that are still there, each once; of many, a part of the conversations, the same at every
    call.

    :raises RetryableError: Kafka does not answer.
    """
    known: dict[tuple[str, ...], tuple[int, Embedding]] = {}
    below = 1 << 64
    async with Log(settings.kafka) as log:
        async for _, records in await embeddings_of(log, settings, app, since):
            items = [item for record in records for item in embeddings_in(record.value).events]
            mine = [e for e in items if isinstance(e, Embedding) and e.app == app and since <= e.ts < until]
            for rank, embedding in zip(_conversations(mine).tolist(), mine, strict=True):
                if rank < below:
                    known.setdefault(embedding.key, (rank, embedding))
            while len(known) > MOST:
                below //= 2
                known = {key: (rank, e) for key, (rank, e) in known.items() if rank < below}
    return [embedding for _, embedding in known.values()]


def _conversations(embeddings: Iterable[Embedding]) -> NDArray[np.uint64]:
    """Digests; a text without a conversation is one by itself."""
    return digests(joined(e.conversation_id) if e.conversation_id else joined("", *e.key) for e in embeddings)


def compare_texts(current: Iterable[Embedding], reference: Iterable[Embedding]) -> list[TextEffects]:
    """:raises PermanentError: the periods have different embedding models."""
    current, reference = list(current), list(reference)
    models = {embedding.embed_model for embedding in (*current, *reference)}
    if len(models) > 1:
        raise PermanentError(f"the periods have embeddings of different models, which can't be compared: {models}")
    found = []
    for component in COMPONENTS:
        try:
            effects = compare(_texts(current, component), _texts(reference, component))
        except ValueError as error:
            found.append(TextEffects(component, None, str(error)))
        else:
            found.append(TextEffects(component, effects))
    return found


def _texts(embeddings: Iterable[Embedding], component: str) -> Texts:
    mine = [e for e in embeddings if getattr(e, component) is not None]
    return Texts(vectors(mine, component), _conversations(mine))
