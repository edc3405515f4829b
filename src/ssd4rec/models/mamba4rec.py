"""Mamba4Rec: causal layers of a Mamba mixer and a feed-forward network."""

from typing import ClassVar, Literal

from ssd4rec.config.backbones import BackboneSettings, Mamba2Sizes
from ssd4rec.models.ssd4rec import SSD4Rec, SSD4RecConfig


class Mamba4RecConfig(Mamba2Sizes):
    """Settings of Mamba4Rec."""

    name: Literal["mamba4rec"] = "mamba4rec"
    """Name of the model."""
    norm_first: bool = False
    """LayerNorm and dropout on the branches instead of on the residual stream, as in the paper."""

    @property
    def as_ssd4rec(self) -> SSD4RecConfig:
        """The same network in the settings of SSD4Rec."""
        return SSD4RecConfig(**self.sizes, norm_embedding=True, norm_first=self.norm_first, bidirectional="none")


class Mamba4Rec(SSD4Rec):
    """SSD4Rec without its backward direction: embedding, dropout and LayerNorm; layers of mixer, LayerNorm and FFN.

    Every layer is causal, so all-positions training is exact and `step` processes one interaction at a time.

    Differences from the original: Mamba-2 in place of Mamba; a residual with one layer too; packed sequences in place of padded
    and truncated ones; initial values and placement of dropout as in SSD4Rec, so that with equal settings the two differ in the
    backward direction only. This model always has `norm_embedding`; where the paper's presets do not, the variant `ssd4rec-none`
    of `reproduce` is SSD4Rec without its backward direction.

    Source: Liu, Lin, Wang, Liu and Caverlee 2024, arXiv 2403.03900.
    """

    settings_class: ClassVar[type[BackboneSettings]] = Mamba4RecConfig

    def __init__(self, config: Mamba4RecConfig) -> None:
        super().__init__(config.as_ssd4rec)
