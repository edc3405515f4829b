"""SASRec: causal self-attention over the last interactions of each sequence."""

import math
from typing import ClassVar, Literal

from torch import nn

from ssd4rec.array_types import CuSeqlens, Hidden
from ssd4rec.config.backbones import BackboneSettings, TransformerSizes
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.initialization import initialize_weights
from ssd4rec.models.encoders import WindowedEncoder
from ssd4rec.ops.attention import LengthBuckets, attend, bucket_by_length
from ssd4rec.ops.dispatch import feed_forward


class SASRecConfig(TransformerSizes):
    """Settings of SASRec."""

    name: Literal["sasrec"] = "sasrec"
    """Name of the model."""


class TransformerLayer(nn.Module):
    """h + Dropout(W_o Attention(LayerNorm(h))), then h + Dropout(W2 Dropout(GELU(W1 LayerNorm(h) + b1)) + b2), inner width 4D.

    There is no dropout of attention weights, so torch's fused kernels need memory linear in the length. If `causal`, a position
    attends only to itself and earlier positions.

    Source: Vaswani et al. 2017; pre-norm as in Kang and McAuley 2018 (SASRec).
    """

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Hidden, buckets: LengthBuckets) -> Hidden:
        """[T, D] -> [T, D]."""
        projected = self.queries_keys_values(self.attention_norm(hidden)).unflatten(1, (3, self.heads, -1))
        queries, keys, values = projected.unbind(1)
        attended = attend(queries, keys, values, buckets, causal=self.causal)
        hidden = hidden + self.dropout(self.attention_out(attended.flatten(1)))
        weights = self.widen.weight, self.widen.bias, self.narrow.weight, self.narrow.bias
        branch = feed_forward(self.norm(hidden), *weights, self.dropout.p, training=self.training)
        return hidden + self.dropout(branch)


class Transformer(WindowedEncoder):
    """Learned positions and layers of self-attention, which SASRec and BERT4Rec share."""

    def __init__(self, config: TransformerSizes, *, causal: bool) -> None:
        super().__init__(config.width, config.max_length)
        self.config = config
        self.positions = nn.Embedding(config.max_length, config.width)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.heads, config.dropout, causal=causal) for _ in range(config.layers)
        )

    def _attend(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        buckets = bucket_by_length(cu_seqlens, embedded.device)
        hidden = self.dropout(embedded + self.positions(buckets.position))
        for layer in self.layers:
            hidden = layer(hidden, buckets)
        return hidden


class SASRec(Transformer):
    """Item embeddings plus learned positions, causal self-attention, final LayerNorm.

    The model uses at most the last `max_length` interactions; position 0 is the oldest of them. All-positions training is exact
    for the first `max_length` interactions of a sequence. Longer sequences are cut into windows that overlap by half, so every
    later target is trained on the max_length / 2 to max_length interactions before it.

    Differences from the original: softmax over the whole catalog in place of one sampled negative; inner width 4D with GELU in
    place of D with ReLU; queries, keys and values are all projections of the normalized input; an output projection after the
    heads, and a residual from before the LayerNorm; no dropout of attention weights; initial values N(0, 0.02); packed sequences
    in place of left padding, so positions count from the oldest interaction used.

    Source: Kang and McAuley 2018, arXiv 1808.09781.
    """

    settings_class: ClassVar[type[BackboneSettings]] = SASRecConfig

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__(config, causal=True)
        self.norm = nn.LayerNorm(config.width)
        self.apply(initialize_weights)

    def _encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        return self.norm(self._attend(embedded * math.sqrt(self.width), cu_seqlens))
