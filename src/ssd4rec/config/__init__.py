"""Settings: frozen, validated when they are made, read from and written to TOML.

    Config(data=DataConfig(...), backbone=SSD4RecConfig(...), training=TrainingConfig(...), evaluation=...)

`backbone.name` selects the model. Its settings class is next to the model (`ssd4rec/models`), and available here too:
`from ssd4rec.config import SASRecConfig` imports it from the registry when it is first used.
"""

from typing import Any

from ssd4rec.config.backbones import BackboneSettings, Objective, Settings
from ssd4rec.config.settings import (
    FULL_SOFTMAX_MAX_ITEMS,
    MAX_SEED,
    TEACHING,
    BackboneConfig,
    Baseline,
    Config,
    DataConfig,
    EvaluationConfig,
    FeaturesConfig,
    FusionConfig,
    PairModel,
    TieOrder,
    TrainingConfig,
    is_read,
    value_of,
)
from ssd4rec.config.toml import build_config, dump_config, load_config, load_data_config, parse_config, presets
from ssd4rec.models.registry import BACKBONES

__all__ = [
    "BACKBONES",
    "FULL_SOFTMAX_MAX_ITEMS",
    "MAX_SEED",
    "TEACHING",
    "BackboneConfig",
    "BackboneSettings",
    "Baseline",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "FeaturesConfig",
    "FusionConfig",
    "Objective",
    "PairModel",
    "Settings",
    "TieOrder",
    "TrainingConfig",
    "build_config",
    "dump_config",
    "is_read",
    "load_config",
    "load_data_config",
    "parse_config",
    "presets",
    "value_of",
]


def __getattr__(name: str) -> Any:
    """Return the settings class of a registered model by its name, e.g. `SASRecConfig`."""
    if name.endswith("Config"):
        for settings in BACKBONES.values():
            if settings.__name__ == name:
                return settings
    raise AttributeError(f"module 'ssd4rec.config' has no attribute {name!r}")
