"""Mamba4Rec: SSD4Rec without the backward direction."""

import pytest
import torch

from packed import cu_seqlens_of, encode_each, encode_each_prefix, randomized, relative_error
from ssd4rec.config import Mamba4RecConfig
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.models.mamba4rec import Mamba4Rec
from ssd4rec.models.next_item import count_parameters

LENGTHS = [1, 5, 2, 9]
ROW = torch.randn(17, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def small() -> Mamba4Rec:
    torch.manual_seed(0)
    return randomized(Mamba4Rec(Mamba4RecConfig(width=8, state_dim=4, head_width=4, layers=2)))


@pytest.mark.thorough
def test_all_positions_equal_each_prefix_alone() -> None:
    """Row t is `encode` of the sequence truncated after t, and packed sequences equal separate ones."""
    backbone, cu_seqlens = small(), cu_seqlens_of(LENGTHS)
    assert relative_error(backbone.encode_prefixes(ROW, cu_seqlens), encode_each_prefix(backbone.encode, ROW, cu_seqlens)) < 1e-11
    assert relative_error(backbone.encode(ROW, cu_seqlens), encode_each(backbone.encode, ROW, cu_seqlens)) < 1e-11


def test_model_is_causal() -> None:
    """The gradient of an output reaches the positions up to it, and no later ones."""
    row = ROW[:9].clone().requires_grad_()
    states = small().encode_prefixes(row, cu_seqlens_of([9]))
    (gradient,) = torch.autograd.grad(states[4].sum(), row)
    assert (gradient[:5].abs().sum(1) > 0).all()
    assert not gradient[5:].any()


def test_no_layer_is_bidirectional() -> None:
    """At D = 256 a layer has 964,576 parameters and the LayerNorm of the embedding 512, as in SSD4Rec."""
    backbone = Mamba4Rec(Mamba4RecConfig(width=256))
    assert [layer.bidirectional for layer in backbone.layers if isinstance(layer, BiSSDLayer)] == [False]
    assert count_parameters(backbone) == 964_576 + 512
