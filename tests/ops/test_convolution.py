"""The depthwise causal convolution within each sequence."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from packed import cu_seqlens_of, relative_error, reverse_sequences
from ssd4rec.ops import blocks
from ssd4rec.ops.convolution import convolve, partial_convolutions
from ssd4rec.ops.segments import make_layout

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
WIDTHS = pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
lengths_of_histories = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def random_inputs(total: int, width: int, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(total)
    shapes = [(total, channels), (channels, width), (channels,)]
    row, weight, bias = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
    return row, weight, bias


def convolve_each(row: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Apply torch's conv1d to each sequence alone, padded on the left."""
    outputs = []
    for start, stop in pairwise(cu_seqlens.tolist()):
        padded = F.pad(row[start:stop].T, (weight.shape[1] - 1, 0))
        outputs.append(F.silu(F.conv1d(padded[None], weight[:, None], bias, groups=len(weight)))[0].T)
    return torch.cat(outputs)


def test_partial_convolutions_by_hand() -> None:
    """Input 1, 10 | 100, weight (2, 3), bias 7: the position itself times 3, plus the previous one of its sequence times 2."""
    row, weight, bias = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([7.0])
    without_neighbor, with_neighbor = partial_convolutions(row, weight, bias, make_layout(cu_seqlens_of([2, 1])))
    assert without_neighbor.flatten().tolist() == [10, 37, 307]
    assert with_neighbor.flatten().tolist() == [10, 39, 307]


def test_reversed_partial_convolutions_by_hand() -> None:
    """Reversed, the neighbor is the next position: input 1, 10 | 100, weight (2, 3), bias 7."""
    row, weight, bias = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([7.0])
    without_neighbor, with_neighbor = partial_convolutions(row, weight, bias, make_layout(cu_seqlens_of([2, 1])), reverse=True)
    assert without_neighbor.flatten().tolist() == [10, 37, 307]
    assert with_neighbor.flatten().tolist() == [30, 37, 307]


def test_silu_is_applied() -> None:
    """Input 1 with weight 2 and bias 1 gives 3 / (1 + exp(-3)) = 2.8577."""
    actual = convolve(torch.ones(1, 1), torch.tensor([[9.0, 2.0]]), torch.ones(1), make_layout(cu_seqlens_of([1])))
    assert actual.item() == pytest.approx(2.8577, abs=1e-4)


@WIDTHS
@given(lengths=lengths_of_histories)
def test_equals_conv1d_of_each_sequence(width: int, lengths: list[int]) -> None:
    """The packed batch gives the result of torch's conv1d on each sequence alone."""
    row, weight, bias = random_inputs(sum(lengths), width)
    cu_seqlens = cu_seqlens_of(lengths)
    actual = convolve(row, weight, bias, make_layout(cu_seqlens))
    torch.testing.assert_close(actual, convolve_each(row, weight, bias, cu_seqlens), rtol=1e-12, atol=1e-12)


@WIDTHS
@given(lengths=lengths_of_histories)
def test_reversed_equals_conv1d_of_each_reversed_sequence(width: int, lengths: list[int]) -> None:
    """The reversed convolution is the convolution of each reversed sequence, reversed back."""
    row, weight, bias = random_inputs(sum(lengths), width)
    cu_seqlens = cu_seqlens_of(lengths)
    actual = convolve(row, weight, bias, make_layout(cu_seqlens), reverse=True)
    expected = reverse_sequences(convolve_each(reverse_sequences(row, cu_seqlens), weight, bias, cu_seqlens), cu_seqlens)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@DIRECTIONS
def test_gradients_equal_finite_differences(reverse: bool) -> None:
    """Gradients of channels, weight and bias, with sequences shorter and longer than the width."""
    layout = make_layout(cu_seqlens_of([2, 5]))
    inputs = tuple(values.requires_grad_() for values in random_inputs(7, 4))
    assert torch.autograd.gradcheck(lambda *three: convolve(*three, layout, reverse=reverse), inputs)


@DIRECTIONS
@pytest.mark.parametrize("total", [1, 2, 3])
def test_batch_shorter_than_the_convolution(total: int, reverse: bool) -> None:
    """A packed batch with fewer positions than the width uses only the taps that it reaches."""
    row, weight, bias = random_inputs(total, 5)
    cu_seqlens = cu_seqlens_of([total])
    expected = convolve_each(reverse_sequences(row, cu_seqlens) if reverse else row, weight, bias, cu_seqlens)
    expected = reverse_sequences(expected, cu_seqlens) if reverse else expected
    torch.testing.assert_close(convolve(row, weight, bias, make_layout(cu_seqlens), reverse=reverse), expected)


def test_reversed_partial_convolution_is_that_of_a_prefix() -> None:
    """Entry k at position s is the full reversed convolution at s in the prefix that ends at s + k."""
    row, weight, bias = random_inputs(9, 4)
    built_up = partial_convolutions(row, weight, bias, make_layout(cu_seqlens_of([9])), reverse=True)
    for s in range(9):
        for k in range(min(4, 9 - s)):
            prefix = partial_convolutions(row[: s + k + 1], weight, bias, make_layout(cu_seqlens_of([s + k + 1])), reverse=True)[
                -1
            ]
            torch.testing.assert_close(built_up[k][s], prefix[s])


@DIRECTIONS
@WIDTHS
@pytest.mark.parametrize("elements", [1, 9, 21, 1 << 18], ids=["one row a block", "3 rows", "7 rows", "one block"])
def test_number_of_blocks_does_not_matter(elements: int, width: int, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of blocks, values and gradients equal those of the definition under autograd."""
    monkeypatch.setattr(blocks, "ELEMENTS", elements)
    inputs = [values.requires_grad_() for values in random_inputs(23, width)]
    layout = make_layout(cu_seqlens_of([1, 9, 2, 3, 8]))
    actual = convolve(*inputs, layout, reverse=reverse)
    expected = F.silu(partial_convolutions(*inputs, layout, reverse=reverse)[-1])
    incoming = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=actual.dtype)
    assert relative_error(actual, expected) < 1e-14
    pairs = zip(torch.autograd.grad(actual, inputs, incoming), torch.autograd.grad(expected, inputs, incoming), strict=True)
    assert max(relative_error(*pair) for pair in pairs) < 1e-13


def test_half_precision_is_summed_in_float32() -> None:
    """bfloat16 input with float32 weights gives float32 output and a bfloat16 gradient of the input."""
    row, weight, bias = (values.float() for values in random_inputs(9, 4))
    row, layout = row.bfloat16().requires_grad_(), make_layout(cu_seqlens_of([4, 5]))
    actual = convolve(row, weight, bias, layout)
    assert actual.dtype == torch.float32
    assert relative_error(actual, convolve(row.float(), weight, bias, layout)) < 1e-6
    assert torch.autograd.grad(actual.sum(), row)[0].dtype == torch.bfloat16


def test_strided_input() -> None:
    """A slice of columns of a wider matrix gives the same result as its contiguous copy."""
    wide, (_, weight, bias) = torch.randn(9, 7, dtype=torch.float64, requires_grad=True), random_inputs(9, 4)
    layout = make_layout(cu_seqlens_of([4, 5]))
    actual = torch.autograd.grad(convolve(wide[:, 2:5], weight, bias, layout).square().sum(), wide)[0]
    expected = torch.autograd.grad(convolve(wide[:, 2:5].clone(), weight, bias, layout).square().sum(), wide)[0]
    assert relative_error(actual, expected) < 1e-14
