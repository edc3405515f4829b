"""The one-pass read-out of partially flipped prefixes equals scanning each prefix."""

import pytest
import torch
from torch import Tensor

from packed import Mixer, cu_seqlens_of, relative_error
from ssd4rec.ops.partial_flip import partially_flipped_prefix_readout
from ssd4rec.ops.segments import make_layout

EXACT = 1e-12  # float64, relative to the largest value
ROUNDED = 3e-6  # float32, relative to the largest value of the float64 reference
LENGTHS = [1, 2, 3, 4, 5, 20, 1]


def one_pass(mixer: Mixer, lengths: list[int], tail: int, Q: int = 16) -> Tensor:
    return partially_flipped_prefix_readout(*mixer.parts, make_layout(cu_seqlens_of(lengths), chunk=Q), 4, tail)


@pytest.mark.parametrize("conv_width", [1, 2, 4, 5])
@pytest.mark.parametrize("tail", [0, 1, 2, 3, 4, 5, 30])
def test_equals_each_prefix_alone(tail: int, conv_width: int) -> None:
    """Tails shorter than, as long as and longer than the convolution and the sequence."""
    mixer = Mixer(sum(LENGTHS), conv_width)
    assert relative_error(one_pass(mixer, LENGTHS, tail), mixer.read_out_prefixes(LENGTHS, tail)) < EXACT


@pytest.mark.parametrize("lengths", [[1], [2], [1, 3], [5], [20]], ids=str)
def test_short_batches(lengths: list[int]) -> None:
    """Packed batches that are shorter than the receptive field at the turn."""
    mixer = Mixer(sum(lengths), 4)
    assert relative_error(one_pass(mixer, lengths, 2), mixer.read_out_prefixes(lengths, 2)) < EXACT


@pytest.mark.parametrize("tail", [0, 2, 5])
def test_gradients_equal_each_prefix_alone(tail: int) -> None:
    """All six gradients."""
    mixer = Mixer(sum(LENGTHS), 4)
    for part in mixer.parts:
        part.requires_grad_()
    actual = torch.autograd.grad(one_pass(mixer, LENGTHS, tail).square().sum(), mixer.parts)
    expected = torch.autograd.grad(mixer.read_out_prefixes(LENGTHS, tail).square().sum(), mixer.parts)
    assert max(map(relative_error, actual, expected)) < EXACT


@pytest.mark.thorough
@pytest.mark.parametrize("log_decay", [0.0, -0.001, -10.0, -1000.0])
def test_float32_accuracy(log_decay: float) -> None:
    """For weak to strong decays, with several sequences per chunk and several chunks per sequence."""
    lengths = [3, 1, 7, 70]
    mixer = Mixer(sum(lengths), 4, dtype=torch.float32)
    mixer.dt, mixer.A = torch.ones_like(mixer.dt), torch.full_like(mixer.A, log_decay)
    assert relative_error(one_pass(mixer, lengths, 5), mixer.double().read_out_prefixes(lengths, 5)) < ROUNDED
