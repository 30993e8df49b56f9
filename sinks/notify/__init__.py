"""What goes out to people and machines: PagerDuty, Slack, webhooks and the log."""
