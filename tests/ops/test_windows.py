"""The last events of long histories, and windows over them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rows import boundaries_of
from ssd4rec.errors import ShapeError
from ssd4rec.ops.windows import cut_into_windows, last_events, read_ends, read_positions

lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def test_the_last_events_by_hand() -> None:
    """Of 3 and 1 events at most two each."""
    rows, cu_seqlens = last_events(torch.tensor([0, 3, 4]), 2)
    assert (rows.tolist(), cu_seqlens.tolist()) == ([1, 2, 3], [0, 2, 3])


def test_windows_by_hand() -> None:
    """Five events in windows of two, each one event after the one before it."""
    windows = cut_into_windows(torch.tensor([0, 5]), 2)
    assert windows.rows.tolist() == [0, 1, 1, 2, 2, 3, 3, 4]
    assert windows.cu_seqlens.tolist() == [0, 2, 4, 6, 8]
    assert windows.answers.tolist() == [0, 1, 3, 5, 7]


@pytest.mark.parametrize("length", [1, 2, 5, 16, 100])
@given(lengths=lengths_of_histories)
def test_each_position_is_answered_once_from_enough_events(length: int, lengths: list[int]) -> None:
    """A position is answered where it is read; it has read its whole past, or half a window of it at least and one at most."""
    cu_seqlens = boundaries_of(lengths)
    windows = cut_into_windows(cu_seqlens, length)
    assert torch.equal(windows.rows[windows.answers], torch.arange(sum(lengths)))
    assert int(windows.cu_seqlens.diff().max()) <= length
    assert int(windows.cu_seqlens.diff().min()) >= 1
    assert len(windows.rows) <= 2 * sum(lengths)
    begins = windows.cu_seqlens[torch.searchsorted(windows.cu_seqlens, windows.answers, right=True) - 1]
    read = windows.answers - begins + 1
    place = torch.cat([torch.arange(each) for each in lengths]) + 1
    assert torch.equal(read[place <= length], place[place <= length])
    assert ((read >= (length + 1) // 2) & (read <= length))[place > length].all()


def test_what_is_read_by_hand() -> None:
    """Sums over histories of 1, 2, 4 and of 8, two events at most: ends 2 + 4 and 8, positions 1, 1 + 2, 2 + 4 and 8."""

    def sums(row: Tensor, cu_seqlens: Tensor) -> Tensor:
        return torch.cat([part.cumsum(0) for part in row.split(cu_seqlens.diff().tolist())])

    row, cu_seqlens = torch.tensor([[1.0], [2.0], [4.0], [8.0]]), torch.tensor([0, 3, 4])
    assert read_ends(sums, row, cu_seqlens, 2).flatten().tolist() == [6.0, 8.0]
    assert read_positions(sums, row, cu_seqlens, 2).flatten().tolist() == [1.0, 3.0, 6.0, 8.0]
    for read in (read_ends, read_positions):
        with pytest.raises(ShapeError, match="cu_seqlens"):
            read(sums, row, cu_seqlens + 1, 2)
