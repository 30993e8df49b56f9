"""Monthly budgets of money, per app: where the month will end, and whether it goes much too fast."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from driftline.detectors.base import Measurement, State
from driftline.detectors.burn import DAY, PAIRS, Burn, Pair
from driftline.schemas.clock import utc
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.ids import stable_id
from driftline.streams.monitor.alerts import Wording
from driftline.streams.monitor.rules import texts
from driftline.streams.monitor.rules.config import CostBudgetConfig, match
from driftline.streams.monitor.rules.part import Began, Change, Ended
from driftline.streams.monitor.rules.reference import DAYS, HOUR
from driftline.streams.monitor.rules.spending import Spendings
from driftline.streams.monitor.watch import Reading, Stream
from driftline.streams.monitor.windows import NANO, Closed

MAX_BUDGETS = 1_000  # budget x app, of one partition: 2 kB each in its state
KNOWN_S = DAY  # of spending, before the rest of the month is guessed from it
BURN = "cost_burn"


class MoneyObjective:
    """Money that goes several times as fast as the budget allows. A burn of 1 is what the projection is for."""

    pairs: Sequence[Pair] = tuple(pair for pair in PAIRS if pair.factor > 1)

    def __init__(self, budget: CostBudgetConfig, spendings: Spendings) -> None:
        self._budget, self._spendings = budget, spendings
        self.name, self.app = budget.name, budget.app
        self.fingerprint = f"{budget.app} {budget.monthly_usd}"

    def spent(self, window: Closed) -> tuple[int, int]:
        return window.counts["nanousd"], window.counts["priced"]

    def allowed(self, total: int, seconds: float) -> float:
        return self._budget.monthly_usd * NANO * seconds / (30 * DAY)

    def certain(self, long: Burn) -> bool:
        return True  # money is counted, not sampled

    def measure(self, pair: Pair, long: Burn, short: Burn) -> Measurement:
        return Measurement(
            threshold=pair.factor * long.allowed / NANO,
            value=long.spent / NANO,
            baseline=long.allowed / NANO,
            effect=long.spent / long.allowed - 1,
            n_events=long.total,
            guarantee="none",
            note=texts.burning(pair, long, short),
        )

    def wording(self, pair: Pair, app: str, long: Burn, short: Burn, since: int) -> Wording:
        return texts.cost_burn(self._budget, pair, app, long, since, self._spendings.why(app, since))


@dataclass
class _Account:
    """What an app has spent of one budget. Nano-dollars, exact."""

    first: int  # start of the first window, microseconds
    month: int  # years x 12 + months
    spent: int = 0  # in the month
    requests: int = 0  # in the month, with a price
    unpriced: int = 0  # in the month, without
    hours: dict[int, int] = field(default_factory=dict)  # of the last seven days
    firing: list[float] = field(default_factory=list)  # levels
    touched: bool = True


class Budgets:
    rule = "cost_budget"

    def __init__(
        self, budgets: Sequence[CostBudgetConfig], size_s: int, spendings: Spendings, state: State | None = None
    ) -> None:
        self._budgets = {budget.name: budget for budget in budgets}
        self._spendings = spendings
        self._size = size_s * MICROSECONDS
        state = state or {}
        now, then = self._fingerprints(), state.get("budgets", {})
        self._accounts: dict[tuple[str, str], _Account] = {
            (name, app): _Account(**{**account, "hours": dict(account["hours"])})
            for name, app, account in state.get("accounts", [])
            if name in now and now[name] == then.get(name)
        }
        self._now: int = state.get("now", 0)  # until which spending is known
        self.over_limit: int = state.get("over_limit", 0)

    def snapshot(self) -> State:
        return {
            "budgets": self._fingerprints(),
            "accounts": [
                [*key, {**asdict(account), "hours": [list(hour) for hour in account.hours.items()]}]
                for key, account in sorted(self._accounts.items())
            ],
            "now": self._now,
            "over_limit": self.over_limit,
        }

    def _fingerprints(self) -> dict[str, str]:
        return {name: stable_id(budget.model_dump_json(exclude={"burn"})) for name, budget in self._budgets.items()}

    def correct(self, windows: Sequence[Closed]) -> None:
        """Late spending of windows that had closed is spending all the same, as long as their month lasts."""
        for window in windows:
            for name in self._budgets:
                if (account := self._accounts.get((name, window.app))) is not None:
                    self._spend(account, window)

    def _spend(self, account: _Account, window: Closed) -> None:
        if month_of(window.start) == account.month:
            account.spent += window.new_nanousd
            if not window.corrected:
                account.requests += window.counts["priced"]
                account.unpriced += window.counts["requests"] - window.counts["priced"]
        if window.new_nanousd:
            hour = window.start // HOUR
            account.hours[hour] = account.hours.get(hour, 0) + window.new_nanousd
        account.touched = True

    def close(self, start: int, windows: Sequence[Closed]) -> list[Change]:
        self._now = start + self._size
        changes: list[Change] = []
        for (name, app), account in sorted(self._accounts.items()):
            for hour in [hour for hour in account.hours if hour < self._oldest]:
                del account.hours[hour]
            if account.month != month_of(start):
                changes += self._new_month(self._budgets[name], app, account, start)
        for window in windows:
            for name, budget in self._budgets.items():
                if match(budget.app, window.app) and (own := self._own(name, window.app, start)) is not None:
                    self._spend(own, window)
        for (name, app), account in sorted(self._accounts.items()):
            if account.touched or account.firing:
                changes += self._judge(self._budgets[name], app, account)
        return changes

    def _own(self, name: str, app: str, start: int) -> _Account | None:
        account = self._accounts.get((name, app))
        if account is None:
            if len(self._accounts) >= MAX_BUDGETS:
                self.over_limit += 1
                return None
            account = self._accounts[name, app] = _Account(first=start, month=month_of(start))
        return account

    def _new_month(self, budget: CostBudgetConfig, app: str, account: _Account, start: int) -> list[Change]:
        at = start + 1  # the month's last window may have told something at its end
        ended = [
            Ended(_stream(budget, app, level), at, self._measure(budget, level, account), "a new month began")
            for level in account.firing
        ]
        account.month, account.spent, account.requests, account.unpriced = month_of(start), 0, 0, 0
        account.firing = []
        if not account.hours:
            del self._accounts[budget.name, app]
        return list(ended)

    def _judge(self, budget: CostBudgetConfig, app: str, account: _Account) -> list[Change]:
        projected = self._projected(account)
        end = max(account.spent / NANO, projected or 0.0)
        changes: list[Change] = []
        for level in budget.levels:
            limit, stream = level * budget.monthly_usd, _stream(budget, app, level)
            if level not in account.firing and end >= limit:
                account.firing.append(level)
                since = max(month_start(account.month), account.first)
                why = self._spendings.why(app, self._now - HOUR)
                words = texts.cost_budget(budget, level, app, account.spent / NANO, projected, account.unpriced, why)
                changes.append(Began(stream, self._now, since, self._measure(budget, level, account), words))
            elif level in account.firing and end < budget.clear * limit:
                account.firing.remove(level)
                reason = f"the month will end below {budget.clear:.0%} of this level"
                changes.append(Ended(stream, self._now, self._measure(budget, level, account), reason))
        return changes

    @property
    def _oldest(self) -> int:
        """The first hour of the last seven days, the one that is now counted as whole."""
        return (self._now - 1) // HOUR - DAYS * 24 + 1

    def _projected(self, account: _Account) -> float | None:
        """Dollars at the month's end, if it goes on as in the last seven days: whole weeks, so that weekends count as
        they are. None: less than a day is known."""
        known = self._now - max(account.first, self._oldest * HOUR)
        if known < KNOWN_S * MICROSECONDS:
            return None
        rest = max(0, month_start(account.month + 1) - self._now)
        return (account.spent + sum(account.hours.values()) * rest / known) / NANO

    def _measure(self, budget: CostBudgetConfig, level: float, account: _Account) -> Measurement:
        projected = self._projected(account)
        value = account.spent / NANO if projected is None else projected
        note = "spent" if projected is None else "projected for the month's end"
        return Measurement(
            threshold=level * budget.monthly_usd,
            value=value,
            baseline=budget.monthly_usd,
            effect=value / budget.monthly_usd - 1,
            n_events=account.requests,
            n_not_scored=account.unpriced,
            guarantee="none",
            note=note,
        )

    def firing(self) -> set[Stream]:
        return {
            _stream(self._budgets[name], app, level)
            for (name, app), account in self._accounts.items()
            for level in account.firing
        }

    def forget(self, app: str, release: str, at: int) -> None:
        """Budgets are the app's."""

    def readings(self) -> list[Reading]:
        readings = []
        for (name, app), account in sorted(self._accounts.items()):
            if account.touched or account.firing:
                account.touched = False
                for level in self._budgets[name].levels:
                    measurement = self._measure(self._budgets[name], level, account)
                    stream = _stream(self._budgets[name], app, level)
                    readings.append(Reading(stream, level in account.firing, measurement, "", ""))
        return readings


def _stream(budget: CostBudgetConfig, app: str, level: float) -> Stream:
    return Stream(app, "", f"{budget.name} {level:.0%}")


def month_of(micros: int) -> int:
    at = utc(micros)
    return at.year * 12 + at.month - 1


def month_start(month: int) -> int:
    return round(datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()) * MICROSECONDS
