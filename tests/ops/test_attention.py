"""Attention inside each history."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rows import boundaries_of, one_by_one, relative_error
from ssd4rec.ops.attention import attend, lay_in_tables

lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def definition(row: Tensor, cu_seqlens: Tensor, *, causal: bool) -> Tensor:
    """softmax(Q K^T / sqrt(P)) V, one history at a time; row [T, 3, H, P]."""

    def one(part: Tensor, _: Tensor) -> Tensor:
        query, key, value = part.permute(1, 2, 0, 3)
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        return (scores.softmax(-1) @ value).transpose(0, 1)

    return one_by_one(one, row, cu_seqlens)


@given(lengths=lengths_of_histories, causal=st.booleans())
def test_attention_is_its_definition(lengths: list[int], causal: bool) -> None:
    """Values and gradients are those of the formula on each history alone, in float64."""
    cu_seqlens = boundaries_of(lengths)
    row = torch.randn(sum(lengths), 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.randn(sum(lengths), 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, theirs = row.clone().requires_grad_(), row.clone().requires_grad_()
    found = attend(*ours.unbind(1), lay_in_tables(cu_seqlens), causal=causal)
    expected = definition(theirs, cu_seqlens, causal=causal)
    assert relative_error(found, expected) < 1e-12
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert relative_error(ours.grad, theirs.grad) < 1e-11


def test_tables_by_hand() -> None:
    """Two short histories share a table with one cell of padding, which is the number after the last position."""
    tables = lay_in_tables(torch.tensor([0, 2, 3]))
    assert [cells.tolist() for cells in tables.cells] == [[[0, 1], [2, 3]]]
    assert tables.cell.tolist() == [0, 1, 2]
    assert tables.place.tolist() == [0, 1, 0]


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_padding_is_less_than_half_above_the_narrowest(lengths: list[int]) -> None:
    """Every position has one cell, in the column that is its place, and a table above 8 events is at least half full."""
    tables = lay_in_tables(boundaries_of(lengths))
    flat = torch.cat([cells.flatten() for cells in tables.cells])
    assert torch.equal(flat[tables.cell], torch.arange(sum(lengths)))
    assert tables.place.tolist() == [place for length in lengths for place in range(length)]
    for cells in tables.cells:
        if cells.shape[1] > 8:
            assert (cells < sum(lengths)).double().mean() >= 0.5
