"""One pass over prefixes that are partly reversed equals running the scan over each of them."""

import pytest
import torch
from torch import Tensor

from rows import Mixer, boundaries_of, relative_error
from ssd4rec.ops.partial_flip import partially_flipped_prefix_readout
from ssd4rec.ops.segments import make_layout

EXACT = 1e-12  # float64, relative to the largest number
ROUNDED = 3e-6  # float32 against the float64 definition on the same numbers, relative to the largest number
LENGTHS = [1, 2, 3, 4, 5, 20, 1]


def one_pass(mixer: Mixer, lengths: list[int], kept: int, Q: int = 16) -> Tensor:
    return partially_flipped_prefix_readout(*mixer.parts, make_layout(boundaries_of(lengths), chunk=Q), 4, kept)


@pytest.mark.parametrize("conv_width", [1, 2, 4, 5])
@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 5, 30])
def test_it_equals_each_prefix_alone(kept: int, conv_width: int) -> None:
    """Fewer kept events than the convolution is wide, as many, more; more than there are."""
    mixer = Mixer(sum(LENGTHS), conv_width)
    assert relative_error(one_pass(mixer, LENGTHS, kept), mixer.all_prefixes(LENGTHS, kept)) < EXACT


@pytest.mark.parametrize("lengths", [[1], [2], [1, 3], [5], [20]], ids=str)
def test_rows_of_few_events(lengths: list[int]) -> None:
    """Where the row itself is shorter than what is heard over the turn."""
    mixer = Mixer(sum(lengths), 4)
    assert relative_error(one_pass(mixer, lengths, 2), mixer.all_prefixes(lengths, 2)) < EXACT


@pytest.mark.parametrize("kept", [0, 2, 5])
def test_gradients_are_those_of_each_prefix_alone(kept: int) -> None:
    """All six."""
    mixer = Mixer(sum(LENGTHS), 4)
    for part in mixer.parts:
        part.requires_grad_()
    found = torch.autograd.grad(one_pass(mixer, LENGTHS, kept).square().sum(), mixer.parts)
    expected = torch.autograd.grad(mixer.all_prefixes(LENGTHS, kept).square().sum(), mixer.parts)
    assert max(map(relative_error, found, expected)) < EXACT


@pytest.mark.parametrize("log_decay", [0.0, -0.001, -10.0, -1000.0])
def test_float32_is_right_to_rounding(log_decay: float) -> None:
    """For every strength of decay, over several histories in a chunk and several chunks in a history."""
    lengths = [3, 1, 7, 70]
    mixer = Mixer(sum(lengths), 4, dtype=torch.float32)
    mixer.dt, mixer.A = torch.ones_like(mixer.dt), torch.full_like(mixer.A, log_decay)
    assert relative_error(one_pass(mixer, lengths, 5), mixer.double().all_prefixes(lengths, 5)) < ROUNDED
