"""Rows taken from elsewhere in the row."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rows import boundaries_of, mirrored, relative_error
from ssd4rec.ops import gather
from ssd4rec.ops.segments import make_layout

lengths_of_histories = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def row(length: int) -> Tensor:
    return torch.randn(length, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)


@given(lengths=lengths_of_histories)
def test_mirrored(lengths: list[int]) -> None:
    """Values and gradients are those of a loop that flips each history."""
    values, cu_seqlens = row(sum(lengths)), boundaries_of(lengths)
    found, expected = gather.mirrored(values, make_layout(cu_seqlens)), mirrored(values, cu_seqlens)
    assert torch.equal(found, expected)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(*(torch.autograd.grad(out, values, upstream)[0] for out in (found, expected)))


@given(lengths=lengths_of_histories)
def test_of_first(lengths: list[int]) -> None:
    """Values are those of an index; the first event gathers the gradients of its history, the others get none."""
    values, layout = row(sum(lengths)), make_layout(boundaries_of(lengths))
    found, expected = gather.of_first(values, layout), values[layout.first]
    assert torch.equal(found, expected)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert relative_error(*(torch.autograd.grad(out, values, upstream)[0] for out in (found, expected))) < 1e-14


@given(lengths=lengths_of_histories)
def test_sum_of_history(lengths: list[int]) -> None:
    """Values and gradients are those of a loop over the histories."""
    values, cu_seqlens = row(sum(lengths)), boundaries_of(lengths)
    found = gather.sum_of_history(values, make_layout(cu_seqlens))
    expected = torch.stack([part.sum(0) for part in values.split(lengths)])
    assert relative_error(found, expected) < 1e-14
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(*(torch.autograd.grad(out, values, upstream)[0] for out in (found, expected)))


@given(lengths=lengths_of_histories, place=st.integers(0, 4))
def test_summed_from_a_place(lengths: list[int], place: int) -> None:
    """The events before the place are left out; a history that is no longer than it sums to zero."""
    values = row(sum(lengths)).detach()
    found = gather.summed_from(values, make_layout(boundaries_of(lengths)), place)
    expected = torch.stack([part[place:].sum(0) for part in values.split(lengths)])
    assert relative_error(found + 1, expected + 1) < 1e-14


def test_half_precision_is_summed_in_float32() -> None:
    """4,096 gradients of one add up to 4,096; in bfloat16 the sum would end at 256."""
    values = torch.zeros(4096, 1, dtype=torch.bfloat16, requires_grad=True)
    gather.of_first(values, make_layout(torch.tensor([0, 4096]))).sum().backward()
    assert values.grad is not None
    assert values.grad[0].item() == 4096
