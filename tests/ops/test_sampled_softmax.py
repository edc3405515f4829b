"""The loss against a sample of the catalog."""

import math

import pytest
import torch
from torch import Tensor

from rows import relative_error
from ssd4rec.errors import ShapeError
from ssd4rec.ops import sampled_softmax
from ssd4rec.ops.cross_entropy import AddedLogits, linear_cross_entropy_definition
from ssd4rec.ops.repeats import prefix_items
from ssd4rec.ops.sampled_softmax import (
    NegativeSampler,
    make_negative_sampler,
    sampled_cross_entropy,
    sampled_cross_entropy_definition,
)

COUNTS = torch.tensor([100, 3, 0, 1, 50, 7, 7, 20, 1, 2])


def random_inputs(rows: int = 50, items: int = 10, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(rows + items)
    states = torch.randn(rows, 5, generator=random, dtype=dtype, requires_grad=True)
    table = torch.randn(items, 5, generator=random, dtype=dtype, requires_grad=True)
    return states, table, torch.randint(items, (rows,), generator=random)


def sampled(states: Tensor, table: Tensor, targets: Tensor, proposal: NegativeSampler, loss=sampled_cross_entropy) -> Tensor:
    negatives, log_expected = proposal.draw()
    return loss(states, table[targets], targets, table[negatives], negatives, log_expected)


def test_by_hand() -> None:
    """Scores 0 for all, two negatives expected 1/2 and 1/4 times: log(1 + 2 + 4); one of them the target: log(1 + 4)."""
    zeros, log_expected = torch.zeros(1, 2), torch.tensor([0.5, 0.25]).log()
    for target, expected in ((7, 7.0), (3, 5.0)):
        found = sampled_cross_entropy(zeros, zeros, torch.tensor([target]), torch.zeros(2, 2), torch.tensor([3, 4]), log_expected)
        assert found.item() == pytest.approx(math.log(expected))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("negatives", [10, 999])
def test_all_items_as_negatives_give_the_full_softmax(power: float, negatives: int) -> None:
    """With V negatives or more each item is drawn once and expected once: loss and gradients are those of the full softmax."""
    states, table, targets = random_inputs()
    found = sampled(states, table, targets, make_negative_sampler(COUNTS, power, negatives))
    expected = linear_cross_entropy_definition(states, table, targets)
    assert relative_error(found, expected) < 1e-13
    gradients = torch.autograd.grad(found, (states, table))
    assert max(map(relative_error, gradients, torch.autograd.grad(expected, (states, table)))) < 1e-12


@pytest.mark.parametrize("block", [1, 200, 1 << 20])
@pytest.mark.parametrize("rows", [1, 31, 33, 100])
def test_equals_the_definition(rows: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many blocks the rows are worked on in, the loss and its three gradients are those of all scores at once."""
    monkeypatch.setattr(sampled_softmax, "BLOCK_ELEMENTS", block)
    states, table, targets = random_inputs(rows)
    torch.manual_seed(1)
    negatives, log_expected = make_negative_sampler(COUNTS, 0.5, 4).draw()
    inputs = [states, table[targets].detach().requires_grad_(), table[negatives].detach().requires_grad_()]
    both = [
        loss(inputs[0], inputs[1], targets, inputs[2], negatives, log_expected)
        for loss in (sampled_cross_entropy, sampled_cross_entropy_definition)
    ]
    assert rows < 30 or (negatives == targets[:, None]).any()
    assert relative_error(*both) < 1e-13
    found, expected = (torch.autograd.grad(3 * loss, inputs) for loss in both)
    assert max(map(relative_error, found, expected)) < 1e-12


def test_gradients_equal_finite_differences() -> None:
    """The gradients are those of the values."""
    states, table, targets = random_inputs(4)
    negatives, log_expected = torch.tensor([0, 3, 3]), torch.tensor([0.1, -0.4, -0.4])
    rows = (table[targets].detach().requires_grad_(), table[negatives].detach().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b, c: sampled_cross_entropy(a, b, targets, c, negatives, log_expected), (states, *rows)
    )


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_the_partition_function_is_estimated_without_bias(power: float) -> None:
    """Over 20,000 draws of 3 of 10 items, the mean of exp(loss + target's score) is the sum of exp(score) over the catalog."""
    states, table, targets = (each.detach() for each in random_inputs(1))
    proposal, own = make_negative_sampler(COUNTS, power, 3), (states @ table[targets].T).item()
    torch.manual_seed(0)
    found = torch.stack([(sampled(states, table, targets, proposal) + own).exp() for _ in range(20_000)])
    error = (found.mean() - (states @ table.T).exp().sum()).item()
    assert found.std() > 0.01
    assert abs(error) < 5 * found.std().item() / 20_000**0.5


def test_more_negatives_come_closer_to_the_full_gradient() -> None:
    """The error of the table's gradient, over 30 draws, falls with the negatives: 20, 80, 320 of 400 items."""
    states, table, targets = random_inputs(30, 400)
    exact = torch.autograd.grad(linear_cross_entropy_definition(states, table, targets), table)[0]
    torch.manual_seed(0)
    errors = []
    for negatives in (20, 80, 320):
        proposal = make_negative_sampler(torch.ones(400), 0.0, negatives)
        drawn = [torch.autograd.grad(sampled(states, table, targets, proposal), table)[0] for _ in range(30)]
        errors.append(torch.stack([(each - exact).norm() for each in drawn]).mean().item())
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.5 * errors[1]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("negatives", [1, 4, 9])
def test_items_are_drawn_as_often_as_expected(power: float, negatives: int) -> None:
    """Over 10,000 draws the frequency of each item is its E; none is above 1, they sum to the negatives, none is drawn thrice."""
    proposal = make_negative_sampler(COUNTS, power, negatives)
    torch.manual_seed(0)
    draws = torch.stack([torch.bincount(proposal.draw()[0], minlength=10) for _ in range(10_000)])
    expected = torch.zeros(10, dtype=torch.float64).index_put((proposal.items,), proposal.log_expected.double().exp())
    assert expected.sum().item() == pytest.approx(negatives, rel=1e-6)
    assert expected.max() < 1 + 1e-6
    assert (draws.sum(1) == negatives).all()
    assert draws.max() <= 2
    assert (draws.double().mean(0) - expected).abs().max() < 0.025


def test_expectations_by_hand() -> None:
    """Counts 8, 1, 1 and 2 negatives: c = 2 / 10 would expect the first 1.6 times; it is certain, the others 1/2 each."""
    proposal = make_negative_sampler(torch.tensor([1, 8, 1]), 1.0, 2)
    assert proposal.items.tolist() == [1, 0, 2]
    assert proposal.edges.tolist() == [1.0, 1.5, 2.0]
    assert proposal.log_expected.exp().tolist() == pytest.approx([1.0, 0.5, 0.5])


def test_the_seed_decides_the_negatives() -> None:
    """The same seed draws the same negatives, another one others."""
    proposal = make_negative_sampler(torch.ones(1000), 0.0, 50)
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(proposal.draw()[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_large_scores_do_not_overflow() -> None:
    """A target at 10,000 and a negative at 0 cost nothing; the other way round 10,000."""
    one, rows = torch.tensor([[100.0]]), (torch.tensor([[100.0]]), torch.tensor([[0.0]]))
    for own, other, expected in ((rows[0], rows[1], 0.0), (rows[1], rows[0], 10_000.0)):
        found = sampled_cross_entropy(one, own, torch.tensor([0]), other, torch.tensor([1]), torch.zeros(1))
        assert found.item() == expected


def test_what_does_not_fit() -> None:
    """Lengths that differ are an error."""
    states, table, targets = random_inputs(3)
    negatives, log_expected = torch.arange(4), torch.zeros(4)
    with pytest.raises(ShapeError, match=r"targets \[M\] must fit"):
        sampled_cross_entropy(states, table[targets], targets[:2], table[negatives], negatives, log_expected)
    with pytest.raises(ShapeError, match=r"log_expected \[K\] must fit"):
        sampled_cross_entropy(states, table[targets], targets, table[negatives], negatives, log_expected[:3])


@pytest.mark.parametrize("block", [1, 200, 1 << 20])
@pytest.mark.parametrize("negatives", [4, 12, 999])
def test_added_logits_give_loss_and_gradients_of_the_definition(
    negatives: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of targets and of negatives in the prefix, drawn once, twice or not at all: all gradients are the definition's."""
    monkeypatch.setattr(sampled_softmax, "BLOCK_ELEMENTS", block)
    states, table, targets = random_inputs()
    targets = targets + 1  # item indices from 1, as the model passes them
    items = torch.randint(0, 11, (50,), generator=torch.Generator().manual_seed(1))
    items[::3] = targets[::3]
    prefixes = prefix_items(items, torch.tensor([0, 20, 50]), torch.arange(50))
    coefficients = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    drawn, log_expected = make_negative_sampler(COUNTS, 0.5, negatives).draw()
    rows, parts = (states, table, coefficients), (targets, drawn + 1, log_expected)

    def loss(form) -> Tensor:
        added = AddedLogits(coefficients, prefixes)
        return form(states, table[parts[0] - 1], parts[0], table[drawn], parts[1], parts[2], added)

    actual, expected = loss(sampled_cross_entropy), loss(sampled_cross_entropy_definition)
    assert relative_error(actual, expected) < 1e-13
    gradients = (torch.autograd.grad(each, rows) for each in (actual, expected))
    assert max(map(relative_error, *gradients)) < 1e-12
