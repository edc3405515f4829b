"""The Bi-SSD layer around the mixer."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from packed import cu_seqlens_of, encode_each_prefix, randomized, relative_error
from ssd4rec.config import SSD4RecConfig
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.ops.segments import Layout, make_layout

LENGTHS = [1, 5, 2, 9]
BOTH = pytest.mark.parametrize("bidirectional", [True, False], ids=["bidirectional", "forward"])
MIRRORS = pytest.mark.parametrize("mirror_back", [False, True], ids=["official", "reversed back"])


def small_layer(*, bidirectional: bool, mirror_back: bool = False) -> BiSSDLayer:
    config = SSD4RecConfig(width=6, state_dim=3, head_width=4, dropout=0.3, backward_weight=0.7, mirror_back=mirror_back)
    torch.manual_seed(0)
    return randomized(BiSSDLayer(config, bidirectional=bidirectional))


def random_row() -> Tensor:
    return torch.randn(sum(LENGTHS), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def layout_of(cu_seqlens: Tensor) -> Layout:
    return make_layout(cu_seqlens, chunk=8)


def test_equals_its_formula() -> None:
    """H2 = FeedForward(LayerNorm(F + beta K + H)), where the mixer computes F + beta K."""
    layer, hidden, layout = small_layer(bidirectional=True), random_row(), layout_of(cu_seqlens_of(LENGTHS))
    mixed = layer.mixer.forward_bidirectional(hidden, layout)
    H1 = F.layer_norm(mixed + hidden, (6,), layer.norm.weight, layer.norm.bias, eps=1e-12)
    torch.testing.assert_close(layer(hidden, layout), layer.feed_forward(H1), rtol=1e-12, atol=1e-12)


def test_causal_layer_has_no_backward_term() -> None:
    """H2 = FeedForward(LayerNorm(F + H))."""
    layer, hidden, layout = small_layer(bidirectional=False), random_row(), layout_of(cu_seqlens_of(LENGTHS))
    H1 = F.layer_norm(layer.mixer(hidden, layout) + hidden, (6,), layer.norm.weight, layer.norm.bias, eps=1e-12)
    torch.testing.assert_close(layer(hidden, layout), layer.feed_forward(H1), rtol=1e-12, atol=1e-12)


@BOTH
@MIRRORS
def test_forward_last_equals_forward_at_the_last_position(bidirectional: bool, mirror_back: bool) -> None:
    """The read-out without a scan equals the scan at the end of each sequence."""
    layer, hidden = small_layer(bidirectional=bidirectional, mirror_back=mirror_back), random_row()
    layout = layout_of(cu_seqlens_of(LENGTHS))
    assert relative_error(layer.forward_last(hidden, layout), layer(hidden, layout)[layout.last_index]) < 1e-12


@pytest.mark.thorough
@BOTH
@MIRRORS
def test_forward_prefixes_equals_forward_last_of_each_prefix(bidirectional: bool, mirror_back: bool) -> None:
    """Row t of one pass equals `forward_last` of the prefix that ends at position t."""
    layer, hidden, cu_seqlens = (
        small_layer(bidirectional=bidirectional, mirror_back=mirror_back),
        random_row(),
        cu_seqlens_of(LENGTHS),
    )
    expected = encode_each_prefix(lambda row, edges: layer.forward_last(row, layout_of(edges)), hidden, cu_seqlens)
    assert relative_error(layer.forward_prefixes(hidden, layout_of(cu_seqlens)), expected) < 1e-12


def test_outer_dropout_follows_the_norm() -> None:
    """In training, the input of the feed-forward network contains exact zeros."""
    torch.manual_seed(0)
    layer = small_layer(bidirectional=True).train()
    seen = []
    layer.feed_forward.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layer(random_row(), layout_of(cu_seqlens_of(LENGTHS)))
    assert 0.1 < seen[0].eq(0).double().mean() < 0.5


def test_size_of_a_layer() -> None:
    """At D = 256, N = 64, P = 16 the mixer has 437,984 parameters, the network 526,080, the norm 512: 964,576."""
    config = SSD4RecConfig(width=256, state_dim=64, conv_width=4, expand=2, head_width=16)
    layer = BiSSDLayer(config, bidirectional=True)
    mixer, network, norm = (
        sum(parameter.numel() for parameter in part.parameters()) for part in (layer.mixer, layer.feed_forward, layer.norm)
    )
    assert (mixer, network, norm) == (437_984, 526_080, 512)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 964_576
