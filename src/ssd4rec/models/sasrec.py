"""SASRec: causal self-attention over the last events of each history."""

import math
from typing import Literal

from torch import nn

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.config.backbones import TransformerSizes
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.initialization import initialize_weights
from ssd4rec.layers.transformer import TransformerLayer
from ssd4rec.ops.attention import lay_in_tables
from ssd4rec.ops.windows import read_ends, read_positions


class SASRecConfig(TransformerSizes):
    """Settings of SASRec."""

    name: Literal["sasrec"] = "sasrec"


class SASRec(nn.Module):
    """Item vectors plus learned positions, causal attention, a LayerNorm at the end.

    Position 0 is the oldest event that is read; at most `max_length` are. One pass trains every prefix: exactly, for the first
    `max_length` events of a history. A longer history is read in windows that overlap by half, so that each of its later
    targets is still trained, from the last max_length / 2 to max_length events before it.

    Differences from the original: softmax over the whole catalog in place of one sampled negative; an inner width of 4D with
    GELU in place of D with ReLU; queries, keys and values all from behind the LayerNorm; an output projection behind the
    heads, and a residual from before the LayerNorm; no dropout of attention weights; initial values N(0, 0.02); histories are
    packed, not padded on the left, so positions count from the oldest event that is read.

    Source: Kang and McAuley 2018, arXiv 1808.09781.
    """

    settings_class = SASRecConfig

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.positions = nn.Embedding(config.max_length, config.width)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.heads, config.dropout, causal=True) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.apply(initialize_weights)

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
        tables = lay_in_tables(cu_seqlens, embedded.device)
        hidden = self.dropout(embedded * math.sqrt(self.width) + self.positions(tables.place))
        for layer in self.layers:
            hidden = layer(hidden, tables)
        out: Hidden = self.norm(hidden)
        return out
