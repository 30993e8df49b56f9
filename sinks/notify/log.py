"""One line in the log for every transition, readable as it stands."""

import logging

from driftline.sinks.notify.base import Notice, phase
from driftline.sinks.notify.message import message
from driftline.sinks.notify.text import clip, one_line

LINE = 2_000  # a summary that does not fit a few lines of a terminal is not read

logger = logging.getLogger(__name__)


class LogNotifier:
    name = "log"

    async def notify(self, notice: Notice) -> None:
        level = logging.WARNING if phase(notice) == "begins" else logging.INFO
        logger.log(level, "%s", render(notice))


def render(notice: Notice) -> str:
    told = message(notice)
    facts = "; ".join(f"{label.lower()} {text}" for label, text in told.facts.items() if label not in {"App", "What"})
    ending = f" What to do: {told.action}" if told.action else ""
    return clip(one_line(f"{told.title} [{told.severity}] {told.summary} ({facts}).{ending}"), LINE)
