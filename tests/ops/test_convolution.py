"""The depthwise causal convolution, which never looks into a neighbour's history."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from rows import boundaries_of, mirrored
from ssd4rec.ops.convolution import convolve, taps
from ssd4rec.ops.segments import lay_out

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
WIDTHS = pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
lengths_of_histories = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def random_inputs(total: int, width: int, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(total)
    shapes = [(total, channels), (channels, width), (channels,)]
    row, weight, bias = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
    return row, weight, bias


def history_by_history(row: Tensor, weight: Tensor, bias: Tensor, boundaries: Tensor) -> Tensor:
    """torch's conv1d on each history alone, padded on the left."""
    outputs = []
    for start, stop in pairwise(boundaries.tolist()):
        padded = F.pad(row[start:stop].T, (weight.shape[1] - 1, 0))
        outputs.append(F.silu(F.conv1d(padded[None], weight[:, None], bias, groups=len(weight)))[0].T)
    return torch.cat(outputs)


def test_taps_by_hand() -> None:
    """in = 1, 10 | 100, weight (2, 3), bias 7: the event itself times 3, then the one before it times 2, not across the bar."""
    row, weight, bias = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([7.0])
    alone, with_neighbour = taps(row, weight, bias, lay_out(boundaries_of([2, 1])))
    assert alone.flatten().tolist() == [10, 37, 307]
    assert with_neighbour.flatten().tolist() == [10, 39, 307]


def test_reversed_taps_by_hand() -> None:
    """Backwards the neighbour is the event after: in = 1, 10 | 100, weight (2, 3), bias 7."""
    row, weight, bias = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([7.0])
    alone, with_neighbour = taps(row, weight, bias, lay_out(boundaries_of([2, 1])), reverse=True)
    assert alone.flatten().tolist() == [10, 37, 307]
    assert with_neighbour.flatten().tolist() == [30, 37, 307]


def test_silu_comes_last() -> None:
    """An event of 1 with weight 2 and bias 1 gives 3 / (1 + exp(-3)) = 2.8577."""
    found = convolve(torch.ones(1, 1), torch.tensor([[9.0, 2.0]]), torch.ones(1), lay_out(boundaries_of([1])))
    assert found.item() == pytest.approx(2.8577, abs=1e-4)


@WIDTHS
@given(lengths=lengths_of_histories)
def test_equals_a_convolution_of_each_history(width: int, lengths: list[int]) -> None:
    """The packed row gives what torch's conv1d gives on each history alone."""
    row, weight, bias = random_inputs(sum(lengths), width)
    boundaries = boundaries_of(lengths)
    found = convolve(row, weight, bias, lay_out(boundaries))
    torch.testing.assert_close(found, history_by_history(row, weight, bias, boundaries), rtol=1e-12, atol=1e-12)


@WIDTHS
@given(lengths=lengths_of_histories)
def test_reversed_equals_a_convolution_of_the_mirror(width: int, lengths: list[int]) -> None:
    """Reversed is the convolution of each history mirrored, mirrored back."""
    row, weight, bias = random_inputs(sum(lengths), width)
    boundaries = boundaries_of(lengths)
    found = convolve(row, weight, bias, lay_out(boundaries), reverse=True)
    expected = mirrored(history_by_history(mirrored(row, boundaries), weight, bias, boundaries), boundaries)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@DIRECTIONS
def test_gradients_equal_finite_differences(reverse: bool) -> None:
    """The gradients of events, weights and bias are those of the values, over boundaries and a history shorter than the width."""
    layout = lay_out(boundaries_of([2, 5]))
    inputs = tuple(values.requires_grad_() for values in random_inputs(7, 4))
    assert torch.autograd.gradcheck(lambda *three: convolve(*three, layout, reverse=reverse), inputs)


@DIRECTIONS
@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_row_shorter_than_the_convolution(total: int, reverse: bool) -> None:
    """A row of fewer events than the width is read with the taps that it reaches."""
    row, weight, bias = random_inputs(total, 5)
    boundaries = boundaries_of([total])
    expected = history_by_history(mirrored(row, boundaries) if reverse else row, weight, bias, boundaries)
    expected = mirrored(expected, boundaries) if reverse else expected
    torch.testing.assert_close(convolve(row, weight, bias, lay_out(boundaries), reverse=reverse), expected)


def test_entry_k_of_the_reversed_taps_is_what_a_prefix_hears() -> None:
    """Entry k at event s is the full reversed convolution at s in the prefix that ends at s + k."""
    row, weight, bias = random_inputs(9, 4)
    built_up = taps(row, weight, bias, lay_out(boundaries_of([9])), reverse=True)
    for s in range(9):
        for k in range(min(4, 9 - s)):
            prefix = taps(row[: s + k + 1], weight, bias, lay_out(boundaries_of([s + k + 1])), reverse=True)[-1]
            torch.testing.assert_close(built_up[k][s], prefix[s])
