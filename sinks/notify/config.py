"""Who is told: any of PagerDuty, Slack, webhooks and the log."""

from collections import Counter
from typing import Self

from pydantic import ConfigDict, model_validator

from driftline.schemas.config import Config
from driftline.sinks.notify.pagerduty import PagerDutyConfig
from driftline.sinks.notify.slack import SlackConfig
from driftline.sinks.notify.webhook import WebhookConfig


class NotifyConfig(Config):
    model_config = ConfigDict(hide_input_in_errors=True)  # what stands under a mistyped key may be a secret

    pagerduty: PagerDutyConfig | None = None
    slack: SlackConfig | None = None
    webhooks: tuple[WebhookConfig, ...] = ()
    dry_run: bool = False  # log what would be sent and send nothing: for trying out rules, and for demos
    log: bool = True  # a first start without any settings shows what would have been sent

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        counts = Counter(["pagerduty", "slack", "log", *(webhook.name for webhook in self.webhooks)])
        taken = [name for name, count in counts.items() if count > 1]
        if taken:
            raise ValueError(f"webhooks: the name {taken[0]!r} is taken: give each webhook a name of its own")
        return self
