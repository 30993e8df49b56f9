"""Every request of the day, as far as it does not depend on what the control signals change: who asks what and when,
and the luck that each request will have. Drawn once from the seed."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from driftline.schemas.events import MICROSECONDS
from driftline.schemas.ids import unit_interval
from driftline.streams.demo.corpus import Corpus, Pair
from driftline.streams.demo.scenario import Scenario

USERS = 6_000
TENANTS = 40
TURNS = (0.28, 0.24, 0.20, 0.14, 0.09, 0.05)  # shares of conversations with 1, 2, … 6 questions
THINKING_S = 20.0  # mean pause between an answer and the next question
SPENDER = "user-acme-export"  # the customer of the cost spike
LONG_FACTOR = 30  # their prompts, in tokens
SPENDER_PROMPTS = 24  # different ones
SYSTEM_PROMPT_TOKENS = 180


class Luck(NamedTuple):
    """What chance decides of one request."""

    failure: float  # uniform; below the error rate the request fails
    timeout: float  # uniform; which error
    ttft: float  # standard normal
    speed: float  # standard normal


class Request(NamedTuple):
    ts: int  # when it completes
    number: int
    conversation_id: str
    user_id: str
    tenant: str
    pair: Pair
    misfit: Pair  # whose answer a broken prompt gives instead
    input_text: str
    input_tokens: int  # with the system prompt and the conversation so far
    luck: Luck


@dataclass(frozen=True)
class Plan:
    requests: list[Request]  # by time

    def between(self, began: int, ended: int) -> list[Request]:
        """began <= ts < ended."""
        return self.requests[self._index(began) : self._index(ended)]

    def count(self, began: int, ended: int) -> int:
        return self._index(ended) - self._index(began)

    def _index(self, ts: int) -> int:
        return bisect_left(self.requests, ts, key=lambda request: request.ts)


def make_plan(scenario: Scenario, corpus: Corpus, seed: int) -> Plan:
    rng = np.random.default_rng(seed)
    starts = _conversation_starts(scenario, rng)
    n = len(starts)
    turns = rng.choice(np.arange(1, len(TURNS) + 1), size=n, p=TURNS).tolist()
    users = rng.integers(USERS, size=n).tolist()
    spends = rng.random(n).tolist()
    total = sum(turns)
    pauses = (3 + rng.exponential(THINKING_S - 3, size=total)).tolist()
    picks = rng.random((2, total)).tolist()
    uniforms = rng.random((2, total)).tolist()
    normals = rng.standard_normal((2, total)).tolist()
    long_prompts = _long_prompts(corpus, rng)
    moved = [unit_interval(f"{seed}/topic", f"user-{user:04d}") for user in range(USERS)]

    drafts: list[Request] = []
    k = 0
    for i, start in enumerate(starts):
        spender = spends[i] < scenario.spender_share(start)
        user = SPENDER if spender else f"user-{users[i]:04d}"
        tenant = "acme" if spender else f"tenant-{users[i] % TENANTS:02d}"
        pool = _pool(scenario, corpus, start, moved[users[i]])
        ts, history = start, SYSTEM_PROMPT_TOKENS
        for turn in range(turns[i]):
            if turn:
                ts += round(pauses[k] * MICROSECONDS)
            pair = pool[int(picks[0][k] * len(pool))]
            text, tokens = pair.question, history + pair.question_tokens
            if spender:
                text, tokens = long_prompts[int(picks[0][k] * SPENDER_PROMPTS)], tokens * LONG_FACTOR
            if ts < scenario.end:
                drafts.append(
                    Request(
                        ts,
                        k,
                        f"conversation-{i:06d}",
                        user,
                        tenant,
                        pair,
                        pool[int(picks[1][k] * len(pool))],
                        text,
                        tokens,
                        Luck(uniforms[0][k], uniforms[1][k], normals[0][k], normals[1][k]),
                    )
                )
            history += pair.question_tokens + pair.answer_tokens
            k += 1
    drafts.sort()
    return Plan(drafts)


def _conversation_starts(scenario: Scenario, rng: np.random.Generator) -> list[int]:
    """A Poisson process whose rate follows the traffic, by thinning."""
    mean_turns = sum(share * (i + 1) for i, share in enumerate(TURNS))
    peak = 1.5 * scenario.rate / mean_turns / MICROSECONDS
    candidates = np.sort(rng.uniform(scenario.start, scenario.end, rng.poisson(peak * (scenario.end - scenario.start))))
    keep = rng.random(len(candidates))
    return [
        int(ts)
        for ts, luck in zip(candidates.tolist(), keep.tolist(), strict=True)
        if luck * peak * mean_turns * MICROSECONDS < scenario.traffic(int(ts))
    ]


def _pool(scenario: Scenario, corpus: Corpus, ts: int, moved: float) -> list[Pair]:
    """What a user's conversation is about; the same users move first, and come back last."""
    languages = scenario.language_share(ts)
    if moved < languages:
        return list(corpus.languages)
    if moved < languages + scenario.coding_share(ts):
        return list(corpus.coding)
    return list(corpus.everyday)


def _long_prompts(corpus: Corpus, rng: np.random.Generator) -> list[str]:
    """Questions with a pasted log under them, of about the length that is charged for."""
    order = rng.permutation(len(corpus.everyday)).tolist()
    lines = [corpus.everyday[i].answer for i in order]
    prompts = []
    for i in range(SPENDER_PROMPTS):
        log = "\n".join(f"[{j:04d}] {lines[(i * 97 + j) % len(lines)]}" for j in range(LONG_FACTOR * 12))
        prompts.append(f"{corpus.everyday[order[i]].question} Here is our log:\n{log}")
    return prompts
