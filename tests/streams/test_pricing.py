import random
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np
import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from genai_prices.types import ClauseEquals, ConditionalPrice, ModelInfo, ModelPrice, Provider, Tier, TieredPrices
from hypothesis import given
from hypothesis import strategies as st

from driftline.schemas.events import Trace
from driftline.streams import pricing
from driftline.streams.model_index import ModelIndex
from driftline.streams.monitor.columns import trace_columns
from driftline.streams.monitor.config import LimitsConfig
from driftline.streams.monitor.names import ErrorTypes, Names, TraceSeries
from driftline.streams.pricing import UNKNOWN, Pricer

T0 = 1_790_000_000_000_000
CACHED = {"cache_read_input_tokens": 500, "cache_write_input_tokens": 200}


MODELS = [
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("google", "gemini-2.5-pro"),  # tiers
    ("deepseek", "deepseek-chat"),  # by the hour
    ("openai", "text-embedding-3-small"),  # nothing for output
    ("perplexity", "sonar"),  # and for each request
    ("anthropic", "claude-3-5-sonnet-20241022"),
    ("nobody", "unheard-of"),
]
COUNT = st.none() | st.integers(0, 3_000) | st.sampled_from([200_001, 2**24, 2**40])
CALLS = st.lists(
    st.builds(
        lambda model, ts, **fields: trace(provider=model[0], request_model=model[1], ts=T0 + ts, **fields),
        st.sampled_from(MODELS),
        st.integers(0, 86_400_000_000),
        input_tokens=COUNT,
        output_tokens=COUNT,
        cache_read_input_tokens=COUNT,
        cache_write_input_tokens=COUNT,
        reasoning_output_tokens=COUNT,
        cost_usd=st.none() | st.floats(0, 1e6),
    ),
    min_size=1,
    max_size=20,
)


@given(CALLS)
def test_many_at_once_cost_what_each_costs(pricer: Pricer, traces: list[Trace]) -> None:
    ts = np.array([t.ts for t in traces])
    columns, _ = trace_columns(
        traces, ts, ts.astype(np.uint64), Names(TraceSeries), ErrorTypes(LimitsConfig()), pricer.costs_nanousd
    )
    each = [pricer.cost_nanousd(t) for t in traces]
    assert columns.nanousd.tolist() == [UNKNOWN if cost is None else cost for cost in each]


@pytest.fixture(scope="module")
def pricer() -> Pricer:
    return Pricer()


def trace(**fields: Any) -> Trace:
    values: dict[str, Any] = {
        "app": "a",
        "ts": T0,
        "trace_id": "t",
        "provider": "openai",
        "request_model": "gpt-4o",
        "input_tokens": 1000,
        "output_tokens": 100,
    }
    return Trace(**{**values, **fields})


def usage(source: Trace) -> Usage:
    return Usage(
        input_tokens=source.input_tokens,
        output_tokens=source.output_tokens,
        cache_read_tokens=source.cache_read_input_tokens,
        cache_write_tokens=source.cache_write_input_tokens,
        output_reasoning_tokens=source.reasoning_output_tokens,
    )


