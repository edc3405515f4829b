"""Soft targets without storing the scores of all positions."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from packed import relative_error
from ssd4rec.errors import ShapeError
from ssd4rec.ops import cross_entropy, dispatch
from ssd4rec.ops.cross_entropy import AddedLogits, ScoreFactors, linear_cross_entropy_reference
from ssd4rec.ops.dispatch import Backend
from ssd4rec.ops.repeats import prefix_items
from ssd4rec.ops.soft_targets import SoftTargets, distillation_loss, distillation_loss_reference

LENGTHS = [1, 4, 7, 3]
ROWS, CLASSES, WIDTH = sum(LENGTHS), 6, 5


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def added_logits(seed: int) -> AddedLogits:
    """Return logits of the items of prefixes with repeats, most of them few of the classes."""
    items = torch.randint(1, CLASSES + 1, (ROWS,), generator=torch.Generator().manual_seed(3))
    cu_seqlens = torch.tensor([0, *LENGTHS]).cumsum(0)
    return AddedLogits(randn(ROWS, 4, seed=seed).requires_grad_(), prefix_items(items, cu_seqlens, torch.arange(ROWS)))


class Fixed(NamedTuple):
    """Logits that are stored, where others are computed for each block."""

    logits: Tensor

    def block(self, rows: slice) -> Tensor:
        return self.logits[rows]


def inputs(*, repeats: bool, fixed: float = 0.0) -> tuple[Tensor, Tensor, Tensor, SoftTargets, AddedLogits | None]:
    states, table = randn(ROWS, WIDTH, seed=1).requires_grad_(), randn(CLASSES, WIDTH, seed=2).requires_grad_()
    targets = torch.randint(CLASSES, (ROWS,), generator=torch.Generator().manual_seed(0))
    logits = Fixed(fixed * randn(ROWS, CLASSES, seed=9)) if fixed else None
    factors = ScoreFactors(randn(ROWS, 8, seed=4), randn(CLASSES, 8, seed=5), added_logits(6) if repeats else None)
    teacher = SoftTargets(factors, fixed=logits)
    return states, table, targets, teacher, added_logits(7) if repeats else None


def test_two_classes_by_hand() -> None:
    """ScoreFactors 2 and 0, soft targets 3/4 and 1/4: 2 - 3/2 for the first class, 0 - 3/2 for the second."""
    teacher = SoftTargets(ScoreFactors(torch.tensor([[math.log(3)]]).expand(2, 1), torch.tensor([[1.0], [0.0]])))
    actual = distillation_loss(torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0, 1]), teacher)
    assert actual.item() == pytest.approx((0.5 - 1.5) / 2)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("fixed", [0.0, 2.0, 300.0])
@pytest.mark.parametrize("block", [1, 2 * CLASSES, 1 << 20])
def test_equals_the_definition(block: int, fixed: float, repeats: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of blocks, the loss and all gradients equal the definition, scaled by the incoming gradient."""
    monkeypatch.setattr(cross_entropy, "BLOCK_ELEMENTS", block)
    states, table, targets, teacher, added = inputs(repeats=repeats, fixed=fixed)
    leaves = (states, table) if added is None else (states, table, added.coefficients)
    results = []
    for function in (distillation_loss, distillation_loss_reference):
        loss = function(states, table, targets, teacher, added)
        results.append([loss, *torch.autograd.grad(3 * loss, leaves)])
    assert max(map(relative_error, *results)) < 1e-12


def test_is_what_the_cross_entropy_of_a_mixture_adds() -> None:
    """Cross-entropy plus w times the loss is the cross-entropy of (1 - w) (target) + w (soft targets)."""
    states, table, targets, teacher, added = inputs(repeats=True)
    assert added is not None
    scores = states @ table.T
    added.add_to(scores, slice(0, ROWS))
    soft = teacher.probabilities()
    mixture = 0.7 * torch.nn.functional.one_hot(targets, CLASSES).double() + 0.3 * soft
    expected = -(mixture * scores.log_softmax(1)).sum(1).mean()
    hard = linear_cross_entropy_reference(states, table, targets, added)
    assert relative_error(hard + 0.3 * distillation_loss(states, table, targets, teacher, added), expected) < 1e-13


def test_no_gradient_flows_to_the_teacher() -> None:
    states, table, targets, teacher, _ = inputs(repeats=False)
    teacher.factors.states.requires_grad_()
    teacher.factors.table.requires_grad_()
    distillation_loss(states, table, targets, teacher).backward()
    assert teacher.factors.states.grad is None
    assert teacher.factors.table.grad is None


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("fixed", [0.0, 2.0])
def test_float32_with_every_backend(backend: Backend, fixed: float) -> None:
    """The loss and all gradients equal the definition in float64."""
    states, table, targets, teacher, added = inputs(repeats=True, fixed=fixed)
    assert added is not None
    expected = distillation_loss_reference(states, table, targets, teacher, added)
    single = [each.detach().float().requires_grad_() for each in (states, table, added.coefficients)]
    with dispatch.use_backend(backend):
        raised = AddedLogits(single[2], added.prefixes)
        soft = teacher._replace(factors=teacher.factors.to(torch.float32))
        actual = dispatch.distillation_loss(*single[:2], targets, soft, raised)
    assert abs(actual - expected) < 1e-6
    gradients = torch.autograd.grad(actual, single), torch.autograd.grad(expected, (states, table, added.coefficients))
    assert max(map(relative_error, *gradients)) < 1e-5


def test_bfloat16_products() -> None:
    """Under autocast the products are bfloat16: the loss differs from float32 by their rounding."""
    states, table, targets, teacher, _ = inputs(repeats=False)
    states, table = (each.detach().float().requires_grad_() for each in (states, table))
    teacher = SoftTargets(teacher.factors.to(torch.float32))
    expected = distillation_loss(states, table, targets, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = distillation_loss(states, table, targets, teacher)
    assert 0 < abs(actual - expected) < 5e-3
    gradients = [torch.autograd.grad(each, (states, table)) for each in (actual, expected)]
    assert 0 < max(map(relative_error, *gradients)) < 2e-2


def test_teacher_of_another_batch() -> None:
    states, table, targets, teacher, _ = inputs(repeats=False)
    with pytest.raises(ShapeError, match="must have the same length"):
        distillation_loss(states[:3], table, targets[:3], teacher)
