"""Position-wise feed-forward network."""

from torch import nn
from torch.nn import functional as F

from ssd4rec.array_types import Hidden
from ssd4rec.layers.dropout import Dropout


class FeedForward(nn.Module):
    """Two linear maps with GELU between, inner width 4D; both outer dropouts come after the LayerNorm, as the authors have it.

    out = Dropout(LayerNorm(h + W2 Dropout(GELU(W1 h + b1)) + b2))        Source: docs/paper-map.md, "The model", 4.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Hidden) -> Hidden:
        """[rows, D] -> [rows, D]."""
        inner = self.dropout(F.gelu(self.widen(hidden)))
        out: Hidden = self.dropout(self.norm(hidden + self.narrow(inner)))
        return out