def nano(dollars: Decimal) -> int:
    return int((dollars * 10**9).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@pytest.mark.parametrize(
    ("provider", "model", "counts", "dollars"),
    [
        ("openai", "gpt-4o", {}, "0.0035"),
        ("openai", "gpt-4o", {"cache_read_input_tokens": 600}, "0.00275"),
        ("openai", "gpt-4o-mini-2024-07-18", {"input_tokens": 1, "output_tokens": 1}, "0.00000075"),
        ("anthropic", "claude-3-5-sonnet-20241022", CACHED, "0.0033"),
        ("google", "gemini-2.5-pro", {"input_tokens": 200_000}, "0.251"),
        ("google", "gemini-2.5-pro", {"input_tokens": 200_001}, "0.5015025"),
        ("openai", "text-embedding-3-small", {"output_tokens": None}, "0.00002"),
    ],
)
def test_known_models(pricer: Pricer, provider: str, model: str, counts: dict[str, int | None], dollars: str) -> None:
    source = trace(provider=provider, request_model=model, **counts)
    when = datetime.fromtimestamp(source.ts / 1e6, UTC)
    golden = calc_price(usage(source), model, provider_id=provider, genai_request_timestamp=when).total_price
    assert golden == Decimal(dollars)
    assert pricer.cost_nanousd(source) == nano(golden)
    assert pricer.cost_usd(source) == float(golden)


def test_every_model_of_the_table_costs_what_genai_prices_says(pricer: Pricer) -> None:
    rng = random.Random(7)
    priced = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            inputs, outputs = rng.choice([0, 5, 3_000, 190_000, 300_000, 1_100_000]), rng.choice([0, 1, 777])
            source = trace(
                ts=T0 + rng.randrange(-(10**14), 10**13),
                provider=provider.id,
                request_model=model.id,
                input_tokens=inputs,
                output_tokens=outputs,
                cache_read_input_tokens=rng.choice([None, 0, inputs // 3]),
                cache_write_input_tokens=rng.choice([None, 0, inputs // 5]),
                reasoning_output_tokens=rng.choice([None, outputs // 2]),
            )
            cost = pricer.cost_nanousd(source)
            if cost is not None:
                when = datetime.fromtimestamp(source.ts / 1e6, UTC)
                golden = calc_price(usage(source), model.id, provider_id=provider.id, genai_request_timestamp=when)
                assert cost == nano(golden.total_price), (provider.id, model.id, source)
                priced += 1
    assert priced > 1_000


@pytest.mark.parametrize(
    "fields",
    [
        {"request_model": "our-own-llm"},
        {"provider": "vllm"},
        {"request_model": ""},
        {"input_tokens": None},
        {"output_tokens": None},
        {"cache_read_input_tokens": 600, "cache_write_input_tokens": 600},
        {"reasoning_output_tokens": 101},  # of 100 output tokens
        {"request_model": "gpt-4o-mini", "cache_read_input_tokens": 1001},
        {"request_model": "text-embedding-3-small", "output_tokens": None, "reasoning_output_tokens": 1},
        {
            "provider": "google",
            "request_model": "gemini-2.5-flash",  # reports thoughts beside the output
            "input_tokens": 13,
            "output_tokens": 4,
            "reasoning_output_tokens": 505,
        },
        {"request_model": "whisper-1"},
        {"request_model": "text-embedding-3-small"},  # has output tokens, and no price for them
    ],
)
def test_what_is_not_known_has_no_price(pricer: Pricer, fields: dict[str, Any]) -> None:
    assert pricer.cost_nanousd(trace(**fields)) is None
    assert pricer.cost_usd(trace(**fields)) is None


def test_what_the_app_reports_wins(pricer: Pricer) -> None:
    assert pricer.cost_usd(trace(cost_usd=0.1)) == 0.1
    assert pricer.cost_nanousd(trace(cost_usd=0.1)) == 100_000_000
    assert pricer.cost_nanousd(trace(cost_usd=0.0)) == 0
    assert pricer.cost_nanousd(trace(cost_usd=1e6, input_tokens=None)) == 10**15
    assert pricer.cost_nanousd(trace(request_model="our-own-llm", cost_usd=2.5e-9)) == 2


def test_the_model_that_answered_is_priced(pricer: Pricer) -> None:
    mini = pricer.cost_nanousd(trace(request_model="gpt-4o-mini"))
    assert mini != pricer.cost_nanousd(trace(request_model="gpt-4o"))
    assert pricer.cost_nanousd(trace(request_model="gpt-4o", response_model="gpt-4o-mini-2024-07-18")) == mini


@pytest.mark.parametrize(
    ("request_model", "response_model", "priced"),
    [
        ("gpt-4o", "", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4o", "gpt-4o-2099-01-01", True),
        ("gpt-4o", "GPT-4o", True),
        ("gpt-4o", "openai/gpt-4o-20990101", True),
        ("gpt-4o", "llama3", False),
        ("gpt-4o", "deployment-7", False),
        ("gpt-4o", "our-gpt", False),
        ("o1", "o1-our-own", False),
        ("", "llama3", False),
    ],
)
def test_an_answer_of_a_model_that_nobody_knows_has_no_price_of_another(
    pricer: Pricer, request_model: str, response_model: str, priced: bool
) -> None:
    cost = pricer.cost_nanousd(trace(request_model=request_model, response_model=response_model))
    assert cost == (pricer.cost_nanousd(trace(request_model=request_model)) if priced else None)


@pytest.mark.parametrize(
    "provider", ["x_ai", "gcp.vertex_ai", "gcp.gemini", "gcp.gen_ai", "aws.bedrock", "azure.ai.openai", "mistral_ai"]
)
def test_names_of_providers_from_opentelemetry_are_known(provider: str) -> None:
    models = {
        "x_ai": "grok-4",
        "aws.bedrock": "anthropic.claude-3-5-sonnet-20241022-v2:0",
        "azure.ai.openai": "gpt-4o",
        "mistral_ai": "mistral-large-latest",
    }
    source = trace(provider=provider, request_model=models.get(provider, "gemini-2.5-flash"))
    assert Pricer().cost_nanousd(source)


def test_without_a_provider_the_model_names_it(pricer: Pricer) -> None:
    assert pricer.cost_nanousd(trace(provider="")) == pricer.cost_nanousd(trace())


def table(prices: ModelPrice | list[ConditionalPrice]) -> DataSnapshot:
    model = ModelInfo(id="m", match=ClauseEquals(equals="m"), prices=prices)
    provider = Provider(id="p", name="p", api_pattern="", pricing_urls=[], models=[model])
    return DataSnapshot(providers=[provider], from_auto_update=False)


def priced(monkeypatch: pytest.MonkeyPatch, prices: ModelPrice, **fields: Any) -> int | None:
    monkeypatch.setattr(pricing, "get_snapshot", lambda: table(prices))
    return Pricer().cost_nanousd(trace(provider="p", request_model="m", **fields))


@pytest.mark.parametrize(("tokens", "nanos"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4), (9, 4)])
def test_rounds_half_to_even(monkeypatch: pytest.MonkeyPatch, tokens: int, nanos: int) -> None:
    half = ModelPrice(input_mtok=Decimal("0.0005"), output_mtok=Decimal(0))
    assert priced(monkeypatch, half, input_tokens=tokens) == nanos


def test_a_free_model_costs_nothing_which_is_not_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert priced(monkeypatch, ModelPrice(input_mtok=Decimal(0), output_mtok=Decimal(0))) == 0
    assert priced(monkeypatch, ModelPrice()) is None


def test_prices_per_request_reasoning_and_several_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = ModelPrice(
        input_mtok=TieredPrices(base=Decimal(1), tiers=[Tier(100, Decimal(2)), Tier(200, Decimal(4))]),
        output_mtok=TieredPrices(base=Decimal(10), tiers=[Tier(150, Decimal(20))]),
        output_reasoning_mtok=Decimal("0.5"),
        requests_kcount=Decimal(5),
    )
    for inputs in (0, 100, 101, 150, 151, 200, 201):
        source = trace(input_tokens=inputs, output_tokens=10, reasoning_output_tokens=4)
        golden = prices.calc_price(usage(source))["total_price"]
        found = priced(monkeypatch, prices, input_tokens=inputs, output_tokens=10, reasoning_output_tokens=4)
        assert found == nano(golden), inputs


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "MAX_REMEMBERED", 5)
    pricer = Pricer()
    for n in range(12):
        assert pricer.cost_nanousd(trace(request_model=f"unknown-{n}")) is None
        assert pricer.cost_nanousd(trace()) == 3_500_000
    assert pricer._model.cache_info().currsize <= 5


def test_the_version_names_the_table(pricer: Pricer) -> None:
    assert pricer.version.startswith("genai-prices/0.")


MODEL_NAMES = sorted({model.id for provider in get_snapshot().providers for model in provider.models})
PROVIDER_NAMES = [
    "",
    "LiteLLM",
    "x-ai",
    "nobody",
    "Anthropic ",
    *(provider.id for provider in get_snapshot().providers),
]


@given(
    st.sampled_from(MODEL_NAMES) | st.text(max_size=10),
    st.sampled_from(["", "-20251211", "-20250230", "-2025-01-01", ":free", "-latest", "x", "/y"]),
    st.sampled_from(["", "openai/", "models/", "us.anthropic.", "GPT-"]),
    st.sampled_from(PROVIDER_NAMES),
)
def test_names_mean_what_genai_prices_says(name: str, end: str, start: str, provider: str) -> None:
    whole = start + name + end
    try:
        _, expected = get_snapshot().find_provider_model(whole, None, provider or None, None)
    except LookupError:
        expected = None
    assert INDEX.find(whole, provider) is expected


INDEX = ModelIndex(get_snapshot().providers)


def test_every_model_is_found_by_its_id() -> None:
    fresh = DataSnapshot(providers=get_snapshot().providers, from_auto_update=False)
    for provider in fresh.providers:
        for model in provider.models:
            expected = provider.find_model(model.id, all_providers=fresh.providers)
            assert INDEX.find(model.id, provider.id) is expected


def test_wild_names_push_out_the_oldest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "MAX_REMEMBERED", 50)
    pricer = Pricer()
    looked = []
    monkeypatch.setattr(pricer._index, "find", lambda name, provider: looked.append(name))
    for n in range(1_000):
        pricer.cost_nanousd(trace(request_model=f"unknown-{n}"))
        pricer.cost_nanousd(trace(request_model="busy"))
    assert looked.count("busy") == 1
    assert len(looked) == 1_001
