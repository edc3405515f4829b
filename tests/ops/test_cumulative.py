"""Sums along each history equal loops, and keep the digits that a difference of longer sums would lose."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rows import boundaries_of, mirrored, one_by_one
from ssd4rec.ops.cumulative import cumulative_sum
from ssd4rec.ops.segments import make_layout

EXACT = 1e-12  # float64, relative to the largest number

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def running_sum(values: Tensor, cu_seqlens: Tensor, *, reverse: bool) -> Tensor:
    values = mirrored(values, cu_seqlens) if reverse else values
    total = one_by_one(lambda row, _: row.cumsum(0), values, cu_seqlens)
    return mirrored(total, cu_seqlens) if reverse else total


def test_cumulative_sum_by_hand() -> None:
    """1 2 | 3 4 5 sums to 1 3 | 3 7 12, and from the end to 3 2 | 12 9 5, in chunks of two."""
    row, layout = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]), make_layout(torch.tensor([0, 2, 5]), chunk=2)
    assert cumulative_sum(row, layout).flatten().tolist() == [1, 3, 3, 7, 12]
    assert cumulative_sum(row, layout, reverse=True).flatten().tolist() == [3, 2, 12, 9, 5]
    assert cumulative_sum(row, layout, inclusive=False).flatten().tolist() == [0, 1, 0, 3, 7]
    assert cumulative_sum(row, layout, reverse=True, inclusive=False).flatten().tolist() == [2, 0, 9, 5, 0]


@DIRECTIONS
@given(lengths=lengths_of_histories, Q=st.sampled_from([2, 8, 16, 64]))
def test_cumulative_sum_equals_a_loop(lengths: list[int], Q: int, reverse: bool) -> None:
    """The sums are those of each history alone, whatever the chunk."""
    cu_seqlens = boundaries_of(lengths)
    row = torch.randn(sum(lengths), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = cumulative_sum(row, make_layout(cu_seqlens, chunk=Q), reverse=reverse)
    expected = running_sum(row, cu_seqlens, reverse=reverse)
    torch.testing.assert_close(found, expected, rtol=EXACT, atol=EXACT)
    without = cumulative_sum(row, make_layout(cu_seqlens, chunk=Q), reverse=reverse, inclusive=False)
    torch.testing.assert_close(without, expected - row, rtol=EXACT, atol=EXACT)


@DIRECTIONS
@pytest.mark.parametrize("inclusive", [True, False])
def test_gradient_of_the_cumulative_sum(inclusive: bool, reverse: bool) -> None:
    """The gradient is the sum from the other end."""
    layout = make_layout(boundaries_of([2, 9]), chunk=4)
    row = torch.randn(11, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: cumulative_sum(values, layout, reverse=reverse, inclusive=inclusive), row)


@DIRECTIONS
def test_a_large_neighbour_does_not_round_a_sum(reverse: bool) -> None:
    """Beside a history of 1e8s, ones sum to 1, 2, 3, … exactly in float32: no sum is the difference of two longer ones."""
    row = torch.cat([torch.full((20, 1), 1e8), torch.ones(20, 1), torch.full((20, 1), 1e8)])
    found = cumulative_sum(row, make_layout(boundaries_of([20, 20, 20]), chunk=8), reverse=reverse)[20:40].flatten().tolist()
    assert found == list(range(20, 0, -1) if reverse else range(1, 21))


@DIRECTIONS
@pytest.mark.parametrize("steep", [-10.0, -50.0])
def test_a_steep_decay_does_not_round_the_sum_before_it(steep: float, reverse: bool) -> None:
    """Decays of -0.001 a step, each 9th steep, over two chunks: exp of the sum before (after) each event, float32 against
    float64, to 1e-7 where that sum is small. Subtracting the event from the sum with it would be off by more than 2e-7.
    """
    row = torch.full((20, 1), -0.001)
    row[8::9] = steep
    layout = make_layout(boundaries_of([9, 11]), chunk=8)
    exact = running_sum(row.double(), layout.cu_seqlens, reverse=reverse) - row
    small = exact > -1
    weights = torch.exp(cumulative_sum(row, layout, reverse=reverse, inclusive=False))
    assert (weights - exact.exp())[small].abs().max() < 1e-7
    subtracted = torch.exp(cumulative_sum(row, layout, reverse=reverse) - row)
    assert (subtracted - exact.exp())[small].abs().max() > 2e-7
