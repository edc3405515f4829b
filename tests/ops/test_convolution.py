"""The depthwise causal convolution, which never looks into a neighbor's history."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from rows import boundaries_of, mirrored, relative_error
from ssd4rec.ops import blocks
from ssd4rec.ops.convolution import convolve, taps
from ssd4rec.ops.segments import make_layout

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
WIDTHS = pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
lengths_of_histories = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def random_inputs(total: int, width: int, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(total)
    shapes = [(total, channels), (channels, width), (channels,)]
    row, weight, bias = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
    return row, weight, bias


def history_by_history(row: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    """torch's conv1d on each history alone, padded on the left."""
    outputs = []
    for start, stop in pairwise(cu_seqlens.tolist()):
        padded = F.pad(row[start:stop].T, (weight.shape[1] - 1, 0))
        outputs.append(F.silu(F.conv1d(padded[None], weight[:, None], bias, groups=len(weight)))[0].T)
    return torch.cat(outputs)


def test_taps_by_hand() -> None:
    """in = 1, 10 | 100, weight (2, 3), bias 7: the event itself times 3, then the one before it times 2, not across the bar."""
    row, weight, bias = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([7.0])
    alone, with_neighbour = taps(row, weight, bias, make_layout(boundaries_of([2, 1])))
    assert alone.flatten().tolist() == [10, 37, 307]
    assert with_neighbour.flatten().tolist() == [10, 39, 307]


def test_reversed_taps_by_hand() -> None:
    """Backwards the neighbor is the event after: in = 1, 10 | 100, weight (2, 3), bias 7."""
    row, weight, bias = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([7.0])
    alone, with_neighbour = taps(row, weight, bias, make_layout(boundaries_of([2, 1])), reverse=True)
    assert alone.flatten().tolist() == [10, 37, 307]
    assert with_neighbour.flatten().tolist() == [30, 37, 307]


def test_silu_comes_last() -> None:
    """An event of 1 with weight 2 and bias 1 gives 3 / (1 + exp(-3)) = 2.8577."""
    found = convolve(torch.ones(1, 1), torch.tensor([[9.0, 2.0]]), torch.ones(1), make_layout(boundaries_of([1])))
    assert found.item() == pytest.approx(2.8577, abs=1e-4)


@WIDTHS
@given(lengths=lengths_of_histories)
def test_equals_a_convolution_of_each_history(width: int, lengths: list[int]) -> None:
    """The packed row gives what torch's conv1d gives on each history alone."""
    row, weight, bias = random_inputs(sum(lengths), width)
    cu_seqlens = boundaries_of(lengths)
    found = convolve(row, weight, bias, make_layout(cu_seqlens))
    torch.testing.assert_close(found, history_by_history(row, weight, bias, cu_seqlens), rtol=1e-12, atol=1e-12)


@WIDTHS
@given(lengths=lengths_of_histories)
def test_reversed_equals_a_convolution_of_the_mirror(width: int, lengths: list[int]) -> None:
    """Reversed is the convolution of each history mirrored, mirrored back."""
    row, weight, bias = random_inputs(sum(lengths), width)
    cu_seqlens = boundaries_of(lengths)
    found = convolve(row, weight, bias, make_layout(cu_seqlens), reverse=True)
    expected = mirrored(history_by_history(mirrored(row, cu_seqlens), weight, bias, cu_seqlens), cu_seqlens)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@DIRECTIONS
def test_gradients_equal_finite_differences(reverse: bool) -> None:
    """The gradients of events, weights and bias are those of the values, over cu_seqlens and a history shorter than the width."""
    layout = make_layout(boundaries_of([2, 5]))
    inputs = tuple(values.requires_grad_() for values in random_inputs(7, 4))
    assert torch.autograd.gradcheck(lambda *three: convolve(*three, layout, reverse=reverse), inputs)


@DIRECTIONS
@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_row_shorter_than_the_convolution(total: int, reverse: bool) -> None:
    """A row of fewer events than the width is read with the taps that it reaches."""
    row, weight, bias = random_inputs(total, 5)
    cu_seqlens = boundaries_of([total])
    expected = history_by_history(mirrored(row, cu_seqlens) if reverse else row, weight, bias, cu_seqlens)
    expected = mirrored(expected, cu_seqlens) if reverse else expected
    torch.testing.assert_close(convolve(row, weight, bias, make_layout(cu_seqlens), reverse=reverse), expected)


def test_entry_k_of_the_reversed_taps_is_what_a_prefix_hears() -> None:
    """Entry k at event s is the full reversed convolution at s in the prefix that ends at s + k."""
    row, weight, bias = random_inputs(9, 4)
    built_up = taps(row, weight, bias, make_layout(boundaries_of([9])), reverse=True)
    for s in range(9):
        for k in range(min(4, 9 - s)):
            prefix = taps(row[: s + k + 1], weight, bias, make_layout(boundaries_of([s + k + 1])), reverse=True)[-1]
            torch.testing.assert_close(built_up[k][s], prefix[s])


@DIRECTIONS
@WIDTHS
@pytest.mark.parametrize("elements", [1, 9, 21, 1 << 18], ids=["one row a block", "3 rows", "7 rows", "one block"])
def test_blocks_change_nothing(elements: int, width: int, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many blocks a row is worked on in, values and gradients are those of the taps under autograd."""
    monkeypatch.setattr(blocks, "ELEMENTS", elements)
    inputs = [values.requires_grad_() for values in random_inputs(23, width)]
    layout = make_layout(boundaries_of([1, 9, 2, 3, 8]))
    found = convolve(*inputs, layout, reverse=reverse)
    expected = F.silu(taps(*inputs, layout, reverse=reverse)[-1])
    incoming = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    assert relative_error(found, expected) < 1e-14
    pairs = zip(torch.autograd.grad(found, inputs, incoming), torch.autograd.grad(expected, inputs, incoming), strict=True)
    assert max(relative_error(*pair) for pair in pairs) < 1e-13


def test_half_precision_events_are_summed_in_float32() -> None:
    """bfloat16 events with float32 weights give float32 values, and a bfloat16 gradient of the events."""
    row, weight, bias = (values.float() for values in random_inputs(9, 4))
    row, layout = row.bfloat16().requires_grad_(), make_layout(boundaries_of([4, 5]))
    found = convolve(row, weight, bias, layout)
    assert found.dtype == torch.float32
    assert relative_error(found, convolve(row.float(), weight, bias, layout)) < 1e-6
    assert torch.autograd.grad(found.sum(), row)[0].dtype == torch.bfloat16


def test_a_view_of_a_wider_row() -> None:
    """Columns cut out of a wider row, which do not lie side by side in memory, give what their copy gives."""
    wide, (_, weight, bias) = torch.randn(9, 7, dtype=torch.float64, requires_grad=True), random_inputs(9, 4)
    layout = make_layout(boundaries_of([4, 5]))
    found = torch.autograd.grad(convolve(wide[:, 2:5], weight, bias, layout).square().sum(), wide)[0]
    expected = torch.autograd.grad(convolve(wide[:, 2:5].clone(), weight, bias, layout).square().sum(), wide)[0]
    assert relative_error(found, expected) < 1e-14
