"""Position-wise feed-forward network."""

from torch import nn

from ssd4rec.array_types import Hidden
from ssd4rec.layers.dropout import Dropout
from ssd4rec.ops.dispatch import feed_forward


class FeedForward(nn.Module):
    """Two linear layers with GELU between them and inner width 4D; the second dropout follows the LayerNorm.

    out = Dropout(LayerNorm(h + W2 Dropout(GELU(W1 h + b1)) + b2))

    With `norm_first` the LayerNorm and the outer dropout are on the branch, and the residual stream passes unchanged:

    out = h + Dropout(W2 Dropout(GELU(W1 LayerNorm(h) + b1)) + b2)

    Source: the authors' code, restated in docs/paper-map.md, "The model", 4; `norm_first`: Xiong et al. 2020, "On Layer
    Normalization in the Transformer
    Architecture".
    """

    def __init__(self, width: int, dropout: float, *, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Hidden) -> Hidden:
        """[rows, D] -> [rows, D]."""
        source = self.norm(hidden) if self.norm_first else hidden
        weights = self.widen.weight, self.widen.bias, self.narrow.weight, self.narrow.bias
        branch = feed_forward(source, *weights, self.dropout.p, training=self.training)
        return hidden + self.dropout(branch) if self.norm_first else self.dropout(self.norm(hidden + branch))
