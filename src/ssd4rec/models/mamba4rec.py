"""Mamba4Rec: layers of Mamba and a feed-forward network that read forwards only."""

from typing import Literal

from ssd4rec.config.backbones import Mamba2Sizes
from ssd4rec.models.ssd4rec import SSD4Rec, SSD4RecConfig


class Mamba4RecConfig(Mamba2Sizes):
    """Settings of Mamba4Rec."""

    name: Literal["mamba4rec"] = "mamba4rec"
    norm_first: bool = False  # as in ssd4rec

    @property
    def as_ssd4rec(self) -> SSD4RecConfig:
        """The same network in the settings of SSD4Rec."""
        return SSD4RecConfig(**self.sizes, norm_embedding=True, norm_first=self.norm_first, bidirectional="none")


class Mamba4Rec(SSD4Rec):
    """SSD4Rec without its backward direction: embedding, dropout and LayerNorm; layers of mixer, LayerNorm and FFN.

    Every layer is causal, so one pass trains every prefix exactly, and `step` reads event by event.

    Differences from the original: Mamba-2 in place of Mamba; a residual with one layer too; histories are packed, not padded and
    cut; initial values and the dropout's places are SSD4Rec's, so that with equal settings the two differ in the backward
    direction alone. Where the paper's presets have no `norm_embedding` the settings are not equal: this one always has it, and
    `ssd4rec-none` of `reproduce` is SSD4Rec without its backward direction there.

    Source: Liu, Lin, Wang, Liu and Caverlee 2024, arXiv 2403.03900.
    """

    settings_class = Mamba4RecConfig

    def __init__(self, config: Mamba4RecConfig) -> None:
        super().__init__(config.as_ssd4rec)
