"""The position-wise feed-forward network."""

import torch
from torch.nn import functional as F

from packed import randomized
from ssd4rec.layers.feed_forward import FeedForward


def test_equals_its_formula() -> None:
    """out = LayerNorm(h + W2 GELU(W1 h + b1) + b2), the GELU exact, eps 1e-12."""
    torch.manual_seed(0)
    layer = randomized(FeedForward(4, dropout=0.5))
    hidden = torch.randn(3, 4, dtype=torch.float64)
    inner = hidden @ layer.widen.weight.T + layer.widen.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    expected = F.layer_norm(
        hidden + inner @ layer.narrow.weight.T + layer.narrow.bias, (4,), layer.norm.weight, layer.norm.bias, eps=1e-12
    )
    torch.testing.assert_close(layer(hidden), expected, rtol=1e-12, atol=1e-12)


def test_inner_width_is_four_times_the_width() -> None:
    """D = 256: 256 * 1024 + 1024 + 1024 * 256 + 256 = 525,568 parameters of linear layers and 512 of the LayerNorm."""
    assert sum(parameter.numel() for parameter in FeedForward(256, 0.0).parameters()) == 525_568 + 512


def test_last_dropout_follows_the_norm() -> None:
    """In training some outputs are exactly zero and the others are scaled by 1 / (1 - p)."""
    torch.manual_seed(0)
    layer = FeedForward(64, dropout=0.5)
    torch.nn.init.zeros_(layer.narrow.weight)  # removes the effect of the inner dropout
    torch.nn.init.zeros_(layer.narrow.bias)
    hidden = torch.randn(5, 64)
    whole, dropped = layer.eval()(hidden), layer.train()(hidden)
    is_kept = dropped != 0
    assert 0.3 < is_kept.float().mean() < 0.7
    torch.testing.assert_close(dropped[is_kept], 2 * whole[is_kept])
