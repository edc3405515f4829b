"""The kernels of the scan in Triton's interpreter: logic and masks, but not races or tensor core precision.

tests/gpu runs them at real sizes on a GPU; tests/ops/test_triton_compiles.py compiles them.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from kernels import run_programs_backwards
from packed import ScanInputs, cu_seqlens_of, definition, relative_error, scan_inputs
from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import make_layout

if torch.cuda.is_available():
    pytest.skip("a GPU runs the kernels themselves: tests/gpu", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed")
from ssd4rec.ops import triton
from ssd4rec.ops.triton import ssd

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("_poisoned")]

ROUNDED = 3e-6  # float32, relative to the largest value of the float64 reference
HALF = 4e-3  # float16 operands: 2^-11 per product, a few products in a row
Q = 16
TILE = ssd.Tile(length=Q, chunks=2, columns=128, programs=1)
LENGTHS = [1, 2, 3, 4, Q - 1, Q, Q + 1, 3 * Q + 5]
DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


class Run(NamedTuple):
    y: Tensor
    gradients: dict[str, Tensor]


def run(inputs: ScanInputs, lengths: list[int], *, reverse: bool, tile: ssd.Tile = TILE) -> Run:
    ours = ScanInputs(*(values.detach().clone().requires_grad_() for values in inputs))
    return with_gradients(ssd.scan(*ours, make_layout(cu_seqlens_of(lengths)), reverse=reverse, tile=tile), ours)


def expected_run(inputs: ScanInputs, lengths: list[int], *, reverse: bool) -> Run:
    theirs = ScanInputs(*(values.detach().double().requires_grad_() for values in inputs))
    return with_gradients(definition(theirs, lengths, reverse=reverse), theirs)


def with_gradients(y: Tensor, inputs: ScanInputs) -> Run:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    gradients = torch.autograd.grad(y, list(inputs), weights)
    return Run(y.detach(), dict(zip(ScanInputs._fields, gradients, strict=True)))


def errors(actual: Run, expected: Run, inputs: ScanInputs) -> dict[str, float]:
    """Return the error of y and of each gradient relative to its largest value.

    The gradient of a log decay is a small difference of large terms <x, dx>, whose size is the unit for d(dt) and dA.
    """
    terms = (inputs.x.double() * expected.gradients["x"]).sum(-1).abs()
    least = {"dt": float((inputs.A.abs() * terms).max()), "A": float((inputs.dt * terms).sum(0).max())}
    by_name = {"y": relative_error(actual.y, expected.y)}
    for name, gradient in expected.gradients.items():
        assert torch.isfinite(actual.gradients[name]).all(), name
        unit = max(float(gradient.abs().max()), least.get(name, 0.0))
        assert unit > 0, name
        by_name[name] = float((actual.gradients[name].double() - gradient).abs().max()) / unit
    return by_name


def of_all_decays(dtype: torch.dtype = torch.float32) -> ScanInputs:
    """Return inputs with four heads: log decays of -0.005 … -2.4, then 0, -10 and -50 at each position."""
    inputs = scan_inputs(LENGTHS, heads=4, head_width=16, state_dim=16, dtype=dtype)
    inputs.dt[:, 1:] = 1.0
    inputs.A[1:] = torch.tensor([0.0, -10.0, -50.0])
    return inputs


@DIRECTIONS
def test_values_and_gradients_equal_the_reference(reverse: bool) -> None:
    """Lengths around the chunk size, spans of two chunks, heads without decay next to heads with complete decay."""
    inputs = of_all_decays()
    actual = errors(run(inputs, LENGTHS, reverse=reverse), expected_run(inputs, LENGTHS, reverse=reverse), inputs)
    assert max(actual.values()) < ROUNDED, actual


@pytest.mark.parametrize(("head_width", "state_dim", "reverse"), [(32, 32, False), (64, 64, True), (16, 128, False)])
def test_all_head_widths_and_state_sizes(head_width: int, state_dim: int, reverse: bool) -> None:
    """P of 32 and 64, N of 32, 64 and 128, spans of one chunk."""
    lengths = [3, 2 * Q + 1, 1]
    inputs = scan_inputs(lengths, heads=1, head_width=head_width, state_dim=state_dim, dtype=torch.float32)
    tile = TILE._replace(chunks=1)
    actual = errors(run(inputs, lengths, reverse=reverse, tile=tile), expected_run(inputs, lengths, reverse=reverse), inputs)
    assert max(actual.values()) < ROUNDED, actual


@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["forward", "reverse"])
def test_order_of_programs_does_not_matter(reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running the programs in reverse order gives the same bits, so no program depends on another."""
    lengths = [5, Q + 3]
    inputs = scan_inputs(lengths, heads=3, head_width=16, state_dim=16, dtype=torch.float32)
    tile = TILE._replace(columns=32, chunks=1, programs=100)
    forwards = run(inputs, lengths, reverse=reverse, tile=tile)
    run_programs_backwards(monkeypatch)
    backwards = run(inputs, lengths, reverse=reverse, tile=tile)
    assert torch.equal(forwards.y, backwards.y)
    for name, gradient in forwards.gradients.items():
        assert torch.equal(gradient, backwards.gradients[name]), name


