"""Gated RMSNorm in blocks of rows."""

import pytest
import torch
from torch import Tensor

from packed import relative_error
from ssd4rec.ops import blocks
from ssd4rec.ops.gated_norm import gated_norm, gated_norm_reference

EPS = 1e-5


def random_inputs(rows: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(rows)
    shapes = [(rows, width), (rows, width), (width,)]
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


def test_by_hand() -> None:
    """Equal gates cancel in the norm: (3, 4) gives (3, 4) / sqrt(12.5), times weights 1 and 10."""
    actual = gated_norm(torch.tensor([[3.0, 4.0]]), torch.full((1, 2), 2.0), torch.tensor([1.0, 10.0]), 0.0)
    assert actual.tolist() == [pytest.approx([3 / 12.5**0.5, 40 / 12.5**0.5])]


@pytest.mark.parametrize("elements", [1, 20, 1 << 18], ids=["one row a block", "4 rows", "one block"])
@pytest.mark.parametrize("rows", [1, 13])
def test_equals_the_definition(rows: int, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of blocks, values and gradients equal the definition."""
    monkeypatch.setattr(blocks, "ELEMENTS", elements)
    inputs = random_inputs(rows, 5)
    actual, expected = gated_norm(*inputs, EPS), gated_norm_reference(*inputs, EPS)
    incoming = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=actual.dtype)
    assert relative_error(actual, expected) < 1e-14
    pairs = zip(torch.autograd.grad(actual, inputs, incoming), torch.autograd.grad(expected, inputs, incoming), strict=True)
    assert max(relative_error(*pair) for pair in pairs) < 1e-13


def test_gradients_equal_finite_differences() -> None:
    """The gradients of y, gate and weight agree with finite differences."""
    assert torch.autograd.gradcheck(lambda *inputs: gated_norm(*inputs, EPS), random_inputs(3, 4))


@pytest.mark.parametrize("size", [0.0, 1e-18, 1e15], ids=["zeros", "tiny", "huge"])
def test_rows_of_any_size(size: float) -> None:
    """Zero, tiny and huge rows in float32 give finite values and gradients."""
    inputs = [values.detach().float().requires_grad_() for values in random_inputs(4, 8)]
    actual = gated_norm(inputs[0] * size, inputs[1], inputs[2], EPS)
    gradients = torch.autograd.grad(actual.sum(), inputs)
    assert all(torch.isfinite(values).all() for values in (actual, *gradients))
    assert size or not actual.any()


def test_half_precision() -> None:
    """bfloat16 input with float32 weights gives float32 output and bfloat16 gradients."""
    y, gate, weight = (values.detach().float() for values in random_inputs(6, 8))
    y, gate = y.bfloat16().requires_grad_(), gate.bfloat16().requires_grad_()
    actual = gated_norm(y, gate, weight, EPS)
    assert relative_error(actual, gated_norm_reference(y.float(), gate.float(), weight, EPS)) < 1e-6
    assert {gradient.dtype for gradient in torch.autograd.grad(actual.sum(), [y, gate])} == {torch.bfloat16}
