"""Cross-entropy over the whole catalog without storing the scores."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from packed import relative_error
from ssd4rec.errors import ShapeError
from ssd4rec.ops import cross_entropy
from ssd4rec.ops.cross_entropy import AddedLogits, linear_cross_entropy, linear_cross_entropy_reference, smoothing_loss
from ssd4rec.ops.repeats import prefix_items


def random_inputs(rows: int, classes: int, width: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(rows + classes)
    states = torch.randn(rows, width, generator=random, dtype=dtype, requires_grad=True)
    table = torch.randn(classes, width, generator=random, dtype=dtype, requires_grad=True)
    return states, table, torch.randint(classes, (rows,), generator=random)


@pytest.mark.parametrize("loss", [linear_cross_entropy, linear_cross_entropy_reference])
def test_equal_scores_give_log_of_catalog_size(loss: Callable[..., Tensor]) -> None:
    """With equal scores the loss is ln V, here ln 8."""
    actual = loss(torch.zeros(3, 2), torch.randn(8, 2), torch.tensor([0, 4, 7]))
    assert actual.item() == pytest.approx(math.log(8))


@pytest.mark.parametrize("loss", [linear_cross_entropy, linear_cross_entropy_reference])
def test_two_classes_by_hand(loss: Callable[..., Tensor]) -> None:
    """Scores ln 3 and 0, then 0 and 0: probabilities 3/4 and 1/2, mean loss (ln 4/3 + ln 2) / 2."""
    actual = loss(torch.tensor([[math.log(3)], [0.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0, 1]))
    assert actual.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


@pytest.mark.parametrize("block", [1, 200, 1 << 20])
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 100])
def test_equals_the_definition(rows: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of blocks, the loss equals the definition."""
    monkeypatch.setattr(cross_entropy, "BLOCK_ELEMENTS", block)
    states, table, targets = random_inputs(rows, 4)
    actual, expected = linear_cross_entropy(states, table, targets), linear_cross_entropy_reference(states, table, targets)
    assert relative_error(actual, expected) < 1e-13


