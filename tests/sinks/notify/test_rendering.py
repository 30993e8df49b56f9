"""What people and programs read."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from driftline.schemas.clock import ManualClock, SystemClock
from driftline.schemas.errors import ConfigError
from driftline.schemas.results import Alert
from driftline.sinks.notify import log, pagerduty, slack, webhook
from driftline.sinks.notify.base import Notice
from driftline.sinks.notify.build import open_notifiers, secrets_of
from driftline.sinks.notify.config import NotifyConfig
from driftline.sinks.notify.http import seconds
from driftline.sinks.notify.message import change
from driftline.sinks.notify.text import CUT, clip, lasting, length, number, percent
from tests.sinks.notify.receivers import PagerDutyReceiver, SlackReceiver
from tests.sinks.notify.samples import LONG, MINUTE, ODD, ORDINARY, TS, alert, breaker, resolved, rollback


def read(notice: Notice) -> str:
    return "\n".join(SlackReceiver.texts(slack.render(notice)))


def test_slack_says_what_moved_by_how_much_since_when_where_how_sure_and_what_to_do() -> None:
    text = read(alert())
    for part in (
        "🔴 Firing: error_rate of support-bot",
        "Errors of support-bot rose from 2.1 % to 8.4 %",
        "*Release*\nv2",
        "*Change*\n0.021 → 0.084, +300 %, between +180 % and +450 %",
        "*Since*\n2026-11-21 07:45:00 UTC",
        "*False alarms*\n1 per 30 days",
        "*What to do*\nRoll back v2.",
    ):
        assert part in text


def test_slack_tells_that_it_is_over_and_how_long_it_took() -> None:
    text = read(resolved())
    assert "✅ Resolved: error_rate of support-bot" in text
    assert "2026-11-21 10:30:00 UTC, after 2 h 30 min" in text
    assert "What to do" not in text


def test_slack_tells_a_rollback_with_its_evidence() -> None:
    text = read(rollback())
    for part in (
        "Roll back v2 of support-bot to v1",
        "errors +0.04, latency +312",
        "errors 12.3",
        "probability at most 0.001",
    ):
        assert part in text


@pytest.mark.parametrize("notice", [*ORDINARY.values(), *ODD.values()], ids=[*ORDINARY, *ODD])
def test_the_log_has_one_line(notice: Notice) -> None:
    line = log.render(notice)
    assert len(line.splitlines()) == 1
    assert length(line) <= log.LINE
    assert line.isprintable() or "\u200d" in line


async def test_the_log_warns_when_something_begins(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for notice in (alert(), resolved(), rollback(), breaker(), breaker(state="closed")):
        await log.LogNotifier().notify(notice)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING", "WARNING", "INFO"]


def test_what_is_not_known_is_not_mentioned() -> None:
    text = read(ODD["nothing-known"]) + log.render(ODD["nothing-known"])
    assert "None" not in text
    assert "nan" not in text.lower()
    assert "Change" not in text


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({}, ""),
        ({"value": 0.5}, "0.5"),
        ({"value": 0.5, "baseline": 0.25}, "0.25 → 0.5"),
        ({"effect": -0.004}, "-0.4 %"),
        ({"value": 2500.0, "baseline": 1234.5, "effect": 1.0251}, "1,234 → 2,500, +103 %"),
        ({"effect": 0.1, "effect_low": 0.05, "effect_high": 0.2}, "+10 %, between +5 % and +20 %"),
    ],
)
def test_change_says_as_much_as_is_known(known: dict[str, float], text: str) -> None:
    unknown = dict.fromkeys(("value", "baseline", "effect", "effect_low", "effect_high"))
    assert change(alert(**(unknown | known))) == text


def test_a_page_carries_severity_release_and_details() -> None:
    event = pagerduty.render(alert(severity="warning"), {"Runbook": "https://example.com/runbook"})
    assert event is not None
    assert event["payload"]["severity"] == "warning"
    assert event["payload"]["component"] == "v2"
    assert event["payload"]["timestamp"] == "2026-11-21T08:00:00.000Z"
    assert event["payload"]["custom_details"]["Action"] == "Roll back v2."
    assert event["links"] == [{"href": "https://example.com/runbook", "text": "Runbook"}]


def test_a_page_says_where_it_was_cut() -> None:
    event = pagerduty.render(alert(summary=LONG), {})
    assert event is not None
    assert event["payload"]["summary"].endswith(CUT)


def test_details_that_are_too_big_are_left_out_with_a_note() -> None:
    event = pagerduty.render(alert(description="ä" * 300_000), {})
    assert event is not None
    body = pagerduty.encode(event, PagerDutyReceiver.routing_key)
    assert len(body) < pagerduty.EVENT_BYTES
    assert "details were left out" in json.loads(body)["payload"]["custom_details"]["Note"]


def test_long_dedup_keys_stay_different_and_the_same_for_both_transitions() -> None:
    keys = [
        (pagerduty.render(notice, {}) or {})["dedup_key"]
        for notice in (
            alert(dedup_key="k" * 300),
            resolved(dedup_key="k" * 300),
            alert(dedup_key="k" * 301),
        )
    ]
    assert keys[0] == keys[1] != keys[2]
    assert max(map(length, keys)) <= pagerduty.DEDUP_KEY


def test_pagerduty_opens_anew_after_a_resolve_and_drops_a_resolve_of_nothing() -> None:
    """The receiver itself, which other tests rely on."""
    receiver = PagerDutyReceiver()

    def send(notice: Alert) -> None:
        receiver.take(pagerduty.encode(pagerduty.render(notice, {}) or {}, receiver.routing_key), {})

    send(resolved())
    assert len(receiver.dropped) == 1
    for notice in (alert(), resolved(), alert(), alert()):
        send(notice)
    assert [alert.status for alert in receiver.alerts] == ["resolved", "triggered"]


def test_a_half_open_breaker_pages_nobody() -> None:
    assert pagerduty.render(breaker(state="half_open"), {}) is None


@pytest.mark.parametrize(
    ("notice", "id_", "type_", "subject"),
    [
        (alert(), "a1/firing", "dev.driftline.alert.firing.v1", "v2/error_rate"),
        (resolved(component="tone"), "a1/resolved", "dev.driftline.alert.resolved.v1", "v2/error_rate/tone"),
        (rollback(), "r1", "dev.driftline.rollback.v1", "d1"),
        (breaker(model=""), "b1", "dev.driftline.breaker.open.v1", "openai"),
    ],
)
def test_a_cloud_event_says_what_it_is(notice: Notice, id_: str, type_: str, subject: str) -> None:
    event = webhook.render(notice, "/driftline")
    assert (event.id, event.type, event.subject) == (id_, type_, subject)
    assert event.source == "/driftline/apps/support-bot"
    assert json.loads(bytes(event.data))["app"] == "support-bot"


def test_a_signature_is_that_of_rfc_4231() -> None:
    assert webhook.signature(b"what do ya want for nothing?", "Jefe") == (
        "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


@given(st.text(), st.integers(min_value=20, max_value=60))
def test_nothing_is_longer_than_allowed_or_cut_unseen(text: str, limit: int) -> None:
    cut = clip(text, limit)
    assert length(cut) <= limit
    assert cut == text or cut.endswith(CUT)
    cut.encode()


@given(st.text(alphabet="&<>a🔥 "), st.integers(min_value=20, max_value=60))
def test_escapes_are_whole(text: str, limit: int) -> None:
    escaped = slack.escape(text, limit)
    assert length(escaped) <= limit
    plain = escaped.replace("&amp;", "\0").replace("&lt;", "\1").replace("&gt;", "\2")
    assert not set("&<>") & set(plain)


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "0 s"),
        (45_000_000, "45 s"),
        (MINUTE, "1 min"),
        (125 * MINUTE, "2 h 5 min"),
        (76 * 60 * MINUTE, "3 d 4 h"),
        (-5, "0 s"),
    ],
)
def test_durations(microseconds: int, text: str) -> None:
    assert lasting(microseconds) == text


def test_numbers() -> None:
    assert [number(x) for x in (0.0123456, 4.5678, 1234.5, 0)] == ["0.0123", "4.57", "1,234", "0"]
    assert [percent(x) for x in (0.1, -0.5, 0.0)] == ["+10 %", "-50 %", "+0 %"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("30", 30.0),
        ("-3", None),
        ("Sat, 21 Nov 2026 08:01:30 GMT", 90.0),
        ("Sat, 21 Nov 2026 07:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    assert seconds(header, None, ManualClock(TS)) == expected
    assert seconds(header, "no date", ManualClock(TS)) == expected


@pytest.mark.parametrize("ahead_s", [-86_400, 0, 86_400])
def test_a_date_to_retry_after_is_by_the_receivers_clock(ahead_s: int) -> None:
    clock = ManualClock(TS + ahead_s * 1_000_000)
    asked, date = "Sat, 21 Nov 2026 08:01:30 GMT", "Sat, 21 Nov 2026 08:01:00 GMT"
    assert seconds(asked, date, clock) == 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"slack": {"webhok_url": "SECRET"}},
        {"slack": {"webhook_url": ["SECRET"]}},
        {"pagerduty": {"routing_key": "SECRET"}},
        {"webhooks": [{"url": "SECRET"}, {"url": "SECRET"}]},
        {"webhooks": [{"url": "SECRET", "name": "slack"}]},
        {"webhooks": [{"url": "SECRET", "name": "a b"}]},
    ],
)
def test_wrong_settings_are_refused_without_showing_secrets(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        NotifyConfig.model_validate(wrong)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"slack": {"webhook_url": "ftp://SECRET"}}, "notify.slack.webhook_url"),
        ({"slack": {"webhook_url": "SECRET"}}, "notify.slack.webhook_url"),
        ({"webhooks": [{"url": "http://[SECRET", "name": "ci"}]}, "notify.webhooks.ci.url"),
        ({"webhooks": [{"url": "http://a:SECRET@b/", "headers": {"authorization": "x"}}]}, "notify.webhooks.webhook"),
    ],
)
async def test_an_unusable_url_stops_the_start(wrong: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        async with open_notifiers(NotifyConfig.model_validate(wrong), SystemClock()):
            pass
    assert "SECRET" not in str(caught.value)


def test_settings_show_no_secret() -> None:
    config = NotifyConfig.model_validate(
        {
            "pagerduty": {"routing_key": "SECRET".ljust(32, "x")},
            "slack": {"webhook_url": "https://hooks.slack.com/SECRET"},
            "webhooks": [
                {"url": "https://example.com/SECRET", "secret": "SECRET", "headers": {"Authorization": "SECRET"}}
            ],
        }
    )
    assert "SECRET" not in repr(config) + config.model_dump_json()


def test_what_is_secret_of_a_url() -> None:
    assert "/" not in secrets_of("https://example.com/")
    assert {"pa ss", "pa%20ss", "/a b?k=v"} <= set(secrets_of("https://u:pa%20ss@example.com/a%20b?k=v"))
