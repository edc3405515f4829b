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
def test_a_share_of_p_becomes_zero(p: float) -> None:
    """Of 333,333 elements p are 0, give or take five standard deviations."""
    share = (dropped(p=p) == 0).double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / 333_333) ** 0.5


def test_the_others_are_scaled_by_what_is_kept() -> None:
    """p = .2 is 52,429 of 65,536 levels kept: what is left of a 1 is 65,536 / 52,429, so that the mean stays."""
    found = dropped()
    assert found[found != 0].unique().tolist() == pytest.approx([65_536 / 52_429], abs=1e-7)
    assert found.mean().item() == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("offset", range(4))
def test_every_place_of_the_four_is_dropped_alike_and_alone(offset: int) -> None:
    """Four numbers come from one draw: each of them has the share p, and no two of them go together."""
    gone = (dropped(shape=(100_000, 4), p=0.3) == 0).double()
    assert gone[:, offset].mean().item() == pytest.approx(0.3, abs=0.01)
    together = (gone[:, offset] * gone[:, (offset + 1) % 4]).mean().item()
    assert together == pytest.approx(0.09, abs=0.01)


def test_the_gradient_has_the_mask_of_the_values() -> None:
    """What was dropped has no gradient, the rest has the scale."""
    x = torch.rand(37, 5, dtype=torch.float64).add(1).requires_grad_()
    out = dropout(x, 0.4, training=True)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert 0 < (out == 0).sum() < out.numel()
    assert torch.equal(gradient * x, out)


def test_the_seed_decides() -> None:
    """One seed gives the same mask, another seed another one."""
    assert torch.equal(dropped(5), dropped(5))
    assert not torch.equal(dropped(5), dropped(6))


@pytest.mark.parametrize("p", [0.0, 1e-6])
def test_nothing_is_dropped_below_the_smallest_level(p: float) -> None:
    """p = 0, and what rounds to it, leaves all as it was."""
    assert torch.equal(dropped(p=p), torch.ones(1001, 333))


def test_everything_is_dropped_at_one() -> None:
    """p = 1 leaves zeros, of the largest values too."""
    assert not dropped(p=1.0).any()
    assert not dropout(torch.full((9,), 1e36), 1.0, training=True).any()


def test_evaluation_drops_nothing() -> None:
    """A module in evaluation mode gives back what it gets, in training mode it does not; it has no weights."""
    module, x = Dropout(0.5), torch.ones(100)
    assert torch.equal(module.eval()(x), x)
    assert not torch.equal(module.train()(x), x)
    assert not module.state_dict()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_stays(dtype: torch.dtype) -> None:
    """Any type, strided input too; also no elements at all."""
    x = torch.ones(7, 12, dtype=dtype).T
    assert dropout(x, 0.3, training=True).dtype == dtype
    assert dropout(x[:0], 0.3, training=True).shape == (0, 7)
