from pydantic import Field

from driftline.schemas.config import Config


class WindowConfig(Config):
    size_s: int = Field(60, ge=1)  # a minute: the resolution of most dashboards, and enough requests for a p99
    grace_s: int = Field(5, ge=0)  # how far behind the tick a window closes: producers batch for up to a second
    lateness_s: int = Field(600, ge=0)  # how long a closed window still takes corrections: judges answer in minutes
    ahead_s: int = Field(3600, ge=1)  # an event further ahead of the tick than this is a wrong clock, and left out


class DedupConfig(Config):
    """A key is remembered while its event's window still takes events (size, grace and lateness); see RecentKeys."""

    horizon_s: int = Field(300, ge=1)  # and at least so long: producers retry for less (aiokafka 40 s, ours 120)
    max_keys: int = Field(1_000_000, ge=2, le=1_200_000)  # per partition: 1,500 events/s; 7 bytes each in its state


class MonitorConfig(Config):
    windows: WindowConfig = WindowConfig()
    dedup: DedupConfig = DedupConfig()
    evidence_s: int = Field(60, ge=1)  # each live stream's evidence is published this often, and at every change
    quality_score: str = ""  # the score that decides on canaries; empty: the first one that arrives during the canary
    top_contributors: int = Field(5, ge=0)
