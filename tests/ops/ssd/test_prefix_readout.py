"""Reading at one place, and at the end of every prefix, equals running the scan as often as it takes."""

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from rows import Mixer, ScanInputs, boundaries_of, mirrored, relative_error, scan_inputs
from ssd4rec.ops import blocks
from ssd4rec.ops.segments import make_layout
from ssd4rec.ops.ssd.prefix_readout import backward_prefix_readout, scan_last_position
from ssd4rec.ops.ssd.reference import scan

EXACT = 1e-12  # float64, relative to the largest number
ROUNDED = 3e-6  # float32 against the float64 definition on the same numbers, relative to the largest number

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
ROWS = pytest.mark.parametrize(
    "lengths",
    [[1], [2], [3], [4], [15], [16], [17], [53], [1, 2, 3, 4, 15, 16, 17, 53], [53, 17, 16, 15, 4, 3, 2, 1, 1]],
    ids=str,
)
lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def last_by_definition(inputs: ScanInputs, cu_seqlens: Tensor, *, reverse: bool) -> Tensor:
    x, dt, A, B, C, D = inputs
    if reverse:
        x, dt, B, C = (mirrored(values, cu_seqlens) for values in (x, dt, B, C))
    return scan(x, dt, A, B, C, D, cu_seqlens)[0][cu_seqlens[1:] - 1]


@DIRECTIONS
@ROWS
def test_last_of_scan_equals_the_scan(lengths: list[int], reverse: bool) -> None:
    """The weighted sum is the scan's y where the scan ends: at the last event, backwards at the first."""
    inputs, cu_seqlens = scan_inputs(lengths), boundaries_of(lengths)
    found = scan_last_position(*inputs, make_layout(cu_seqlens, chunk=16), reverse=reverse)
    assert relative_error(found, last_by_definition(inputs, cu_seqlens, reverse=reverse)) < EXACT


@DIRECTIONS
def test_gradients_of_last_of_scan_equal_those_of_the_scan(reverse: bool) -> None:
    """All six gradients are those of the scan's y where the scan ends."""
    lengths = [1, 2, 3, 4, 15, 16, 17, 53]
    inputs, cu_seqlens = ScanInputs(*(values.requires_grad_() for values in scan_inputs(lengths))), boundaries_of(lengths)
    found = torch.autograd.grad(
        scan_last_position(*inputs, make_layout(cu_seqlens, chunk=16), reverse=reverse).square().sum(), list(inputs)
    )
    expected = torch.autograd.grad(last_by_definition(inputs, cu_seqlens, reverse=reverse).square().sum(), list(inputs))
    assert max(map(relative_error, found, expected)) < EXACT


@DIRECTIONS
@pytest.mark.parametrize("log_decay", [0.0, -0.001, -10.0, -1000.0])
def test_last_of_scan_in_float32(log_decay: float, reverse: bool) -> None:
    """In float32 it is right to rounding for every strength of decay."""
    lengths = [1, 2, 70, 200, 3]
    inputs = scan_inputs(lengths, dtype=torch.float32)
    inputs = inputs._replace(dt=torch.ones_like(inputs.dt), A=torch.full_like(inputs.A, log_decay))
    expected = last_by_definition(ScanInputs(*(values.double() for values in inputs)), boundaries_of(lengths), reverse=reverse)
    assert relative_error(scan_last_position(*inputs, make_layout(boundaries_of(lengths)), reverse=reverse), expected) < ROUNDED


def one_pass(mixer: Mixer, lengths: list[int], Q: int = 16) -> Tensor:
    return backward_prefix_readout(*mixer.parts, make_layout(boundaries_of(lengths), chunk=Q), 4)


@pytest.mark.parametrize("conv_width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("lengths", [[1], [2], [1, 3], [4], [5], [20], [1, 2, 3, 4, 5, 20, 1]], ids=str)
def test_backward_of_every_prefix_equals_each_prefix_alone(lengths: list[int], conv_width: int) -> None:
    """One pass gives the y that the reversed scan of each prefix ends with."""
    mixer = Mixer(sum(lengths), conv_width)
    assert relative_error(one_pass(mixer, lengths), mixer.all_prefixes(lengths)) < EXACT


@pytest.mark.parametrize(("total", "conv_width"), [(3, 5), (4, 6), (5, 8)])
def test_a_row_shorter_than_the_convolution(total: int, conv_width: int) -> None:
    """A row of fewer events than the convolution is wide is read with the taps that it reaches."""
    mixer = Mixer(total, conv_width)
    assert relative_error(one_pass(mixer, [total]), mixer.all_prefixes([total])) < EXACT


@pytest.mark.parametrize("conv_width", [1, 4])
def test_gradients_of_backward_of_every_prefix(conv_width: int) -> None:
    """All six gradients are those of running each prefix alone."""
    lengths = [1, 2, 3, 4, 5, 20, 1]
    mixer = Mixer(sum(lengths), conv_width)
    for part in mixer.parts:
        part.requires_grad_()
    found = torch.autograd.grad(one_pass(mixer, lengths).square().sum(), mixer.parts)
    expected = torch.autograd.grad(mixer.all_prefixes(lengths).square().sum(), mixer.parts)
    assert max(map(relative_error, found, expected)) < EXACT


@pytest.mark.parametrize("elements", [1, 56, 200], ids=["one row a block", "2 rows", "7 rows"])
def test_blocks_change_nothing(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many blocks a row is worked on in, values and gradients are those of one block."""
    lengths = [1, 2, 9, 4, 5, 20, 1]
    mixer = Mixer(sum(lengths), 4)
    for part in mixer.parts:
        part.requires_grad_()
    whole = one_pass(mixer, lengths)
    expected = torch.autograd.grad(whole.square().sum(), mixer.parts)
    monkeypatch.setattr(blocks, "ELEMENTS", elements)
    found = one_pass(mixer, lengths)
    assert relative_error(found, whole) < EXACT
    assert max(map(relative_error, torch.autograd.grad(found.square().sum(), mixer.parts), expected)) < EXACT


def test_backward_of_every_prefix_in_float32() -> None:
    """In float32 one pass is right to rounding, over several histories in a chunk and several chunks in a history."""
    lengths = [3, 1, 7, 40]
    mixer = Mixer(sum(lengths), 4, dtype=torch.float32)
    assert relative_error(one_pass(mixer, lengths, Q=16), mixer.double().all_prefixes(lengths)) < ROUNDED