@pytest.mark.parametrize("block", [1, 200, 1 << 20])
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 100])
def test_gradients_equal_the_definition(rows: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of blocks, both gradients equal the definition, scaled by the incoming gradient."""
    monkeypatch.setattr(cross_entropy, "BLOCK_ELEMENTS", block)
    states, table, targets = random_inputs(rows, 4)
    actual = torch.autograd.grad(3 * linear_cross_entropy(states, table, targets), (states, table))
    expected = torch.autograd.grad(3 * linear_cross_entropy_reference(states, table, targets), (states, table))
    assert max(map(relative_error, actual, expected)) < 1e-12


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_label_smoothing_equals_torch(share: float) -> None:
    """Loss and gradients equal those of torch's cross-entropy with label_smoothing."""
    states, table, targets = random_inputs(7, 5)
    actual = linear_cross_entropy(states, table, targets) + share * smoothing_loss(states, table[targets], table)
    expected = F.cross_entropy(states @ table.T, targets, label_smoothing=share)
    assert relative_error(actual, expected) < 1e-13
    gradients = (torch.autograd.grad(loss, (states, table)) for loss in (actual, expected))
    assert max(map(relative_error, *gradients)) < 1e-12


def test_float32_accuracy() -> None:
    """In float32, loss and gradients agree with the float64 definition to 1e-6 of the largest value."""
    states, table, targets = random_inputs(100, 300, dtype=torch.float32)
    wide_states, wide_table = (values.detach().double().requires_grad_() for values in (states, table))
    loss, expected = (
        linear_cross_entropy(states, table, targets),
        linear_cross_entropy_reference(wide_states, wide_table, targets),
    )
    assert relative_error(loss, expected) < 1e-6
    actual = torch.autograd.grad(loss, (states, table))
    assert max(map(relative_error, actual, torch.autograd.grad(expected, (wide_states, wide_table)))) < 1e-6


def test_gradients_equal_finite_differences() -> None:
    """The gradients agree with finite differences."""
    states, table, targets = random_inputs(4, 3, width=2)
    assert torch.autograd.gradcheck(lambda a, b: linear_cross_entropy(a, b, targets), (states, table))


def test_large_scores_do_not_overflow() -> None:
    """Scores of 10,000 and 0 give loss 0 for the first class and 10,000 for the second."""
    states, table = torch.tensor([[100.0], [100.0]]), torch.tensor([[100.0], [0.0]])
    assert linear_cross_entropy(states[:1], table, torch.tensor([0])).item() == 0
    assert linear_cross_entropy(states, table, torch.tensor([1, 1])).item() == 10_000


@given(order=st.permutations(range(40)))
def test_order_of_the_rows_does_not_matter(order: list[int]) -> None:
    """The loss is a mean over rows in any order."""
    states, table, targets = random_inputs(40, 6)
    actual, expected = linear_cross_entropy(states[order], table, targets[order]), linear_cross_entropy(states, table, targets)
    assert relative_error(actual, expected) < 1e-13


def test_repeated_target_sums_its_gradient() -> None:
    """Ten rows with the same target give ten times the gradient of one row, for the sum of the loss."""
    states, table, _ = random_inputs(1, 6)
    once = torch.autograd.grad(linear_cross_entropy(states, table, torch.tensor([2])), table)[0]
    tenfold = torch.autograd.grad(10 * linear_cross_entropy(states.expand(10, -1), table, torch.full((10,), 2)), table)[0]
    torch.testing.assert_close(tenfold, 10 * once)


@pytest.mark.parametrize("tile", [1, 70, 1 << 20])
@pytest.mark.parametrize("size", [1.0, 40.0], ids=["no score is large", "scores of hundreds"])
def test_number_of_tiles_does_not_matter(size: float, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any tile size, with and without the shift by the maximum, loss and gradients equal the definition."""
    monkeypatch.setattr(cross_entropy, "TILE_BYTES", 8 * tile)
    monkeypatch.setattr(cross_entropy, "MAX_ROWS", 7)
    states, table, targets = random_inputs(20, 33)
    loss, expected = (form(states * size, table, targets) for form in (linear_cross_entropy, linear_cross_entropy_reference))
    assert relative_error(loss, expected) < 1e-13
    pairs = zip(*(torch.autograd.grad(each, (states, table)) for each in (loss, expected)), strict=True)
    assert max(relative_error(*pair) for pair in pairs) < 1e-12


@pytest.mark.parametrize("size", [1.0, 40.0], ids=["no score is large", "scores of hundreds"])
def test_bf16_autocast(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast to bfloat16, with many blocks and tiles, loss and gradients agree to two digits."""
    monkeypatch.setattr(cross_entropy, "TILE_BYTES", 2 * 70)
    monkeypatch.setattr(cross_entropy, "MAX_ROWS", 7)
    states, table, targets = random_inputs(200, 33, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, expected = (form(states * size, table, targets) for form in (linear_cross_entropy, linear_cross_entropy_reference))
    assert loss.dtype == torch.float32
    assert relative_error(loss, expected) < 1e-2
    pairs = zip(*(torch.autograd.grad(each, (states, table)) for each in (loss, expected)), strict=True)
    assert max(relative_error(*pair) for pair in pairs) < 2e-2


def test_bf16_sums_are_float32() -> None:
    """The sum of 4,099 equal weights keeps the last three; bfloat16 has no number between 4,096 and 4,112."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(torch.zeros(1, 2), torch.randn(4099, 2), torch.tensor([9]))
    assert loss.item() == pytest.approx(math.log(4099), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float16_autocast_is_ignored(dtype: torch.dtype) -> None:
    """float16 cannot represent the weights of unshifted scores, so float16 autocast is ignored."""
    states, table, targets = random_inputs(20, 33, dtype=dtype)
    with torch.autocast("cpu", torch.float16):
        actual = linear_cross_entropy(states, table, targets)
    assert actual == linear_cross_entropy(states, table, targets)


def test_no_gradients_under_no_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under no_grad, the forward pass computes no gradients, although needs_input_grad is set."""
    inputs = random_inputs(4, 7)
    expected = linear_cross_entropy(*inputs).item()

    def fail(*_: Tensor) -> None:
        raise AssertionError("a product of a gradient was computed")

    monkeypatch.setattr(cross_entropy, "add_product", fail)
    with torch.no_grad():
        assert linear_cross_entropy(*inputs).item() == expected
    with pytest.raises(AssertionError, match="of a gradient"):
        linear_cross_entropy(*inputs)


def test_wrong_number_of_targets() -> None:
    """Fewer targets than states is an error."""
    states, table, targets = random_inputs(3, 6)
    with pytest.raises(ShapeError, match="must have the same length"):
        linear_cross_entropy(states, table, targets[:2])


def added_logits(targets: Tensor, classes: int, size: float = 1.0, features: int = 3) -> AddedLogits:
    """Prefixes of two sequences with repeats; about a third of the targets are in their own prefix."""
    random = torch.Generator().manual_seed(len(targets))
    rows = len(targets)
    items = torch.randint(0, classes + 1, (rows,), generator=random)
    items[::3] = targets[::3] + 1
    cu_seqlens = torch.tensor([0, rows // 2, rows] if rows > 1 else [0, 1])
    coefficients = size * torch.randn(rows, features, generator=random, dtype=torch.float64)
    popularity = torch.randn(classes + 1, generator=random, dtype=torch.float64) if features == 5 else None
    return AddedLogits(coefficients.requires_grad_(), prefix_items(items, cu_seqlens, torch.arange(rows)), popularity)


@pytest.mark.parametrize("size", [0.3, 30.0], ids=["small", "large"])
@pytest.mark.parametrize("tile", [1, 70, 1 << 20])
@pytest.mark.parametrize("features", [1, 3, 4, 5])
def test_added_logits_give_loss_and_gradients_of_the_definition(
    size: float, tile: int, features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However rows and catalog are cut, with and without a shift of the scores: the gradients are the definition's."""
    monkeypatch.setattr(cross_entropy, "TILE_BYTES", 8 * tile)
    monkeypatch.setattr(cross_entropy, "MAX_ROWS", 7)
    states, table, targets = random_inputs(40, 33)
    added = added_logits(targets, 33, size, features)
    inputs = (states, table, added.coefficients)
    actual, expected = (
        3 * loss(states, table, targets, added) for loss in (linear_cross_entropy, linear_cross_entropy_reference)
    )
    assert relative_error(actual, expected) < 1e-13
    gradients = (torch.autograd.grad(loss, inputs) for loss in (actual, expected))
    assert max(map(relative_error, *gradients)) < 1e-12


def test_logits_of_minus_ten_by_hand() -> None:
    """Scores 0 for eight items, two of them in the prefix with a logit of -10: any other item costs ln(6 + 2 exp(-10))."""
    prefixes = prefix_items(torch.tensor([3, 5]), torch.tensor([0, 2]), torch.tensor([1]))
    added = AddedLogits(torch.tensor([[-10.0]]), prefixes)
    loss = linear_cross_entropy(torch.zeros(1, 2), torch.randn(8, 2), torch.tensor([0]), added)
    assert loss.item() == pytest.approx(math.log(6 + 2 * math.exp(-10)))
    repeated = linear_cross_entropy(torch.zeros(1, 2), torch.randn(8, 2), torch.tensor([2]), added)
    assert repeated.item() == pytest.approx(10 + math.log(6 + 2 * math.exp(-10)))


def test_a_row_whose_items_are_all_excluded_keeps_its_loss() -> None:
    """Every item of the catalog is in the prefix with a logit of -500: the loss is that without logits, to rounding."""
    prefixes = prefix_items(torch.arange(1, 5), torch.tensor([0, 4]), torch.tensor([3]))
    states, table = torch.randn(1, 3), torch.randn(4, 3)
    targets = torch.tensor([1])
    loss = linear_cross_entropy(states, table, targets, AddedLogits(torch.tensor([[-500.0]]), prefixes))
    assert loss.item() == pytest.approx(linear_cross_entropy(states, table, targets).item(), abs=1e-3)


def test_zero_coefficients_change_no_bit() -> None:
    """Logits of zero leave loss and gradients as they are without logits."""
    states, table, targets = random_inputs(40, 33, dtype=torch.float32)
    added = added_logits(targets, 33, size=0.0)
    plain, with_zeros = linear_cross_entropy(states, table, targets), linear_cross_entropy(states, table, targets, added)
    assert torch.equal(plain, with_zeros)
    for one, other in zip(
        torch.autograd.grad(plain, (states, table)), torch.autograd.grad(with_zeros, (states, table)), strict=True
    ):
        assert torch.equal(one, other)


def test_added_logits_of_other_rows_are_refused() -> None:
    """Four states and prefixes of three do not fit."""
    states, table, targets = random_inputs(4, 5)
    with pytest.raises(ShapeError, match="one prefix for each of the 4 states, found 3 and 3"):
        linear_cross_entropy(states, table, targets, added_logits(targets[:3], 5))
