"""Base class of all settings."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Objective = Literal["all-positions", "per-prefix", "masked-item"]


class Settings(BaseModel):
    """Base class of a group of settings: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)
