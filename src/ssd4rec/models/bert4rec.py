"""BERT4Rec: bidirectional self-attention, trained by masked-item prediction."""

from typing import ClassVar, Literal

from torch import nn
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.config.backbones import BackboneSettings, Objective, TransformerSizes
from ssd4rec.errors import ConfigError
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.initialization import initialize_weights
from ssd4rec.layers.transformer import TransformerLayer
from ssd4rec.ops.attention import bucket_by_length
from ssd4rec.ops.windows import encode_last, encode_windows


class BERT4RecConfig(TransformerSizes):
    """Settings of BERT4Rec."""

    objectives: ClassVar[tuple[Objective, ...]] = ("masked-item", "per-prefix")

    name: Literal["bert4rec"] = "bert4rec"
    """Name of the model."""


class BERT4Rec(nn.Module):
    """Item embeddings plus learned positions, bidirectional self-attention, and LayerNorm(GELU(W h + b)) at the end.

    A position also attends to later positions, so its output may only predict an item that is masked in the input.
    `NextItemModel` appends item 0, the mask, to each sequence; the output at the mask predicts the next item.

    Differences from the original: pre-norm layers, and no LayerNorm on the sum of item and position; every selected item is
    replaced by the mask (the original replaces some by another item, or keeps them); no bias for each item in the softmax; no
    dropout of attention weights; the last item of every sequence is always masked in training, in addition to the random ones
    (the original adds copies of the data in which only the last item is masked); sequences longer than `max_length` are trained
    in windows that overlap by half.

    Source: Sun et al. 2019, arXiv 1904.06690.
    """

    settings_class: ClassVar[type[BackboneSettings]] = BERT4RecConfig

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
        """Encode the last `max_length` positions of each sequence; return the output at the last one. [T, D] -> [B, D].

        Raises:
            ShapeError: cu_seqlens do not increase from 0.
        """
        return encode_last(self._encode, embedded, cu_seqlens, self.config.max_length)

    def encode_positions(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode every position from its whole sequence, or from a window of `max_length` positions. [T, D] -> [T, D].

        Raises:
            ShapeError: cu_seqlens do not increase from 0.
        """
        return encode_windows(self._encode, embedded, cu_seqlens, self.config.max_length)

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Raise an error: one pass cannot encode every prefix.

        Raises:
            ConfigError: always, because every position attends to later positions.
        """
        raise ConfigError(
            f"BERT4Rec is bidirectional in every layer, so one pass cannot encode all prefixes of {len(cu_seqlens) - 1} "
            f'sequences ({len(embedded)} positions); train with the objective "masked-item" or "per-prefix"'
        )

    def _encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        buckets = bucket_by_length(cu_seqlens, embedded.device)
        hidden = self.dropout(embedded + self.positions(buckets.position))
        for layer in self.layers:
            hidden = layer(hidden, buckets)
        return self.norm(F.gelu(self.out(hidden)))