@pytest.mark.slow
def test_spans_of_four_chunks() -> None:
    """A sequence that covers three spans."""
    lengths, tile = [60, 72, 3], TILE._replace(chunks=4)
    inputs = scan_inputs(lengths, heads=1, head_width=16, state_dim=16, dtype=torch.float32)
    actual = errors(run(inputs, lengths, reverse=True, tile=tile), expected_run(inputs, lengths, reverse=True), inputs)
    assert max(actual.values()) < ROUNDED, actual


@pytest.mark.slow
def test_columns_split_among_programs() -> None:
    """Two tiles of columns in two programs or in one give the same gradients; a second run gives the same bits."""
    lengths = [5, Q]
    inputs = scan_inputs(lengths, heads=3, head_width=16, state_dim=16, dtype=torch.float32)
    one = run(inputs, lengths, reverse=False)
    two = run(inputs, lengths, reverse=False, tile=TILE._replace(programs=100))
    again = run(inputs, lengths, reverse=False, tile=TILE._replace(programs=100))
    assert relative_error(two.gradients["B"], one.gradients["B"]) < ROUNDED
    assert relative_error(two.gradients["C"], one.gradients["C"]) < ROUNDED
    for name, gradient in again.gradients.items():
        assert torch.equal(gradient, two.gradients[name]), name


def test_half_precision() -> None:
    """float16 x, B and C with float32 decays agree with the reference to HALF."""
    lengths = [3, 2 * Q + 1]
    inputs = scan_inputs(lengths, heads=2, head_width=16, state_dim=16, dtype=torch.float32)
    inputs = inputs._replace(x=inputs.x.half(), B=inputs.B.half(), C=inputs.C.half())
    ours = run(inputs, lengths, reverse=False)
    assert ours.y.dtype == torch.float16
    actual = errors(ours, expected_run(inputs, lengths, reverse=False), inputs)
    assert max(actual.values()) < HALF, actual


def test_strided_inputs() -> None:
    """Strided slices of one projection give the same result as their copies."""
    lengths = [3, Q]
    x, dt, A, B, C, D = scan_inputs(lengths, heads=2, head_width=16, state_dim=16, dtype=torch.float32)
    wide = torch.cat([x.flatten(1), B, C, dt], dim=1)
    sliced_x, sliced_B, sliced_C, sliced_dt = wide.split([32, 16, 16, 2], dim=1)
    assert not sliced_x.is_contiguous()
    layout = make_layout(cu_seqlens_of(lengths))
    actual = ssd.scan(sliced_x.unflatten(1, (2, 16)), sliced_dt, A, sliced_B, sliced_C, D, layout, tile=TILE)
    assert torch.equal(actual, ssd.scan(x, dt, A, B, C, D, layout, tile=TILE))


@pytest.mark.parametrize(("head_width", "state_dim"), [(8, 16), (16, 24)])
def test_sizes_without_a_kernel(head_width: int, state_dim: int) -> None:
    """P = 8 and N = 24 are an error that names the alternative."""
    inputs = scan_inputs([3], head_width=head_width, state_dim=state_dim, dtype=torch.float32)
    assert not triton.supports_scan(inputs.x, inputs.B)
    with pytest.raises(ShapeError, match=r"the scan kernels support P in .* use ops\.ssd\.chunked\.chunked_scan"):
        ssd.scan(*inputs, make_layout(cu_seqlens_of([3])))
