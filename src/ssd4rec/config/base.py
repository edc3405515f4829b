"""What every group of settings is made from."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Objective = Literal["all-positions", "per-prefix", "masked-item"]


class Settings(BaseModel):
    """What every group of settings shares: frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)
