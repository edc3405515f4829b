"""Where histories begin and end in a packed row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rows import boundaries_of, mirrored
from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import _relays, cells_of_items, make_layout

lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def test_first_and_last_of_each_position() -> None:
    """Two events, then three: the first history starts at 0 and ends at 1, the second at 2 and 4."""
    layout = make_layout(torch.tensor([0, 2, 5]))
    assert layout.first.tolist() == [0, 0, 2, 2, 2]
    assert layout.last.tolist() == [1, 1, 4, 4, 4]


def test_place_counts_from_zero_in_each_history() -> None:
    """Two events, then three: places 0 1, 0 1 2."""
    assert make_layout(torch.tensor([0, 2, 5])).place.tolist() == [0, 1, 0, 1, 2]


def test_read_out_is_the_last_position_of_each_history() -> None:
    """Two events, then three, then one: read out at 1, 4 and 5."""
    assert make_layout(torch.tensor([0, 2, 5, 6])).read_out.tolist() == [1, 4, 5]


def test_mirror_reverses_each_history_in_its_own_place() -> None:
    """CuSeqlens [0, 2, 5] -> mirror index [1, 0, 4, 3, 2]."""
    assert make_layout(torch.tensor([0, 2, 5])).mirror.tolist() == [1, 0, 4, 3, 2]


@given(lengths=lengths_of_histories)
def test_mirror_is_reversal_history_by_history(lengths: list[int]) -> None:
    """The mirror index takes a row to that of a loop over histories, and taken twice it gives the row back."""
    cu_seqlens = boundaries_of(lengths)
    row = torch.arange(sum(lengths))
    mirror = make_layout(cu_seqlens).mirror
    assert torch.equal(row[mirror], mirrored(row, cu_seqlens))
    assert torch.equal(mirror[mirror], row)


def test_chunks_say_whose_each_position_is() -> None:
    """Five events and two, in chunks of four: the last place is padding and belongs to nobody."""
    chunks = make_layout(torch.tensor([0, 5, 7]), chunk=4).chunks
    assert (chunks.length, chunks.count) == (4, 2)
    assert chunks.history.tolist() == [[0, 0, 0, 0], [0, 1, 1, -1]]


def test_padded_adds_zeros_up_to_the_last_chunk() -> None:
    """Three rows in chunks of four become four, the last one zero."""
    chunks = make_layout(torch.tensor([0, 3]), chunk=4).chunks
    assert chunks.padded(torch.ones(3, 2)).tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]


def test_padded_leaves_a_full_row_alone() -> None:
    """A row that fills its chunks is not copied."""
    values = torch.ones(4, 2)
    assert make_layout(torch.tensor([0, 4]), chunk=4).chunks.padded(values) is values


def test_links_lie_where_a_history_runs_on() -> None:
    """Six events fill chunk 0 and half of 1; then one history a chunk: of four places between chunks only 0|1 is a link."""
    chunks = make_layout(torch.tensor([0, 6, 8, 12, 16, 18]), chunk=4).chunks
    assert chunks.left.tolist() == [0]
    assert [end.tolist() for end in chunks.ends(reverse=False)] == [[0], [1]]
    assert [end.tolist() for end in chunks.ends(reverse=True)] == [[1], [0]]


def test_where_most_chunks_are_linked_all_are() -> None:
    """Ten events fill the chunks 0, 1 and half of 2; two others end chunk 2: 2|3 comes along and waits for nothing; slices."""
    chunks = make_layout(torch.tensor([0, 10, 12, 14]), chunk=4).chunks
    assert chunks.left.tolist() == [0, 1, 2]
    assert chunks.relays == (slice(1, 2),)
    assert chunks.ends(reverse=False) == (slice(0, -1), slice(1, None))


def test_a_history_that_ends_with_its_chunk_has_no_link() -> None:
    """Four events in a chunk of four hand nothing on."""
    assert make_layout(torch.tensor([0, 4, 8]), chunk=4).chunks.left.tolist() == []


def test_relays_follow_one_history_through_its_chunks() -> None:
    """Links 0|1, 1|2, 2|3 of one history of 14: forwards each waits for the one before, backwards for the one after."""
    chunks = make_layout(torch.tensor([0, 14]), chunk=4).chunks
    assert chunks.relays == (slice(1, 2), slice(2, 3))
    assert chunks.relays_back == (slice(1, 2), slice(0, 1))


def test_a_link_of_another_history_waits_for_nothing() -> None:
    """Six events and six: the link 1|2 belongs to the second history, which begins inside chunk 1."""
    chunks = make_layout(torch.tensor([0, 6, 12]), chunk=4).chunks
    assert chunks.left.tolist() == [0, 1]
    assert chunks.relays == chunks.relays_back == ()


def test_relays_group_links_by_their_depth() -> None:
    """Links that wait [T, T, F, T] have depths [0, 1, 2, 0, 1]: 1 and 4 are finished together, then 2."""
    relays = _relays(torch.tensor([True, True, False, True]))
    assert [links.tolist() for links in relays] == [[1, 4], [2]]


@pytest.mark.parametrize("cu_seqlens", [[0], [1, 3], [0, 2, 2], [0, 3, 1], [-1, 2]])
def test_boundaries_that_do_not_rise_from_zero(cu_seqlens: list[int]) -> None:
    """No history, a start elsewhere, an empty history or a fall is refused, and the message shows what came."""
    shown = ", ".join(map(str, cu_seqlens))
    with pytest.raises(ShapeError, match=rf"cu_seqlens must be \[0, …\] and rise by 1 or more at each step, found \[{shown}\]…"):
        make_layout(torch.tensor(cu_seqlens))


def test_the_cells_of_items_are_counted_through_from_the_first_row() -> None:
    """Items 3 | 1, none | 2, 2 of three: cell 2 of the first row, 0 of the second, 1 of the third twice."""
    items, cu_seqlens = torch.tensor([3, 1, 0, 2, 2]), torch.tensor([0, 1, 3, 5])
    assert cells_of_items(items, cu_seqlens, slice(0, 3), 3).tolist() == [2, 3, 7, 7]
    assert cells_of_items(items, cu_seqlens, slice(1, 3), 3).tolist() == [0, 4, 4]
