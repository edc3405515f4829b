"""Index tensors of a packed batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from packed import cu_seqlens_of, reverse_sequences
from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import _dependency_levels, flat_score_index, make_layout

lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def test_start_and_end_of_each_position() -> None:
    """Lengths 2 and 3: the first sequence starts at 0 and ends at 1, the second starts at 2 and ends at 4."""
    layout = make_layout(torch.tensor([0, 2, 5]))
    assert layout.seq_start.tolist() == [0, 0, 2, 2, 2]
    assert layout.seq_end.tolist() == [1, 1, 4, 4, 4]


def test_position_counts_from_zero_in_each_sequence() -> None:
    """Lengths 2 and 3: positions 0 1, 0 1 2."""
    assert make_layout(torch.tensor([0, 2, 5])).position.tolist() == [0, 1, 0, 1, 2]


def test_last_index_is_the_last_position_of_each_sequence() -> None:
    """Lengths 2, 3 and 1: 1, 4 and 5."""
    assert make_layout(torch.tensor([0, 2, 5, 6])).last_index.tolist() == [1, 4, 5]


def test_reversed_index_by_hand() -> None:
    """cu_seqlens [0, 2, 5] -> [1, 0, 4, 3, 2]."""
    assert make_layout(torch.tensor([0, 2, 5])).reversed_index.tolist() == [1, 0, 4, 3, 2]


@given(lengths=lengths_of_histories)
def test_reversed_index_equals_a_loop(lengths: list[int]) -> None:
    """The index reverses each sequence, and applied twice it is the identity."""
    cu_seqlens = cu_seqlens_of(lengths)
    row = torch.arange(sum(lengths))
    mirror = make_layout(cu_seqlens).reversed_index
    assert torch.equal(row[mirror], reverse_sequences(row, cu_seqlens))
    assert torch.equal(mirror[mirror], row)


def test_sequence_index_of_chunks() -> None:
    """Lengths 5 and 2 in chunks of four: the last position is padding with index -1."""
    chunks = make_layout(torch.tensor([0, 5, 7]), chunk=4).chunks
    assert (chunks.size, chunks.count) == (4, 2)
    assert chunks.seq_idx.tolist() == [[0, 0, 0, 0], [0, 1, 1, -1]]


def test_pad_adds_zeros_up_to_a_whole_chunk() -> None:
    """Three rows in chunks of four become four, the last row zero."""
    chunks = make_layout(torch.tensor([0, 3]), chunk=4).chunks
    assert chunks.pad(torch.ones(3, 2)).tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]


def test_pad_returns_a_full_batch_unchanged() -> None:
    """A packed batch that fills its chunks is not copied."""
    values = torch.ones(4, 2)
    assert make_layout(torch.tensor([0, 4]), chunk=4).chunks.pad(values) is values


def test_crossings_are_chunk_boundaries_inside_a_sequence() -> None:
    """A sequence of 6 fills chunk 0 and half of chunk 1; no other sequence crosses one of the four boundaries."""
    chunks = make_layout(torch.tensor([0, 6, 8, 12, 16, 18]), chunk=4).chunks
    assert chunks.before.tolist() == [0]
    assert [end.tolist() for end in chunks.source_and_target(reverse=False)] == [[0], [1]]
    assert [end.tolist() for end in chunks.source_and_target(reverse=True)] == [[1], [0]]


def test_all_boundaries_are_listed_if_most_are_crossed() -> None:
    """A sequence of 10 crosses two of three boundaries, so all three are listed and addressed by slices."""
    chunks = make_layout(torch.tensor([0, 10, 12, 14]), chunk=4).chunks
    assert chunks.before.tolist() == [0, 1, 2]
    assert chunks.levels == (slice(1, 2),)
    assert chunks.source_and_target(reverse=False) == (slice(0, -1), slice(1, None))


def test_sequence_that_ends_with_its_chunk_has_no_crossing() -> None:
    """A sequence of 4 in a chunk of 4 crosses no boundary."""
    assert make_layout(torch.tensor([0, 4, 8]), chunk=4).chunks.before.tolist() == []


def test_levels_follow_one_sequence_through_its_chunks() -> None:
    """A sequence of 14 crosses 0|1, 1|2 and 2|3; each depends on the previous one, reversed on the next one."""
    chunks = make_layout(torch.tensor([0, 14]), chunk=4).chunks
    assert chunks.levels == (slice(1, 2), slice(2, 3))
    assert chunks.levels_reverse == (slice(1, 2), slice(0, 1))


def test_crossings_of_different_sequences_are_independent() -> None:
    """Lengths 6 and 6: the crossing 1|2 belongs to the second sequence, which starts inside chunk 1."""
    chunks = make_layout(torch.tensor([0, 6, 12]), chunk=4).chunks
    assert chunks.before.tolist() == [0, 1]
    assert chunks.levels == chunks.levels_reverse == ()


def test_levels_group_crossings_by_depth() -> None:
    """Dependencies [T, T, F, T] give depths [0, 1, 2, 0, 1]: first 1 and 4, then 2."""
    levels = _dependency_levels(torch.tensor([True, True, False, True]))
    assert [links.tolist() for links in levels] == [[1, 4], [2]]


@pytest.mark.parametrize("cu_seqlens", [[0], [1, 3], [0, 2, 2], [0, 3, 1], [-1, 2]])
def test_invalid_cu_seqlens(cu_seqlens: list[int]) -> None:
    """No sequence, a wrong start, an empty sequence or a decrease is an error that shows the values."""
    shown = ", ".join(map(str, cu_seqlens))
    with pytest.raises(
        ShapeError, match=rf"cu_seqlens must start at 0 and increase by at least 1 at each step, found \[{shown}\]…"
    ):
        make_layout(torch.tensor(cu_seqlens))


def test_flat_score_index() -> None:
    """Items 3 | 1, none | 2, 2 of three: column 2 of the first row, 0 of the second, 1 of the third twice."""
    items, cu_seqlens = torch.tensor([3, 1, 0, 2, 2]), torch.tensor([0, 1, 3, 5])
    assert flat_score_index(items, cu_seqlens, slice(0, 3), 3).tolist() == [2, 3, 7, 7]
    assert flat_score_index(items, cu_seqlens, slice(1, 3), 3).tolist() == [0, 4, 4]
