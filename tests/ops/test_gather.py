"""Gathering and summing rows of a packed batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from packed import cu_seqlens_of, relative_error, reverse_sequences
from ssd4rec.ops import gather
from ssd4rec.ops.segments import make_layout

lengths_of_histories = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def row(length: int) -> Tensor:
    return torch.randn(length, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)


@given(lengths=lengths_of_histories)
def test_reverse_sequences(lengths: list[int]) -> None:
    """Values and gradients equal those of a loop that flips each sequence."""
    values, cu_seqlens = row(sum(lengths)), cu_seqlens_of(lengths)
    actual, expected = gather.reverse_sequences(values, make_layout(cu_seqlens)), reverse_sequences(values, cu_seqlens)
    assert torch.equal(actual, expected)
    upstream = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(*(torch.autograd.grad(out, values, upstream)[0] for out in (actual, expected)))


@given(lengths=lengths_of_histories)
def test_broadcast_first(lengths: list[int]) -> None:
    """The first row receives the gradients of its whole sequence; other rows receive none."""
    values, layout = row(sum(lengths)), make_layout(cu_seqlens_of(lengths))
    actual, expected = gather.broadcast_first(values, layout), values[layout.seq_start]
    assert torch.equal(actual, expected)
    upstream = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert relative_error(*(torch.autograd.grad(out, values, upstream)[0] for out in (actual, expected))) < 1e-14


@pytest.mark.parametrize("adjacent", [False, True])
def test_split_columns(adjacent: bool) -> None:
    """Gradients that are columns of one matrix are joined without a copy, others are copied."""
    values, upstream = row(4), torch.randn(4, 3, dtype=torch.float64)
    parts = gather.split_columns(values, [2, 1])
    assert torch.equal(torch.cat(parts, dim=1), values)
    columns = upstream.split([2, 1], dim=1)
    (actual,) = torch.autograd.grad(parts, values, columns if adjacent else [each.clone() for each in columns])
    assert torch.equal(actual, upstream)
    assert (actual.data_ptr() == upstream.data_ptr()) is adjacent


@given(lengths=lengths_of_histories)
def test_sum_sequences(lengths: list[int]) -> None:
    """Values and gradients equal those of a loop over the sequences."""
    values, cu_seqlens = row(sum(lengths)), cu_seqlens_of(lengths)
    actual = gather.sum_sequences(values, make_layout(cu_seqlens))
    expected = torch.stack([part.sum(0) for part in values.split(lengths)])
    assert relative_error(actual, expected) < 1e-14
    upstream = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(*(torch.autograd.grad(out, values, upstream)[0] for out in (actual, expected)))


@given(lengths=lengths_of_histories, place=st.integers(0, 4))
def test_sum_sequences_from_a_position(lengths: list[int], place: int) -> None:
    """Earlier positions are left out; a sequence without later positions sums to zero."""
    values = row(sum(lengths)).detach()
    actual = gather.sum_sequences_from(values, make_layout(cu_seqlens_of(lengths)), place)
    expected = torch.stack([part[place:].sum(0) for part in values.split(lengths)])
    assert relative_error(actual + 1, expected + 1) < 1e-14


def test_half_precision_is_summed_in_float32() -> None:
    """4,096 gradients of 1 sum to 4,096; in bfloat16 the sum would stop at 256."""
    values = torch.zeros(4096, 1, dtype=torch.bfloat16, requires_grad=True)
    gather.broadcast_first(values, make_layout(torch.tensor([0, 4096]))).sum().backward()
    assert values.grad is not None
    assert values.grad[0].item() == 4096
