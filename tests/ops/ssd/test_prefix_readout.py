"""The read-out at the last position and of every prefix equals running the scan on each prefix."""

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from packed import Mixer, ScanInputs, cu_seqlens_of, relative_error, reverse_sequences, scan_inputs
from ssd4rec.ops import blocks
from ssd4rec.ops.segments import make_layout
from ssd4rec.ops.ssd.prefix_readout import backward_prefix_readout, scan_last_position
from ssd4rec.ops.ssd.reference import scan

EXACT = 1e-12  # float64, relative to the largest value
ROUNDED = 3e-6  # float32, relative to the largest value of the float64 reference

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
ROWS = pytest.mark.parametrize(
    "lengths",
    [[1], [2], [3], [4], [15], [16], [17], [53], [1, 2, 3, 4, 15, 16, 17, 53], [53, 17, 16, 15, 4, 3, 2, 1, 1]],
    ids=str,
)
lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def last_by_definition(inputs: ScanInputs, cu_seqlens: Tensor, *, reverse: bool) -> Tensor:
    x, dt, A, B, C, D = inputs
    if reverse:
        x, dt, B, C = (reverse_sequences(values, cu_seqlens) for values in (x, dt, B, C))
    return scan(x, dt, A, B, C, D, cu_seqlens)[0][cu_seqlens[1:] - 1]


@DIRECTIONS
@ROWS
def test_last_position_equals_the_scan(lengths: list[int], reverse: bool) -> None:
    """The weighted sum equals y at the end of the scan: at the last position, in reverse at the first."""
    inputs, cu_seqlens = scan_inputs(lengths), cu_seqlens_of(lengths)
    actual = scan_last_position(*inputs, make_layout(cu_seqlens, chunk=16), reverse=reverse)
    assert relative_error(actual, last_by_definition(inputs, cu_seqlens, reverse=reverse)) < EXACT


@DIRECTIONS
def test_gradients_of_last_position_equal_the_scan(reverse: bool) -> None:
    """All six gradients equal those of y at the end of the scan."""
    lengths = [1, 2, 3, 4, 15, 16, 17, 53]
    inputs, cu_seqlens = ScanInputs(*(values.requires_grad_() for values in scan_inputs(lengths))), cu_seqlens_of(lengths)
    actual = torch.autograd.grad(
        scan_last_position(*inputs, make_layout(cu_seqlens, chunk=16), reverse=reverse).square().sum(), list(inputs)
    )
    expected = torch.autograd.grad(last_by_definition(inputs, cu_seqlens, reverse=reverse).square().sum(), list(inputs))
    assert max(map(relative_error, actual, expected)) < EXACT


@DIRECTIONS
@pytest.mark.parametrize("log_decay", [0.0, -0.001, -10.0, -1000.0])
def test_last_position_in_float32(log_decay: float, reverse: bool) -> None:
    """In float32 the result is accurate for weak to strong decays."""
    lengths = [1, 2, 70, 200, 3]
    inputs = scan_inputs(lengths, dtype=torch.float32)
    inputs = inputs._replace(dt=torch.ones_like(inputs.dt), A=torch.full_like(inputs.A, log_decay))
    expected = last_by_definition(ScanInputs(*(values.double() for values in inputs)), cu_seqlens_of(lengths), reverse=reverse)
    assert relative_error(scan_last_position(*inputs, make_layout(cu_seqlens_of(lengths)), reverse=reverse), expected) < ROUNDED


def one_pass(mixer: Mixer, lengths: list[int], Q: int = 16) -> Tensor:
    return backward_prefix_readout(*mixer.parts, make_layout(cu_seqlens_of(lengths), chunk=Q), 4)


@pytest.mark.parametrize("conv_width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("lengths", [[1], [2], [1, 3], [4], [5], [20], [1, 2, 3, 4, 5, 20, 1]], ids=str)
def test_prefix_readout_equals_each_prefix_alone(lengths: list[int], conv_width: int) -> None:
    """One pass gives y at the end of the reversed scan of each prefix."""
    mixer = Mixer(sum(lengths), conv_width)
    assert relative_error(one_pass(mixer, lengths), mixer.read_out_prefixes(lengths)) < EXACT


@pytest.mark.parametrize(("total", "conv_width"), [(3, 5), (4, 6), (5, 8)])
def test_batch_shorter_than_the_convolution(total: int, conv_width: int) -> None:
    """A packed batch with fewer positions than the width uses only the taps that it reaches."""
    mixer = Mixer(total, conv_width)
    assert relative_error(one_pass(mixer, [total]), mixer.read_out_prefixes([total])) < EXACT


@pytest.mark.parametrize("conv_width", [1, 4])
def test_gradients_of_prefix_readout(conv_width: int) -> None:
    """All six gradients equal those of running each prefix alone."""
    lengths = [1, 2, 3, 4, 5, 20, 1]
    mixer = Mixer(sum(lengths), conv_width)
    for part in mixer.parts:
        part.requires_grad_()
    actual = torch.autograd.grad(one_pass(mixer, lengths).square().sum(), mixer.parts)
    expected = torch.autograd.grad(mixer.read_out_prefixes(lengths).square().sum(), mixer.parts)
    assert max(map(relative_error, actual, expected)) < EXACT


@pytest.mark.parametrize("elements", [1, 56, 200], ids=["one row a block", "2 rows", "7 rows"])
def test_number_of_blocks_does_not_matter(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of blocks, values and gradients equal those of one block."""
    lengths = [1, 2, 9, 4, 5, 20, 1]
    mixer = Mixer(sum(lengths), 4)
    for part in mixer.parts:
        part.requires_grad_()
    whole = one_pass(mixer, lengths)
    expected = torch.autograd.grad(whole.square().sum(), mixer.parts)
    monkeypatch.setattr(blocks, "ELEMENTS", elements)
    actual = one_pass(mixer, lengths)
    assert relative_error(actual, whole) < EXACT
    assert max(map(relative_error, torch.autograd.grad(actual.square().sum(), mixer.parts), expected)) < EXACT


def test_prefix_readout_in_float32() -> None:
    """In float32 one pass is accurate, with several sequences per chunk and several chunks per sequence."""
    lengths = [3, 1, 7, 40]
    mixer = Mixer(sum(lengths), 4, dtype=torch.float32)
    assert relative_error(one_pass(mixer, lengths, Q=16), mixer.double().read_out_prefixes(lengths)) < ROUNDED
