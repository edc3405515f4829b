"""GRU4Rec: a gated recurrent network over the whole history."""

from typing import Literal

from pydantic import Field
from torch import nn

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.config.backbones import MAX_LAYERS, MAX_WIDTH, MAX_WINDOW, BackboneSettings
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.gru import PackedGRU
from ssd4rec.ops.attention import lay_in_tables
from ssd4rec.ops.windows import read_ends, read_positions


class GRU4RecConfig(BackboneSettings):
    """Settings of GRU4Rec."""

    name: Literal["gru4rec"] = "gru4rec"
    hidden: int = Field(128, ge=1, le=MAX_WIDTH)  # width of the recurrent state
    layers: int = Field(1, ge=1, le=MAX_LAYERS)
    max_length: int = Field(200, ge=1, le=MAX_WINDOW)  # events that are read one after the other


class GRU4Rec(nn.Module):
    """Dropout, GRU of the width `hidden`, and a linear map back to D.

    It reads one event after the other, so a batch takes as many steps as its longest history has events: `max_length` at most.
    One pass trains every prefix: exactly, for the first `max_length` events of a history. A longer history is read in windows
    that overlap by half, as SASRec reads it: each later target is trained from the last max_length / 2 to max_length events.

    Differences from the original: softmax over the whole catalog in place of BPR or TOP1 on the other items of a batch; item
    vectors in place of one-hot input, shared with the softmax; each history starts afresh. It is the network that RecBole has,
    but for biases in the gates, dropout between several layers and torch's own initial values of the GRU (RecBole: Xavier's).

    Source: Hidasi, Karatzoglou, Baltrunas and Tikk 2016, arXiv 1511.06939; Tan, Xu and Liu 2016, arXiv 1606.08117.
    """

    settings_class = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.dropout = Dropout(config.dropout)
        self.gru = PackedGRU(config.width, config.hidden, config.layers, config.dropout)
        self.out = nn.Linear(config.hidden, config.width)

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """What the model knows at the end of each history, from its last `max_length` events. [T, D] -> [B, D].

        Raises:
            ShapeError: cu_seqlens do not rise from 0.
        """
        return read_ends(self._read, embedded, cu_seqlens, self.config.max_length)

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """What the model knows at the end of every prefix; see the class for histories above `max_length`. [T, D] -> [T, D].

        Raises:
            ShapeError: cu_seqlens do not rise from 0.
        """
        return read_positions(self._read, embedded, cu_seqlens, self.config.max_length)

    def _read(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        found: Hidden = self.out(self.gru(self.dropout(embedded), lay_in_tables(cu_seqlens, embedded.device)))
        return found
