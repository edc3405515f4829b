"""The Transformer layer of SASRec and BERT4Rec: pre-norm self-attention and feed-forward network."""

from torch import nn

from ssd4rec.array_types import Hidden
from ssd4rec.layers.dropout import Dropout
from ssd4rec.ops.attention import LengthBuckets, attend
from ssd4rec.ops.dispatch import feed_forward


class TransformerLayer(nn.Module):
    """h + Dropout(W_o Attention(LayerNorm(h))), then h + Dropout(W2 Dropout(GELU(W1 LayerNorm(h) + b1)) + b2), inner width 4D.

    There is no dropout of attention weights, so torch's fused kernels need memory linear in the length.

    Args:
        width: D.
        heads: number of attention heads.
        dropout: of both parts.
        causal: whether a position attends only to itself and earlier positions.

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
