"""The distinct items of every prefix."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from packed import cu_seqlens_of
from ssd4rec.ops.repeats import RepeatCells, prefix_items, sequence_items

sequences = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=4)


def packed(histories: list[list[int]]) -> tuple[Tensor, Tensor]:
    return torch.tensor([item for history in histories for item in history]), cu_seqlens_of([len(each) for each in histories])


def as_dict(cells: RepeatCells) -> dict[tuple[int, int], tuple[int, int]]:
    rows, columns, gaps, counts = (part.tolist() for part in cells)
    actual = {(row, column): (gap, count) for row, column, gap, count in zip(rows, columns, gaps, counts, strict=True)}
    assert len(actual) == len(rows), "no cell occurs twice"
    return actual


def by_hand(prefix: list[int]) -> dict[int, tuple[int, int]]:
    last = len(prefix) - 1
    return {item - 1: (prefix[::-1].index(item), prefix.count(item)) for item in prefix[: last + 1] if item}


def test_one_sequence_by_hand() -> None:
    """Items 3 1 3 0: item 3 occurs twice, one place before the last; item 1 once, two places before; 0 is not an item."""
    (row, column, gap, count) = sequence_items(torch.tensor([3, 1, 3, 0]), torch.tensor([0, 4])).cells(slice(0, 1))
    assert sorted(zip(column.tolist(), gap.tolist(), count.tolist(), strict=True)) == [(0, 2, 1), (2, 1, 2)]
    assert row.tolist() == [0, 0]


@given(histories=sequences)
def test_every_prefix_has_its_own_items(histories: list[list[int]]) -> None:
    """For each position: the items up to it, how long ago each last occurred, and how often."""
    items, cu_seqlens = packed(histories)
    actual = as_dict(prefix_items(items, cu_seqlens, torch.arange(len(items))).cells(slice(0, len(items))))
    prefixes = [history[: end + 1] for history in histories for end in range(len(history))]
    expected = {(row, item): cell for row, prefix in enumerate(prefixes) for item, cell in by_hand(prefix).items()}
    assert actual == expected


@given(histories=sequences, size=st.integers(1, 7))
def test_blocks_are_parts_of_the_whole(histories: list[list[int]], size: int) -> None:
    """However many prefixes are enumerated at a time, the cells are the same."""
    items, cu_seqlens = packed(histories)
    prefixes = prefix_items(items, cu_seqlens, torch.arange(len(items)))
    whole = as_dict(prefixes.cells(slice(0, len(items))))
    parts = {
        (row + start, column): cell
        for start in range(0, len(items), size)
        for (row, column), cell in as_dict(prefixes.cells(slice(start, start + size))).items()
    }
    assert parts == whole


@given(histories=sequences)
def test_whole_sequences_are_their_last_prefixes(histories: list[list[int]]) -> None:
    """`sequence_items` gives a row for each sequence; `take` gives some of the prefixes."""
    items, cu_seqlens = packed(histories)
    whole = as_dict(sequence_items(items, cu_seqlens).cells(slice(0, len(histories))))
    ends = prefix_items(items, cu_seqlens, torch.arange(len(items))).take(cu_seqlens[1:] - 1)
    assert len(ends) == len(histories)
    assert whole == as_dict(ends.cells(slice(0, len(histories))))
