"""Sampled softmax cross-entropy."""

import math

import pytest
import torch
from torch import Tensor

from packed import relative_error
from ssd4rec.errors import ShapeError
from ssd4rec.ops import sampled_softmax
from ssd4rec.ops.cross_entropy import AddedLogits, linear_cross_entropy_reference
from ssd4rec.ops.repeats import prefix_items
from ssd4rec.ops.sampled_softmax import (
    NegativeSampler,
    make_negative_sampler,
    sampled_cross_entropy,
    sampled_cross_entropy_reference,
)

COUNTS = torch.tensor([100, 3, 0, 1, 50, 7, 7, 20, 1, 2])


def random_inputs(rows: int = 50, items: int = 10, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(rows + items)
    states = torch.randn(rows, 5, generator=random, dtype=dtype, requires_grad=True)
    table = torch.randn(items, 5, generator=random, dtype=dtype, requires_grad=True)
    return states, table, torch.randint(items, (rows,), generator=random)


def sampled(states: Tensor, table: Tensor, targets: Tensor, sampler: NegativeSampler, loss=sampled_cross_entropy) -> Tensor:
    negatives, log_expected = sampler.draw()
    return loss(states, table[targets], targets, table[negatives], negatives, log_expected)


def test_by_hand() -> None:
    """Scores 0, expected counts 1/2 and 1/4: log(1 + 2 + 4); if one negative is the target: log(1 + 4)."""
    zeros, log_expected = torch.zeros(1, 2), torch.tensor([0.5, 0.25]).log()
    for target, expected in ((7, 7.0), (3, 5.0)):
        actual = sampled_cross_entropy(
            zeros, zeros, torch.tensor([target]), torch.zeros(2, 2), torch.tensor([3, 4]), log_expected
        )
        assert actual.item() == pytest.approx(math.log(expected))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("negatives", [10, 999])
def test_all_items_as_negatives_equal_the_full_softmax(power: float, negatives: int) -> None:
    """With at least V negatives each item is drawn once; loss and gradients equal those of the full softmax."""
    states, table, targets = random_inputs()
    actual = sampled(states, table, targets, make_negative_sampler(COUNTS, power, negatives))
    expected = linear_cross_entropy_reference(states, table, targets)
    assert relative_error(actual, expected) < 1e-13
    gradients = torch.autograd.grad(actual, (states, table))
    assert max(map(relative_error, gradients, torch.autograd.grad(expected, (states, table)))) < 1e-12


@pytest.mark.parametrize("block", [1, 200, 1 << 20])
@pytest.mark.parametrize("rows", [1, 31, 33, 100])
def test_equals_the_definition(rows: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of blocks, the loss and its three gradients equal the definition."""
    monkeypatch.setattr(sampled_softmax, "BLOCK_ELEMENTS", block)
    states, table, targets = random_inputs(rows)
    torch.manual_seed(1)
    negatives, log_expected = make_negative_sampler(COUNTS, 0.5, 4).draw()
    inputs = [states, table[targets].detach().requires_grad_(), table[negatives].detach().requires_grad_()]
    both = [
        loss(inputs[0], inputs[1], targets, inputs[2], negatives, log_expected)
        for loss in (sampled_cross_entropy, sampled_cross_entropy_reference)
    ]
    assert rows < 30 or (negatives == targets[:, None]).any()
    assert relative_error(*both) < 1e-13
    actual, expected = (torch.autograd.grad(3 * loss, inputs) for loss in both)
    assert max(map(relative_error, actual, expected)) < 1e-12


def test_gradients_equal_finite_differences() -> None:
    """The gradients agree with finite differences."""
    states, table, targets = random_inputs(4)
    negatives, log_expected = torch.tensor([0, 3, 3]), torch.tensor([0.1, -0.4, -0.4])
    rows = (table[targets].detach().requires_grad_(), table[negatives].detach().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b, c: sampled_cross_entropy(a, b, targets, c, negatives, log_expected), (states, *rows)
    )


@pytest.mark.thorough
@pytest.mark.parametrize("power", [0.0, 0.75])
def test_partition_function_estimate_is_unbiased(power: float) -> None:
    """Over 20,000 draws of 3 of 10 items, the mean of exp(loss + target score) is the sum of exp(score).

    The loss depends on a draw only through the set of negatives, so it is computed once per distinct set.
    """
    states, table, targets = (each.detach() for each in random_inputs(1))
    sampler, target_score = make_negative_sampler(COUNTS, power, 3), (states @ table[targets].T).item()
    log_expected = torch.empty(10).index_put((sampler.items,), sampler.log_expected)
    torch.manual_seed(0)
    draws = torch.stack([sampler.draw()[0].sort().values for _ in range(20_000)])
    distinct, count = draws.unique(dim=0, return_counts=True)
    losses = [sampled_cross_entropy(states, table[targets], targets, table[set_], set_, log_expected[set_]) for set_ in distinct]
    estimates = (torch.stack(losses) + target_score).exp().repeat_interleave(count)
    error = (estimates.mean() - (states @ table.T).exp().sum()).item()
    assert estimates.std() > 0.01
    assert abs(error) < 5 * estimates.std().item() / 20_000**0.5


def test_more_negatives_approximate_the_full_gradient() -> None:
    """The error of the gradient over 30 draws decreases with 20, 80 and 320 negatives of 400 items."""
    states, table, targets = random_inputs(30, 400)
    exact = torch.autograd.grad(linear_cross_entropy_reference(states, table, targets), table)[0]
    torch.manual_seed(0)
    errors = []
    for negatives in (20, 80, 320):
        sampler = make_negative_sampler(torch.ones(400), 0.0, negatives)
        draws = [torch.autograd.grad(sampled(states, table, targets, sampler), table)[0] for _ in range(30)]
        errors.append(torch.stack([(each - exact).norm() for each in draws]).mean().item())
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.5 * errors[1]


@pytest.mark.thorough
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("negatives", [1, 4, 9])
def test_sampling_frequencies_match_expected_counts(power: float, negatives: int) -> None:
    """Over 10,000 draws the mean count of each item is E <= 1; the counts sum to the number of negatives; none exceeds 2."""
    sampler = make_negative_sampler(COUNTS, power, negatives)
    torch.manual_seed(0)
    draws = torch.stack([torch.bincount(sampler.draw()[0], minlength=10) for _ in range(10_000)])
    expected = torch.zeros(10, dtype=torch.float64).index_put((sampler.items,), sampler.log_expected.double().exp())
    assert expected.sum().item() == pytest.approx(negatives, rel=1e-6)
    assert expected.max() < 1 + 1e-6
    assert (draws.sum(1) == negatives).all()
    assert draws.max() <= 2
    assert (draws.double().mean(0) - expected).abs().max() < 0.025


def test_expected_counts_by_hand() -> None:
    """Counts 8, 1, 1 and 2 negatives: c = 2 / 10 would give 1.6 for the first, so it is capped at 1 and the others get 1/2."""
    sampler = make_negative_sampler(torch.tensor([1, 8, 1]), 1.0, 2)
    assert sampler.items.tolist() == [1, 0, 2]
    assert sampler.edges.tolist() == [1.0, 1.5, 2.0]
    assert sampler.log_expected.exp().tolist() == pytest.approx([1.0, 0.5, 0.5])


def test_seed_determines_the_negatives() -> None:
    """Equal seeds draw equal negatives, different seeds different ones."""
    sampler = make_negative_sampler(torch.ones(1000), 0.0, 50)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(sampler.draw()[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_large_scores_do_not_overflow() -> None:
    """A target score of 10,000 and a negative of 0 give loss 0; the other way around, 10,000."""
    one, rows = torch.tensor([[100.0]]), (torch.tensor([[100.0]]), torch.tensor([[0.0]]))
    for own, other, expected in ((rows[0], rows[1], 0.0), (rows[1], rows[0], 10_000.0)):
        actual = sampled_cross_entropy(one, own, torch.tensor([0]), other, torch.tensor([1]), torch.zeros(1))
        assert actual.item() == expected


def test_mismatched_lengths() -> None:
    """Different lengths are an error."""
    states, table, targets = random_inputs(3)
    negatives, log_expected = torch.arange(4), torch.zeros(4)
    with pytest.raises(ShapeError, match=r"targets \[M\] must have"):
        sampled_cross_entropy(states, table[targets], targets[:2], table[negatives], negatives, log_expected)
    with pytest.raises(ShapeError, match=r"log_expected \[K\] must have"):
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
    coefficients = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    draws, log_expected = make_negative_sampler(COUNTS, 0.5, negatives).draw()
    rows, parts = (states, table, coefficients), (targets, draws + 1, log_expected)

    def loss(form) -> Tensor:
        added = AddedLogits(coefficients, prefixes)
        return form(states, table[parts[0] - 1], parts[0], table[draws], parts[1], parts[2], added)

    actual, expected = loss(sampled_cross_entropy), loss(sampled_cross_entropy_reference)
    assert relative_error(actual, expected) < 1e-13
    gradients = (torch.autograd.grad(each, rows) for each in (actual, expected))
    assert max(map(relative_error, *gradients)) < 1e-12
