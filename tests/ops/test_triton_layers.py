"""The convolution, the gate with its norm, and the loss as Triton kernels, run by Triton's interpreter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kernels import run_programs_backwards
from rows import boundaries_of, relative_error
from ssd4rec.errors import ShapeError
from ssd4rec.ops.convolution import convolve
from ssd4rec.ops.cross_entropy import linear_cross_entropy_definition
from ssd4rec.ops.segments import make_layout

if torch.cuda.is_available():
    pytest.skip("a GPU runs the kernels themselves: tests/gpu", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed")
from ssd4rec.ops.triton import convolution, gate, softmax

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("_poisoned")]

ROUNDED = 1e-6  # float32 against float64 on the same numbers, relative to the largest number
LENGTHS = [1, 2, 3, 4, 5, 31, 32, 33]
LAYOUT = make_layout(boundaries_of(LENGTHS))


def normal(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes]


def check(found: Callable[..., Any], expected: Callable[..., Any], inputs: list[Tensor], bound: float = ROUNDED) -> None:
    """`found` in the inputs' type and `expected` in float64 give the same values and gradients."""
    ours = [values.clone().requires_grad_() for values in inputs]
    theirs = [values.double().requires_grad_() for values in inputs]
    out, wanted = as_tuple(found(*ours)), as_tuple(expected(*theirs))
    weights = [torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) for values in wanted]
    gradients = torch.autograd.grad(out, ours, [weight.to(values.dtype) for weight, values in zip(weights, out, strict=True)])
    wanted_gradients = torch.autograd.grad(wanted, theirs, weights)
    found_errors = [relative_error(*pair) for pair in zip((*out, *gradients), (*wanted, *wanted_gradients), strict=True)]
    assert max(found_errors) < bound, found_errors


def as_tuple(values: Any) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_convolution(width: int, reverse: bool) -> None:
    """Sequences shorter and longer than the width and the block, channels that do not fill a block."""
    check(
        lambda row, weight, bias: convolution.convolve(row, weight, bias, LAYOUT, reverse=reverse),
        lambda row, weight, bias: convolve(row, weight, bias, LAYOUT, reverse=reverse),
        normal((sum(LENGTHS), 20), (20, width), (20,)),
    )


def test_convolution_both_ways() -> None:
    """Both directions at once are each direction, and their gradients add up."""
    check(
        lambda row, weight, bias: convolution.convolve_both_ways(row, weight, bias, LAYOUT),
        lambda row, weight, bias: (convolve(row, weight, bias, LAYOUT), convolve(row, weight, bias, LAYOUT, reverse=True)),
        normal((sum(LENGTHS), 130), (130, 4), (130,)),
    )


def test_convolution_of_a_slice() -> None:
    """A part of one wide projection, whose rows lie apart in memory, is read as its copy is."""
    wide, weight, bias = normal((sum(LENGTHS), 30), (20, 4), (20,))
    part = wide[:, 5:25]
    assert not part.is_contiguous()
    found = convolution.convolve(part, weight, bias, LAYOUT)
    assert torch.equal(found, convolution.convolve(part.clone(), weight, bias, LAYOUT))


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (70, 96), (3, 5000)])
def test_gated_norm(rows: int, width: int) -> None:
    """One row, rows that do not fill a block, a row wider than a block."""
    check(
        lambda y, z, weight: gate.gated_norm(y, z, weight, 1e-5),
        lambda y, z, weight: F.rms_norm(y * F.silu(z), (width,), weight, 1e-5),
        normal((rows, width), (rows, width), (width,)),
    )


def test_gated_norm_in_half_precision() -> None:
    """float16 rows with a float32 weight: the sums are float32, the result is rounded once (2^-11)."""
    y, z, weight = normal((9, 64), (9, 64), (64,))
    found = gate.gated_norm(y.half(), z.half(), weight, 1e-5)
    assert found.dtype == torch.float16
    expected = F.rms_norm(y.half().double() * F.silu(z.half().double()), (64,), weight.double(), 1e-5)
    assert relative_error(found, expected) < 2**-11


SMALL = softmax.Tile(rows=16, classes=16, width=16, programs=8, block_elements=1, block_rows=20, warps=4)


@pytest.mark.parametrize(("rows", "classes", "programs"), [(1, 3, 1), (50, 70, 1), (50, 70, 100)])
def test_cross_entropy(rows: int, classes: int, programs: int) -> None:
    """Rows, classes and width that fill no block; the classes in one part and in as many as there are blocks of them."""
    targets = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(2))
    tile = SMALL._replace(programs=programs)
    check(
        lambda states, table: softmax.linear_cross_entropy(states, table, targets, tile),
        lambda states, table: linear_cross_entropy_definition(states, table, targets),
        normal((rows, 40), (classes, 40)),
        bound=2e-6,
    )


def test_cross_entropy_of_large_scores() -> None:
    """Scores of 10,000 and 0 cost nothing for the first and 10,000 for the second."""
    states, table = torch.tensor([[100.0], [100.0]]), torch.tensor([[100.0], [0.0]])
    assert softmax.linear_cross_entropy(states[:1], table, torch.tensor([0]), SMALL).item() == 0
    assert softmax.linear_cross_entropy(states, table, torch.tensor([1, 1]), SMALL).item() == 10_000


def test_targets_of_another_number() -> None:
    """Fewer targets than states is an error, not a smaller loss."""
    states, table = normal((3, 5), (6, 5))
    with pytest.raises(ShapeError, match="must be of one length"):
        softmax.linear_cross_entropy(states, table, torch.tensor([0, 1]))


def test_the_order_of_programs_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs run from the last to the first give the same bits: none reads or adds to what another has written."""
    targets = torch.randint(30, (40,), generator=torch.Generator().manual_seed(2))
    drawn = normal((sum(LENGTHS), 20), (20, 4), (20,), (20,), (30, 20))
    monkeypatch.setattr(gate, "ELEMENTS", 8 * 32)  # eight rows a block: many programs
    monkeypatch.setattr(gate, "BLOCKS_A_PROGRAM", 2)
    monkeypatch.setattr(convolution, "BLOCKS_A_PROGRAM", 1)

    def gradients() -> tuple[Tensor, ...]:
        inputs = [values.clone().requires_grad_() for values in drawn]
        both = convolution.convolve_both_ways(*inputs[:3], LAYOUT)
        normed = gate.gated_norm(*both, inputs[3], 1e-5)
        return torch.autograd.grad(softmax.linear_cross_entropy(normed[:40], inputs[4], targets, SMALL), inputs)

    forwards = gradients()
    run_programs_backwards(monkeypatch)
    for first, second in zip(forwards, gradients(), strict=True):
        assert torch.equal(first, second)
