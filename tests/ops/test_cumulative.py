"""Cumulative sums along each sequence, and their rounding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from packed import cu_seqlens_of, encode_each, reverse_sequences
from ssd4rec.ops.cumulative import cumulative_sum
from ssd4rec.ops.segments import make_layout

EXACT = 1e-12  # float64, relative to the largest value

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def running_sum(values: Tensor, cu_seqlens: Tensor, *, reverse: bool) -> Tensor:
    values = reverse_sequences(values, cu_seqlens) if reverse else values
    total = encode_each(lambda row, _: row.cumsum(0), values, cu_seqlens)
    return reverse_sequences(total, cu_seqlens) if reverse else total


def test_cumulative_sum_by_hand() -> None:
    """1 2 | 3 4 5 gives 1 3 | 3 7 12, and reversed 3 2 | 12 9 5, in chunks of two."""
    row, layout = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]), make_layout(torch.tensor([0, 2, 5]), chunk=2)
    assert cumulative_sum(row, layout).flatten().tolist() == [1, 3, 3, 7, 12]
    assert cumulative_sum(row, layout, reverse=True).flatten().tolist() == [3, 2, 12, 9, 5]
    assert cumulative_sum(row, layout, inclusive=False).flatten().tolist() == [0, 1, 0, 3, 7]
    assert cumulative_sum(row, layout, reverse=True, inclusive=False).flatten().tolist() == [2, 0, 9, 5, 0]


@DIRECTIONS
@given(lengths=lengths_of_histories, Q=st.sampled_from([2, 8, 16, 64]))
def test_cumulative_sum_equals_a_loop(lengths: list[int], Q: int, reverse: bool) -> None:
    """The sums equal those of each sequence alone, for any chunk size."""
    cu_seqlens = cu_seqlens_of(lengths)
    row = torch.randn(sum(lengths), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actual = cumulative_sum(row, make_layout(cu_seqlens, chunk=Q), reverse=reverse)
    expected = running_sum(row, cu_seqlens, reverse=reverse)
    torch.testing.assert_close(actual, expected, rtol=EXACT, atol=EXACT)
    without = cumulative_sum(row, make_layout(cu_seqlens, chunk=Q), reverse=reverse, inclusive=False)
    torch.testing.assert_close(without, expected - row, rtol=EXACT, atol=EXACT)


@DIRECTIONS
@pytest.mark.parametrize("inclusive", [True, False])
def test_gradient_of_the_cumulative_sum(inclusive: bool, reverse: bool) -> None:
    """The gradient agrees with finite differences."""
    layout = make_layout(cu_seqlens_of([2, 9]), chunk=4)
    row = torch.randn(11, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: cumulative_sum(values, layout, reverse=reverse, inclusive=inclusive), row)


@DIRECTIONS
def test_large_neighbor_does_not_round_a_sum(reverse: bool) -> None:
    """Between sequences of 1e8s, ones sum to 1, 2, 3, … exactly in float32: no sum is a difference of longer sums."""
    row = torch.cat([torch.full((20, 1), 1e8), torch.ones(20, 1), torch.full((20, 1), 1e8)])
    actual = cumulative_sum(row, make_layout(cu_seqlens_of([20, 20, 20]), chunk=8), reverse=reverse)[20:40].flatten().tolist()
    assert actual == list(range(20, 0, -1) if reverse else range(1, 21))


@DIRECTIONS
@pytest.mark.parametrize("steep", [-10.0, -50.0])
def test_strong_decay_does_not_round_earlier_sums(steep: float, reverse: bool) -> None:
    """Log decays of -0.001, every 9th strong, over two chunks: exp of the exclusive sum agrees with float64 to 1e-7.

    Subtracting the position from the inclusive sum would be off by more than 2e-7.
    """
    row = torch.full((20, 1), -0.001)
    row[8::9] = steep
    layout = make_layout(cu_seqlens_of([9, 11]), chunk=8)
    exact = running_sum(row.double(), layout.cu_seqlens, reverse=reverse) - row
    small = exact > -1
    weights = torch.exp(cumulative_sum(row, layout, reverse=reverse, inclusive=False))
    assert (weights - exact.exp())[small].abs().max() < 1e-7
    subtracted = torch.exp(cumulative_sum(row, layout, reverse=reverse) - row)
    assert (subtracted - exact.exp())[small].abs().max() > 2e-7
