"""Convolution, gated norm and cross-entropy as Triton kernels, in Triton's interpreter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kernels import run_programs_backwards
from packed import cu_seqlens_of, relative_error
from ssd4rec.errors import ShapeError
from ssd4rec.ops.convolution import convolve
from ssd4rec.ops.cross_entropy import linear_cross_entropy_reference
from ssd4rec.ops.segments import make_layout

if torch.cuda.is_available():
    pytest.skip("a GPU runs the kernels themselves: tests/gpu", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed")
from ssd4rec.ops.triton import convolution, cross_entropy, gated_norm

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("_poisoned")]

ROUNDED = 1e-6  # float32, relative to the largest value of the float64 reference
LENGTHS = [1, 2, 3, 4, 5, 31, 32, 33]
LAYOUT = make_layout(cu_seqlens_of(LENGTHS))


def normal(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes]


def check(function: Callable[..., Any], reference: Callable[..., Any], inputs: list[Tensor], bound: float = ROUNDED) -> None:
    """Compare values and gradients with the float64 reference on the same inputs."""
    ours = [values.clone().requires_grad_() for values in inputs]
    theirs = [values.double().requires_grad_() for values in inputs]
    actual, expected = as_tuple(function(*ours)), as_tuple(reference(*theirs))
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(values.shape, generator=random, dtype=torch.float64) for values in expected]
    narrow = [weight.to(values.dtype) for weight, values in zip(weights, actual, strict=True)]
    gradients, expected_gradients = torch.autograd.grad(actual, ours, narrow), torch.autograd.grad(expected, theirs, weights)
    errors = [relative_error(*pair) for pair in zip((*actual, *gradients), (*expected, *expected_gradients), strict=True)]
    assert max(errors) < bound, errors


def as_tuple(values: Any) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_convolution(width: int, reverse: bool) -> None:
    """Sequences shorter and longer than the width and the block, channels that do not fill a block."""
    check(
        lambda row, weight, bias: convolution.convolve(row, weight, bias, LAYOUT, reverse=reverse),
        lambda row, weight, bias: convolve(row, weight, bias, LAYOUT, reverse=reverse),
        normal((sum(LENGTHS), 20), (20, width), (20,)),
    )


def test_bidirectional_convolution() -> None:
    """Both directions at once equal the single directions, and their gradients are added."""
    check(
        lambda row, weight, bias: convolution.convolve_bidirectional(row, weight, bias, LAYOUT),
        lambda row, weight, bias: (convolve(row, weight, bias, LAYOUT), convolve(row, weight, bias, LAYOUT, reverse=True)),
        normal((sum(LENGTHS), 130), (130, 4), (130,)),
    )


def test_convolution_of_a_slice() -> None:
    """A strided slice of a projection gives the same result as its copy."""
    wide, weight, bias = normal((sum(LENGTHS), 30), (20, 4), (20,))
    part = wide[:, 5:25]
    assert not part.is_contiguous()
    actual = convolution.convolve(part, weight, bias, LAYOUT)
    assert torch.equal(actual, convolution.convolve(part.clone(), weight, bias, LAYOUT))


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (70, 96), (3, 5000)])
def test_gated_norm(rows: int, width: int) -> None:
    """One row, rows that do not fill a block, and a row wider than a block."""
    check(
        lambda y, z, weight: gated_norm.gated_norm(y, z, weight, 1e-5),
        lambda y, z, weight: F.rms_norm(y * F.silu(z), (width,), weight, 1e-5),
        normal((rows, width), (rows, width), (width,)),
    )


def test_gated_norm_in_half_precision() -> None:
    """float16 rows with a float32 weight: sums are float32, and the result is rounded once (2^-11)."""
    y, z, weight = normal((9, 64), (9, 64), (64,))
    actual = gated_norm.gated_norm(y.half(), z.half(), weight, 1e-5)
    assert actual.dtype == torch.float16
    expected = F.rms_norm(y.half().double() * F.silu(z.half().double()), (64,), weight.double(), 1e-5)
    assert relative_error(actual, expected) < 2**-11


SMALL = cross_entropy.Tile(rows=16, classes=16, width=16, programs=8, block_elements=1, block_rows=20, warps=4)


@pytest.mark.parametrize(("rows", "classes", "programs"), [(1, 3, 1), (50, 70, 1), (50, 70, 100)])
def test_cross_entropy(rows: int, classes: int, programs: int) -> None:
    """Rows, classes and width that fill no block; classes in one part and in as many parts as blocks."""
    targets = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(2))
    tile = SMALL._replace(programs=programs)
    check(
        lambda states, table: cross_entropy.linear_cross_entropy(states, table, targets, tile),
        lambda states, table: linear_cross_entropy_reference(states, table, targets),
        normal((rows, 40), (classes, 40)),
        bound=2e-6,
    )


def test_cross_entropy_of_large_scores() -> None:
    """Scores of 10,000 and 0 give loss 0 for the first class and 10,000 for the second."""
    states, table = torch.tensor([[100.0], [100.0]]), torch.tensor([[100.0], [0.0]])
    assert cross_entropy.linear_cross_entropy(states[:1], table, torch.tensor([0]), SMALL).item() == 0
    assert cross_entropy.linear_cross_entropy(states, table, torch.tensor([1, 1]), SMALL).item() == 10_000


def test_wrong_number_of_targets() -> None:
    """Fewer targets than states is an error."""
    states, table = normal((3, 5), (6, 5))
    with pytest.raises(ShapeError, match="must have the same length"):
        cross_entropy.linear_cross_entropy(states, table, torch.tensor([0, 1]))


def test_order_of_programs_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running the programs in reverse order gives the same bits, so no program depends on another."""
    targets = torch.randint(30, (40,), generator=torch.Generator().manual_seed(2))
    tensors = normal((sum(LENGTHS), 20), (20, 4), (20,), (20,), (30, 20))
    monkeypatch.setattr(gated_norm, "ELEMENTS", 8 * 32)  # eight rows per block, so there are many programs
    monkeypatch.setattr(gated_norm, "BLOCKS_A_PROGRAM", 2)
    monkeypatch.setattr(convolution, "BLOCKS_A_PROGRAM", 1)

    def gradients() -> tuple[Tensor, ...]:
        inputs = [values.clone().requires_grad_() for values in tensors]
        both = convolution.convolve_bidirectional(*inputs[:3], LAYOUT)
        normed = gated_norm.gated_norm(*both, inputs[3], 1e-5)
        return torch.autograd.grad(cross_entropy.linear_cross_entropy(normed[:40], inputs[4], targets, SMALL), inputs)

    forwards = gradients()
    run_programs_backwards(monkeypatch)
    for first, second in zip(forwards, gradients(), strict=True):
        assert torch.equal(first, second)
