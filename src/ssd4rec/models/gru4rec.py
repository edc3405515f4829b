"""GRU4Rec: a gated recurrent network over the sequence."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from ssd4rec.array_types import CuSeqlens, Hidden
from ssd4rec.config.backbones import MAX_LAYERS, MAX_WIDTH, MAX_WINDOW, BackboneSettings
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.gru import PackedGRU
from ssd4rec.models.encoders import WindowedEncoder
from ssd4rec.ops.attention import bucket_by_length


class GRU4RecConfig(BackboneSettings):
    """Settings of GRU4Rec."""

    name: Literal["gru4rec"] = "gru4rec"
    """Name of the model."""
    hidden: int = Field(128, ge=1, le=MAX_WIDTH)
    """Size of the recurrent state."""
    layers: int = Field(1, ge=1, le=MAX_LAYERS)
    """Number of layers."""
    max_length: int = Field(200, ge=1, le=MAX_WINDOW)
    """Maximum number of positions read at once."""


class GRU4Rec(WindowedEncoder):
    """Dropout, a GRU of width `hidden`, and a linear projection to D.

    A batch takes as many sequential steps as its longest sequence has interactions, at most `max_length`. All-positions training
    is exact for the first `max_length` interactions of a sequence. Longer sequences are cut into windows that overlap by half,
    so every later target is trained on the max_length / 2 to max_length interactions before it.

    Differences from the original: softmax over the whole catalog in place of BPR or TOP1 on the other items of a batch; item
    embeddings shared with the softmax in place of one-hot input; each sequence starts from a zero state. Compared with RecBole's
    GRU4Rec, the gates have biases, stacked layers have dropout between them, the GRU has torch's initial values (RecBole:
    Xavier uniform), and item vectors begin as N(0, 0.02) (RecBole: Xavier normal).

    Source: Hidasi, Karatzoglou, Baltrunas and Tikk 2016, arXiv 1511.06939; Tan, Xu and Liu 2016, arXiv 1606.08117.
    """

    settings_class: ClassVar[type[BackboneSettings]] = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__(config.width, config.max_length)
        self.config = config
        self.dropout = Dropout(config.dropout)
        self.gru = PackedGRU(config.width, config.hidden, config.layers, config.dropout)
        self.out = nn.Linear(config.hidden, config.width)

    def _encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        return self.out(self.gru(self.dropout(embedded), bucket_by_length(cu_seqlens, embedded.device)))
