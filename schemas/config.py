"""The base of every component's config type: immutable, and unknown keys are refused."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
