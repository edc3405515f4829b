"""Dropout on a CPU."""

import pytest
import torch
from torch import Tensor

from ssd4rec.layers.dropout import Dropout
from ssd4rec.ops.dropout import dropout


def dropped(seed: int = 0, p: float = 0.2, shape: tuple[int, ...] = (1001, 333)) -> Tensor:
    torch.manual_seed(seed)
    return dropout(torch.ones(shape), p, training=True)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_fraction_of_zeros(p: float) -> None:
    """Of 333,333 elements a fraction p is zero, within five standard deviations."""
    share = (dropped(p=p) == 0).double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / 333_333) ** 0.5


def test_remaining_elements_are_rescaled() -> None:
    """p = 0.2 keeps 52,429 of 65,536 levels, so ones become 65,536 / 52,429 and the mean stays 1."""
    actual = dropped()
    assert actual[actual != 0].unique().tolist() == pytest.approx([65_536 / 52_429], abs=1e-7)
    assert actual.mean().item() == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("offset", range(4))
def test_the_four_elements_of_an_integer_are_independent(offset: int) -> None:
    """Four elements share one random integer: each is dropped with probability p, and pairs are independent."""
    gone = (dropped(shape=(100_000, 4), p=0.3) == 0).double()
    assert gone[:, offset].mean().item() == pytest.approx(0.3, abs=0.01)
    together = (gone[:, offset] * gone[:, (offset + 1) % 4]).mean().item()
    assert together == pytest.approx(0.09, abs=0.01)


def test_gradient_uses_the_same_mask() -> None:
    """Dropped elements have gradient zero, the others the scale."""
    x = torch.rand(37, 5, dtype=torch.float64).add(1).requires_grad_()
    out = dropout(x, 0.4, training=True)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert 0 < (out == 0).sum() < out.numel()
    assert torch.equal(gradient * x, out)


def test_seed_determines_the_mask() -> None:
    """Equal seeds give equal masks, different seeds different ones."""
    assert torch.equal(dropped(5), dropped(5))
    assert not torch.equal(dropped(5), dropped(6))


@pytest.mark.parametrize("p", [0.0, 1e-6])
def test_tiny_probability_rounds_to_zero(p: float) -> None:
    """p = 0, or p that rounds to 0, drops nothing."""
    assert torch.equal(dropped(p=p), torch.ones(1001, 333))


def test_probability_one_drops_everything() -> None:
    """p = 1 gives zeros, also for very large values."""
    assert not dropped(p=1.0).any()
    assert not dropout(torch.full((9,), 1e36), 1.0, training=True).any()


def test_module_in_evaluation_mode() -> None:
    """In evaluation mode the module is the identity, in training mode it is not; it has no parameters."""
    module, x = Dropout(0.5), torch.ones(100)
    assert torch.equal(module.eval()(x), x)
    assert not torch.equal(module.train()(x), x)
    assert not module.state_dict()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_shape_are_preserved(dtype: torch.dtype) -> None:
    """Any dtype, strided input, and empty input."""
    x = torch.ones(7, 12, dtype=dtype).T
    assert dropout(x, 0.3, training=True).dtype == dtype
    assert dropout(x[:0], 0.3, training=True).shape == (0, 7)
