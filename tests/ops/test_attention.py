"""Attention within each sequence."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from packed import cu_seqlens_of, encode_each, relative_error
from ssd4rec.ops.attention import attend, bucket_by_length

lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def definition(row: Tensor, cu_seqlens: Tensor, *, causal: bool) -> Tensor:
    """Compute softmax(Q K^T / sqrt(P)) V one sequence at a time, from [T, 3, H, P]."""

    def one(part: Tensor, _: Tensor) -> Tensor:
        query, key, value = part.permute(1, 2, 0, 3)
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        return (scores.softmax(-1) @ value).transpose(0, 1)

    return encode_each(one, row, cu_seqlens)


@given(lengths=lengths_of_histories, causal=st.booleans())
def test_attention_equals_definition(lengths: list[int], causal: bool) -> None:
    """Values and gradients equal those of the formula on each sequence alone, in float64."""
    cu_seqlens = cu_seqlens_of(lengths)
    row = torch.randn(sum(lengths), 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.randn(sum(lengths), 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, theirs = row.clone().requires_grad_(), row.clone().requires_grad_()
    actual = attend(*ours.unbind(1), bucket_by_length(cu_seqlens), causal=causal)
    expected = definition(theirs, cu_seqlens, causal=causal)
    assert relative_error(actual, expected) < 1e-12
    (actual * weights).sum().backward()
    (expected * weights).sum().backward()
    assert relative_error(ours.grad, theirs.grad) < 1e-11


def test_buckets_by_hand() -> None:
    """Two short sequences share a bucket with one slot of padding, whose index is the number of positions."""
    buckets = bucket_by_length(torch.tensor([0, 2, 3]))
    assert [table.tolist() for table in buckets.tables] == [[[0, 1], [2, 3]]]
    assert buckets.slot.tolist() == [0, 1, 2]
    assert buckets.position.tolist() == [0, 1, 0]


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_longer_buckets_are_at_least_half_full(lengths: list[int]) -> None:
    """Every position has one slot in the column of its position; buckets longer than 8 are at least half full."""
    buckets = bucket_by_length(cu_seqlens_of(lengths))
    flat = torch.cat([table.flatten() for table in buckets.tables])
    assert torch.equal(flat[buckets.slot], torch.arange(sum(lengths)))
    assert buckets.position.tolist() == [place for length in lengths for place in range(length)]
    for table in buckets.tables:
        if table.shape[1] > 8:
            assert (table < sum(lengths)).double().mean() >= 0.5
