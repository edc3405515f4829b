"""Settings: frozen, checked when made, read from and written to TOML. An unknown key is an error that names the nearest.

Config(data=DataConfig(...), backbone=SSD4RecConfig(...), training=TrainingConfig(...), evaluation=...)

Which model is trained is `backbone.name`: each backbone has a class of settings of its own (`config/backbones.py`).
"""

from ssd4rec.config.base import Objective, Settings
from ssd4rec.config.models import (
    BACKBONES,
    BackboneConfig,
    BERT4RecConfig,
    Bidirectional,
    CaserConfig,
    GRU4RecConfig,
    Mamba4RecConfig,
    SASRecConfig,
    SIGMAConfig,
    SSD4RecConfig,
)
from ssd4rec.config.recbole import RecBoleRun, read_recbole
from ssd4rec.config.settings import (
    FULL_SOFTMAX_MAX_ITEMS,
    MAX_SEED,
    Config,
    DataConfig,
    EvaluationConfig,
    FusionConfig,
    TieOrder,
    TrainingConfig,
    is_read,
    value_of,
)
from ssd4rec.config.toml import build_config, dump_config, load_config, parse_config, presets

__all__ = [
    "BACKBONES",
    "FULL_SOFTMAX_MAX_ITEMS",
    "MAX_SEED",
    "BERT4RecConfig",
    "BackboneConfig",
    "Bidirectional",
    "CaserConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "FusionConfig",
    "GRU4RecConfig",
    "Mamba4RecConfig",
    "Objective",
    "RecBoleRun",
    "SASRecConfig",
    "SIGMAConfig",
    "SSD4RecConfig",
    "Settings",
    "TieOrder",
    "TrainingConfig",
    "build_config",
    "dump_config",
    "is_read",
    "load_config",
    "parse_config",
    "presets",
    "read_recbole",
    "value_of",
]
