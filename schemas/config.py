"""The base of every component's config type: immutable, unknown keys are refused, numbers are finite and bounded."""

from typing import Any

from annotated_types import Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LARGEST = 10**9  # of a number without a bound of its own: as seconds 31 years, whose microseconds add up within 64 bits


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_bounded(cls, value: Any, info: ValidationInfo) -> Any:
        """A number that is taken is one that can be counted with."""
        field = cls.model_fields[str(info.field_name)]
        if not any(isinstance(bound, Le | Lt) for bound in field.metadata):
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and abs(number) > LARGEST:
                    raise ValueError(f"expected at most {LARGEST} and at least -{LARGEST}, got {number:g}")
        return value
