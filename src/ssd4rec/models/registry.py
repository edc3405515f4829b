"""From settings to the backbone that they name."""

from typing import assert_never

from torch import nn

from ssd4rec.config import (
    BackboneConfig,
    BERT4RecConfig,
    CaserConfig,
    GRU4RecConfig,
    Mamba4RecConfig,
    SASRecConfig,
    SIGMAConfig,
    SSD4RecConfig,
)
from ssd4rec.models.bert4rec import BERT4Rec
from ssd4rec.models.caser import Caser
from ssd4rec.models.gru4rec import GRU4Rec
from ssd4rec.models.mamba4rec import Mamba4Rec
from ssd4rec.models.sasrec import SASRec
from ssd4rec.models.sigma import SIGMA
from ssd4rec.models.ssd4rec import SSD4Rec


def make_backbone(config: BackboneConfig) -> nn.Module:  # noqa: PLR0911 - one for each backbone
    """A fresh backbone, its initial weights drawn from torch's generator; `model.make_model` seeds it and adds the item table.

    Args:
        config: one backbone's settings; their class says which backbone.
    """
    match config:
        case SSD4RecConfig():
            return SSD4Rec(config)
        case SASRecConfig():
            return SASRec(config)
        case BERT4RecConfig():
            return BERT4Rec(config)
        case GRU4RecConfig():
            return GRU4Rec(config)
        case CaserConfig():
            return Caser(config)
        case SIGMAConfig():
            return SIGMA(config)
        case Mamba4RecConfig():
            return Mamba4Rec(config)
        case _:
            assert_never(config)
