"""Mamba4Rec: SSD4Rec that reads forwards only."""

import torch

from rows import all_prefixes, boundaries_of, one_by_one, relative_error, shaken
from ssd4rec.config import Mamba4RecConfig
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.models.mamba4rec import Mamba4Rec
from ssd4rec.models.next_item import count_parameters

LENGTHS = [1, 5, 2, 9]
ROW = torch.randn(17, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def small() -> Mamba4Rec:
    torch.manual_seed(0)
    return shaken(Mamba4Rec(Mamba4RecConfig(width=8, state_dim=4, head_width=4, layers=2)))


def test_one_pass_is_every_prefix_alone() -> None:
    """Row t is `encode` of the history cut after t, and packed histories are read as they are one at a time."""
    backbone, cu_seqlens = small(), boundaries_of(LENGTHS)
    assert relative_error(backbone.encode_prefixes(ROW, cu_seqlens), all_prefixes(backbone.encode, ROW, cu_seqlens)) < 1e-11
    assert relative_error(backbone.encode(ROW, cu_seqlens), one_by_one(backbone.encode, ROW, cu_seqlens)) < 1e-11


def test_no_position_hears_a_later_one() -> None:
    """The gradient of a state reaches the events up to it and no others."""
    row = ROW[:9].clone().requires_grad_()
    states = small().encode_prefixes(row, boundaries_of([9]))
    (gradient,) = torch.autograd.grad(states[4].sum(), row)
    assert (gradient[:5].abs().sum(1) > 0).all()
    assert not gradient[5:].any()


def test_no_layer_reads_backwards() -> None:
    """D = 256 costs 964,576 parameters a layer and 512 for the LayerNorm of the embedding, as SSD4Rec does."""
    backbone = Mamba4Rec(Mamba4RecConfig(width=256))
    assert [layer.bidirectional for layer in backbone.layers if isinstance(layer, BiSSDLayer)] == [False]
    assert count_parameters(backbone) == 964_576 + 512
