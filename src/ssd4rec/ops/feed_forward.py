"""Two linear maps with GELU and dropout between them."""

from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import Hidden
from ssd4rec.ops.dropout import dropout


def feed_forward(
    x: Hidden, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, p: float, *, training: bool
) -> Hidden:
    """Compute W2 dropout(GELU(W1 x + b1)) + b2; see `ops.dispatch.feed_forward` for the arguments."""
    values = dropout(F.gelu(F.linear(x, widen, widen_bias)), p, training=training)
    return F.linear(values, narrow, narrow_bias)
