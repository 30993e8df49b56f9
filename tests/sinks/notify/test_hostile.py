"""What strangers wrote reaches people as text: nobody is mentioned, no link is made, no line is forged."""

import json
import re

import pytest

from driftline.schemas.codec import encode
from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal
from driftline.sinks.notify import log, pagerduty, slack, webhook
from driftline.sinks.notify.text import length
from tests.hostile import TEXTS, obeyed
from tests.hostile_events import TS, filled
from tests.sinks.notify.receivers import SlackReceiver

KINDS = (Alert, RollbackSignal, BreakerSignal)
TIMES = dict.fromkeys(("ts", "since", "fired_at", "resolved_at", "decided_at", "at"), TS)
SENT = {name: text for name, text in TEXTS.items() if name != "surrogates"}  # no event that was taken holds one
ESCAPES = re.compile(r"&(amp|lt|gt);")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", SENT.values(), ids=SENT)
def test_text_of_others_is_text(kind: type, text: str) -> None:
    notice = filled(kind, text, **TIMES, **({"state": "open"} if kind is BreakerSignal else {}))

    message = slack.render(notice)
    shown = SlackReceiver.texts(message)
    assert not set("<>&") & set(ESCAPES.sub("", "".join(shown[1:])))
    assert obeyed("".join(shown), keep="\n\t") == ""
    assert sum(map(length, shown)) < 13_200
    json.dumps(message).encode("ascii")

    event = pagerduty.render(notice, {})
    assert event is not None
    assert len(pagerduty.encode(event, "k" * 32)) <= pagerduty.EVENT_BYTES
    assert obeyed("".join(map(str, event["payload"].values()))) == ""

    line = log.render(notice)
    assert len(line.splitlines()) == 1
    assert obeyed(line) == ""
    assert json.loads(encode(webhook.render(notice, "/d")))["data"]["app"] == notice.app
