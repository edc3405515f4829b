"""The distinct items of every prefix."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from packed import cu_seqlens_of
from ssd4rec.ops.repeats import RepeatCells, prefix_items, sequence_items

sequences = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=4)


def packed(histories: list[list[int]]) -> tuple[Tensor, Tensor]:
    return torch.tensor([item for history in histories for item in history]), cu_seqlens_of([len(each) for each in histories])


def as_dict(cells: RepeatCells) -> dict[tuple[int, int], tuple[int, ...]]:
    assert cells.transitions is not None
    rows, columns, *features = (part.tolist() for part in cells)
    actual = dict(zip(zip(rows, columns, strict=True), zip(*features, strict=True), strict=True))
    assert len(actual) == len(rows), "no cell occurs twice"
    return actual


def by_hand(prefix: list[int]) -> dict[int, tuple[int, int, int]]:
    pairs = list(pairwise(prefix)) if prefix[-1] else []
    return {item - 1: (prefix[::-1].index(item), prefix.count(item), pairs.count((prefix[-1], item))) for item in prefix if item}


def test_one_sequence_by_hand() -> None:
    """Items 3 1 3 0: item 3 occurs twice, one place before the last; item 1 once, two places before; 0 is not an item."""
    row, column, gap, count, transitions = sequence_items(torch.tensor([3, 1, 3, 0]), torch.tensor([0, 4])).cells(slice(0, 1))
    assert sorted(zip(column.tolist(), gap.tolist(), count.tolist(), strict=True)) == [(0, 2, 1), (2, 1, 2)]
    assert row.tolist() == [0, 0]
    assert transitions is None


def test_transitions_by_hand() -> None:
    """After item 2 came twice 1 and once 2 itself; the last event is the start of a transition that is not known yet."""
    cells = sequence_items(torch.tensor([2, 1, 2, 2, 1, 3, 2]), torch.tensor([0, 7])).cells(slice(0, 1), transitions=True)
    assert cells.transitions is not None
    assert dict(zip(cells.column.tolist(), cells.transitions.tolist(), strict=True)) == {0: 2, 1: 1, 2: 0}


@given(histories=sequences)
def test_every_prefix_has_its_own_items(histories: list[list[int]]) -> None:
    """For each position: the items up to it, how long ago each last occurred, how often, and how often after the last item."""
    items, cu_seqlens = packed(histories)
    actual = as_dict(prefix_items(items, cu_seqlens, torch.arange(len(items))).cells(slice(0, len(items)), transitions=True))
    prefixes = [history[: end + 1] for history in histories for end in range(len(history))]
    expected = {(row, item): cell for row, prefix in enumerate(prefixes) for item, cell in by_hand(prefix).items()}
    assert actual == expected


@given(histories=sequences, size=st.integers(1, 7))
def test_blocks_are_parts_of_the_whole(histories: list[list[int]], size: int) -> None:
    """However many prefixes are enumerated at a time, the cells are the same."""
    items, cu_seqlens = packed(histories)
    prefixes = prefix_items(items, cu_seqlens, torch.arange(len(items)))
    whole = as_dict(prefixes.cells(slice(0, len(items)), transitions=True))
    parts = {
        (row + start, column): cell
        for start in range(0, len(items), size)
        for (row, column), cell in as_dict(prefixes.cells(slice(start, start + size), transitions=True)).items()
    }
    assert parts == whole


@given(histories=sequences)
def test_whole_sequences_are_their_last_prefixes(histories: list[list[int]]) -> None:
    """`sequence_items` gives a row for each sequence; `take` gives some of the prefixes."""
    items, cu_seqlens = packed(histories)
    whole = as_dict(sequence_items(items, cu_seqlens).cells(slice(0, len(histories)), transitions=True))
    ends = prefix_items(items, cu_seqlens, torch.arange(len(items))).take(cu_seqlens[1:] - 1)
    assert len(ends) == len(histories)
    assert whole == as_dict(ends.cells(slice(0, len(histories)), transitions=True))
