"""What a call cost, from its token counts and the genai-prices table that is installed. No network, no floats in sums.

A model's prices become integer rates once; after that a price is one sum of products, about 300 times as fast as
`genai_prices.calc_price` and equal to it, rounded half to even to whole nano-dollars. Prices that depend on the
size of the input (tiers), on the day or on the hour are followed.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple, Protocol

import genai_prices
import numpy as np
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices
from numpy.typing import NDArray

from driftline.schemas.events import MICROSECONDS, Trace
from driftline.streams.model_index import ModelIndex

NANO = 1_000_000_000
MAX_REMEMBERED = 10_000  # names of models, and minutes of a model's changing price: wild ones push out the oldest
MOST_NANOUSD = 10**6 * NANO  # of one call: as much as an app may report; counts that cost more are none
UNKNOWN = -1  # in place of a cost or count in arrays
MINUTE = 60 * MICROSECONDS  # prices change on a minute, if they change with time at all

# OpenTelemetry's names of providers that genai-prices knows under another.
PROVIDERS = {"x_ai": "x-ai", "gcp.gen_ai": "google", "azure.ai.inference": "azure"}


class _Rates(NamedTuple):
    """Integers; `scale` of them are one nano-dollar. What differs from the common rate is held as the difference."""

    scale: int
    request: int
    input: int
    output: int | None  # None: the model has no price for output tokens
    cache_read: int
    cache_write: int
    reasoning: int


class _Tariff(NamedTuple):
    starts: list[int]  # input tokens above which the next rates hold, for every token of the call
    rates: list[_Rates]


class _Model(NamedTuple):
    info: ModelInfo
    always: _Tariff | None  # None: no price for tokens, or one that changes with time
    by_minute: dict[int, _Tariff | None] | None


class Tokens(NamedTuple):
    """Columns of counts; `UNKNOWN` where a trace has none."""

    input: NDArray[np.int64]
    output: NDArray[np.int64]
    cache_read: NDArray[np.int64]
    cache_write: NDArray[np.int64]
    reasoning: NDArray[np.int64]


class Series(Protocol):
    """The names that decide on rates."""

    @property
    def provider(self) -> str: ...
    @property
    def request_model(self) -> str: ...
    @property
    def response_model(self) -> str: ...


class Pricer:
    """Prices traces. A cost that the app reports wins; None where model or counts are unknown: never a guess."""

    def __init__(self) -> None:
        self.version = f"genai-prices/{genai_prices.__version__}"
        self._index = ModelIndex(get_snapshot().providers)
        self._model = lru_cache(MAX_REMEMBERED)(self._find_model)  # by provider, response model, request model
        self._flat_rates = lru_cache(MAX_REMEMBERED)(self._find_flat_rates)

    def cost_usd(self, trace: Trace) -> float | None:
        if trace.cost_usd is not None:
            return trace.cost_usd
        nano = self.cost_nanousd(trace)
        return None if nano is None else nano / NANO

    def cost_nanousd(self, trace: Trace) -> int | None:
        """Whole nano-dollars, rounded half to even, so that sums are exact."""
        if trace.cost_usd is not None:
            return round(trace.cost_usd * NANO)
        if trace.input_tokens is None:
            return None
        model = self._model(trace.provider, trace.response_model, trace.request_model)
        if model is None:
            return None
        tariff = model.always if model.by_minute is None else self._tariff_at(model, model.by_minute, trace.ts)
        return None if tariff is None else _cost(tariff, trace, trace.input_tokens)

    def costs_nanousd(
        self,
        traces: Sequence[Trace],
        series: NDArray[np.int64],
        names: Sequence[Series],
        tokens: Tokens,
        reported: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """`cost_nanousd` of many traces at once; `UNKNOWN` for None. series: [n] the index of each trace's names.
        reported: [n] its cost_usd; NaN where it has none."""
        used = np.flatnonzero(np.bincount(series, minlength=len(names)))
        table = np.zeros((len(_Rates._fields), len(names)), np.int64)
        for i in used.tolist():
            table[:, i] = self._flat_rates(names[i].provider, names[i].response_model, names[i].request_model)
        scale, request, input_, output, cache_read, cache_write, reasoning = table[:, series]
        inputs, outputs, *more = tokens
        reads, writes, thoughts = (np.maximum(count, 0) for count in more)
        cost = request + input_ * inputs + output * outputs
        cost += cache_read * reads + cache_write * writes + reasoning * thoughts
        whole, rest = np.divmod(cost, np.maximum(scale, 1))
        whole += 2 * rest + (whole & 1) > scale
        priced = (scale > 0) & (inputs >= 0) & (outputs >= 0)
        priced &= (reads + writes <= inputs) & (thoughts <= outputs)
        prices = np.where(priced, whole, UNKNOWN)
        stated = ~np.isnan(reported)
        prices[stated] = np.rint(reported[stated] * NANO)
        large = np.maximum.reduce(tokens) >= _MANY_TOKENS
        for i in np.flatnonzero(((scale == _NOT_FLAT) | large) & ~stated).tolist():
            price = self.cost_nanousd(traces[i])
            prices[i] = UNKNOWN if price is None else price
        return prices

    def _find_flat_rates(self, provider: str, response: str, request: str) -> tuple[int, ...]:
        """The rates of a model that has one for each kind of token, small enough for sums in 64 bits. Else `scale` is
        `_NOT_FLAT`, or 0 where no call can be priced."""
        model = self._model(provider, response, request)
        if model is None or (model.by_minute is None and model.always is None):
            rates: tuple[int | None, ...] = (0,) * len(_Rates._fields)
        elif model.always is not None and not model.always.starts:
            rates = model.always.rates[0]
        else:
            rates = (None,)
        whole = tuple(rate for rate in rates if rate is not None and abs(rate) < _LARGE_RATE)
        return whole if len(whole) == len(_Rates._fields) else (_NOT_FLAT,) + (0,) * (len(_Rates._fields) - 1)

    def _find_model(self, provider: str, response: str, request: str) -> _Model | None:
        """Of the model that answered. The one that was asked for tells its price only where the answer says nothing
        else: by its own name, or with a date or version behind it."""
        provider = PROVIDERS.get(provider, provider)
        if response and (info := self._index.find(response, provider)):
            return _priced(info)
        if (
            request
            and (not response or _is_variant(response, request))
            and (info := self._index.find(request, provider))
        ):
            return _priced(info)
        return None

    def _tariff_at(self, model: _Model, by_minute: dict[int, _Tariff | None], ts: int) -> _Tariff | None:
        minute = ts // MINUTE
        if minute not in by_minute:
            if len(by_minute) >= MAX_REMEMBERED:
                by_minute.clear()
            by_minute[minute] = _tariff(model.info.get_prices(datetime.fromtimestamp(minute * 60, UTC)))
        return by_minute[minute]


_NOT_FLAT = -1
_MANY_TOKENS = 2**24
_LARGE_RATE = 2**36  # six products of a rate and of tokens stay below 2**63


def _priced(info: ModelInfo) -> _Model:
    return _Model(info, _tariff(info.prices), None) if isinstance(info.prices, ModelPrice) else _Model(info, None, {})


_VERSION = re.compile(r"[-@:_]?v?\d[\d.:_-]*|[-@:_]latest")


def _is_variant(response: str, request: str) -> bool:
    """Whether an answer of `response` is one of `request`: gpt-4o-2024-08-06 is of gpt-4o, gpt-4o-mini is not."""
    response, request = (name.lower().rpartition("/")[2] for name in (response, request))
    behind = response.removeprefix(request)
    return behind == "" or (behind != response and _VERSION.fullmatch(behind) is not None)


def _cost(tariff: _Tariff, trace: Trace, inputs: int) -> int | None:
    if (trace.reasoning_output_tokens or 0) > (trace.output_tokens or 0):
        return None  # counts that contradict each other: some providers report reasoning beside the output
    rates = tariff.rates[bisect_left(tariff.starts, inputs)] if tariff.starts else tariff.rates[0]
    cost = rates.request + rates.input * inputs
    cache_read, cache_write = trace.cache_read_input_tokens, trace.cache_write_input_tokens
    if cache_read or cache_write:
        read, write = cache_read or 0, cache_write or 0
        if read + write > inputs:  # so do these
            return None
        cost += rates.cache_read * read + rates.cache_write * write
    outputs = trace.output_tokens
    if rates.output is None:
        if outputs:
            return None
    elif outputs is None:
        return None
    else:
        cost += rates.output * outputs
        cost += rates.reasoning * (trace.reasoning_output_tokens or 0)
    whole, rest = divmod(cost, rates.scale)
    whole += 2 * rest + (whole & 1) > rates.scale
    return whole if whole <= MOST_NANOUSD else None


def _tariff(prices: ModelPrice) -> _Tariff | None:
    if prices.input_mtok is None:  # priced by hour, page or character: token counts say nothing
        return None
    tiered = [price for price in vars(prices).values() if isinstance(price, TieredPrices)]
    starts = sorted({tier.start for price in tiered for tier in price.tiers})
    return _Tariff(starts, [_rates(prices, inputs) for inputs in (0, *(start + 1 for start in starts))])


def _rates(prices: ModelPrice, inputs: int) -> _Rates:
    """The rates of a call with so many input tokens."""

    def price(key: str, per: int) -> Decimal | None:
        """Nano-dollars for one."""
        value = getattr(prices, key)
        if isinstance(value, TieredPrices):
            value = next((tier.price for tier in reversed(value.tiers) if inputs > tier.start), value.base)
        return None if value is None else value * NANO / per

    def beyond(price: Decimal | None, common: Decimal | None) -> Decimal:
        return Decimal(0) if price is None or common is None else price - common

    common, output = price("input_mtok", 10**6) or Decimal(0), price("output_mtok", 10**6)
    amounts = [
        price("requests_kcount", 10**3) or Decimal(0),
        common,
        output or Decimal(0),
        beyond(price("cache_read_mtok", 10**6), common),
        beyond(price("cache_write_mtok", 10**6), common),
        beyond(price("output_reasoning_mtok", 10**6), output),
    ]
    scale = 10 ** max(0, *(-int(amount.normalize().as_tuple().exponent) for amount in amounts))
    request, common_rate, output_rate, cache_read, cache_write, reasoning = (int(amount * scale) for amount in amounts)
    return _Rates(
        scale, request, common_rate, None if output is None else output_rate, cache_read, cache_write, reasoning
    )
