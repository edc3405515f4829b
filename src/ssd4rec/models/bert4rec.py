"""BERT4Rec: self-attention in both directions, trained to fill in blanks."""

from typing import ClassVar, Literal

from torch import nn
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.config.backbones import TransformerSizes
from ssd4rec.config.base import Objective
from ssd4rec.errors import ConfigError
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.initialization import initialize_weights
from ssd4rec.layers.transformer import TransformerLayer
from ssd4rec.ops.attention import lay_in_tables
from ssd4rec.ops.windows import read_ends, read_positions


class BERT4RecConfig(TransformerSizes):
    """Settings of BERT4Rec."""

    objectives: ClassVar[tuple[Objective, ...]] = ("masked-item", "per-prefix")

    name: Literal["bert4rec"] = "bert4rec"


class BERT4Rec(nn.Module):
    """Item vectors plus learned positions, attention to the whole history, and LayerNorm(GELU(W h + b)) at the end.

    A position has seen what follows it too, so its state may answer only for an item that was hidden from it. `NextItemModel`
    appends item 0 to each history, and the state of this blank answers for the next item.

    Differences from the original: LayerNorms in front of each part, not behind, and none on the sum of item and position; every
    hidden item is a blank (of the original's some are another item, or stay); no bias for each item in the softmax; no
    dropout of attention weights; the last item of every history is always hidden in training, beside the random ones (the
    original adds copies of the data in which it alone is); a history above `max_length` is trained in windows that overlap by
    half.

    Source: Sun et al. 2019, arXiv 1904.06690.
    """

    settings_class = BERT4RecConfig

    def __init__(self, config: BERT4RecConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.positions = nn.Embedding(config.max_length, config.width)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.heads, config.dropout, causal=False) for _ in range(config.layers)
        )
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.apply(initialize_weights)

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """The state of the last of the at most `max_length` places that are read of each history. [T, D] -> [B, D].

        Raises:
            ShapeError: cu_seqlens do not rise from 0.
        """
        return read_ends(self._read, embedded, cu_seqlens, self.config.max_length)

    def encode_positions(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """The state of every position, which has seen its whole history, or a window of `max_length` of it. [T, D] -> [T, D].

        Raises:
            ShapeError: cu_seqlens do not rise from 0.
        """
        return read_positions(self._read, embedded, cu_seqlens, self.config.max_length)

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """One pass cannot give the state of every prefix.

        Raises:
            ConfigError: always; every position has seen what follows it.
        """
        raise ConfigError(
            f"BERT4Rec reads both ways in each layer, so {len(cu_seqlens) - 1} histories of {len(embedded)} events cannot be "
            f'read for all their prefixes at once; train with the objective "masked-item" or "per-prefix"'
        )

    def _read(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        tables = lay_in_tables(cu_seqlens, embedded.device)
        hidden = self.dropout(embedded + self.positions(tables.place))
        for layer in self.layers:
            hidden = layer(hidden, tables)
        out: Hidden = self.norm(F.gelu(self.out(hidden)))
        return out
