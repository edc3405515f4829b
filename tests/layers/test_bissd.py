"""The Bi-SSD layer around the mixer."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rows import all_prefixes, boundaries_of, relative_error, shaken
from ssd4rec.config import SSD4RecConfig
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.ops.segments import Layout, make_layout

LENGTHS = [1, 5, 2, 9]
BOTH = pytest.mark.parametrize("bidirectional", [True, False], ids=["both ways", "forwards"])
MIRRORS = pytest.mark.parametrize("mirror_back", [False, True], ids=["official", "mirrored back"])


def small_layer(*, bidirectional: bool, mirror_back: bool = False) -> BiSSDLayer:
    config = SSD4RecConfig(width=6, state_dim=3, head_width=4, dropout=0.3, backward_weight=0.7, mirror_back=mirror_back)
    torch.manual_seed(0)
    return shaken(BiSSDLayer(config, bidirectional=bidirectional))


def random_row() -> Tensor:
    return torch.randn(sum(LENGTHS), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def layout_of(cu_seqlens: Tensor) -> Layout:
    return make_layout(cu_seqlens, chunk=8)


def test_equals_its_formula() -> None:
    """H2 = FeedForward(LayerNorm(F + beta K + H)), with F + beta K from the mixer."""
    layer, hidden, layout = small_layer(bidirectional=True), random_row(), layout_of(boundaries_of(LENGTHS))
    mixed = layer.mixer.both_ways(hidden, layout)
    H1 = F.layer_norm(mixed + hidden, (6,), layer.norm.weight, layer.norm.bias, eps=1e-12)
    torch.testing.assert_close(layer(hidden, layout), layer.feed_forward(H1), rtol=1e-12, atol=1e-12)


def test_a_layer_that_reads_forwards_leaves_k_out() -> None:
    """H2 = FeedForward(LayerNorm(F + H))."""
    layer, hidden, layout = small_layer(bidirectional=False), random_row(), layout_of(boundaries_of(LENGTHS))
    H1 = F.layer_norm(layer.mixer(hidden, layout) + hidden, (6,), layer.norm.weight, layer.norm.bias, eps=1e-12)
    torch.testing.assert_close(layer(hidden, layout), layer.feed_forward(H1), rtol=1e-12, atol=1e-12)


@BOTH
@MIRRORS
def test_read_out_is_forward_at_the_last_position(bidirectional: bool, mirror_back: bool) -> None:
    """What is read without a scan is what the scan gives at the end of each history."""
    layer, hidden = small_layer(bidirectional=bidirectional, mirror_back=mirror_back), random_row()
    layout = layout_of(boundaries_of(LENGTHS))
    assert relative_error(layer.read_out(hidden, layout), layer(hidden, layout)[layout.read_out]) < 1e-12


@BOTH
@MIRRORS
def test_every_prefix_is_read_out_of_each_prefix(bidirectional: bool, mirror_back: bool) -> None:
    """Row t of one pass is the read-out of the prefix that ends at position t, run alone."""
    layer, hidden, cu_seqlens = (
        small_layer(bidirectional=bidirectional, mirror_back=mirror_back),
        random_row(),
        boundaries_of(LENGTHS),
    )
    expected = all_prefixes(lambda row, edges: layer.read_out(row, layout_of(edges)), hidden, cu_seqlens)
    assert relative_error(layer.all_prefixes(hidden, layout_of(cu_seqlens)), expected) < 1e-12


def test_the_outer_dropout_comes_after_the_norm() -> None:
    """In training, what enters the feed-forward network holds exact zeros."""
    torch.manual_seed(0)
    layer = small_layer(bidirectional=True).train()
    seen = []
    layer.feed_forward.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layer(random_row(), layout_of(boundaries_of(LENGTHS)))
    assert 0.1 < seen[0].eq(0).double().mean() < 0.5


def test_size_of_a_layer() -> None:
    """At D = 256, N = 64, P = 16 a layer has 437,984 numbers in the mixer, 526,080 in the network, 512 in the norm: 964,576."""
    config = SSD4RecConfig(width=256, state_dim=64, conv_width=4, expand=2, head_width=16)
    layer = BiSSDLayer(config, bidirectional=True)
    mixer, network, norm = (
        sum(parameter.numel() for parameter in part.parameters()) for part in (layer.mixer, layer.feed_forward, layer.norm)
    )
    assert (mixer, network, norm) == (437_984, 526_080, 512)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 964_576
