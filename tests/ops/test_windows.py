"""Truncation to the last positions, and overlapping windows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from packed import cu_seqlens_of
from ssd4rec.errors import ShapeError
from ssd4rec.ops.windows import cut_into_windows, encode_last, encode_windows, last_positions

lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def test_last_positions_by_hand() -> None:
    """Lengths 3 and 1, at most two positions each."""
    rows, cu_seqlens = last_positions(torch.tensor([0, 3, 4]), 2)
    assert (rows.tolist(), cu_seqlens.tolist()) == ([1, 2, 3], [0, 2, 3])


def test_windows_by_hand() -> None:
    """A sequence of 5 in windows of two that start one position apart."""
    windows = cut_into_windows(torch.tensor([0, 5]), 2)
    assert windows.index.tolist() == [0, 1, 1, 2, 2, 3, 3, 4]
    assert windows.cu_seqlens.tolist() == [0, 2, 4, 6, 8]
    assert windows.outputs.tolist() == [0, 1, 3, 5, 7]


@pytest.mark.parametrize("length", [1, 2, 5, 16, 100])
@given(lengths=lengths_of_histories)
def test_each_position_has_one_output_with_enough_context(length: int, lengths: list[int]) -> None:
    """The output for a position sees its whole past, or between half a window and a full window of it."""
    cu_seqlens = cu_seqlens_of(lengths)
    windows = cut_into_windows(cu_seqlens, length)
    assert torch.equal(windows.index[windows.outputs], torch.arange(sum(lengths)))
    assert int(windows.cu_seqlens.diff().max()) <= length
    assert int(windows.cu_seqlens.diff().min()) >= 1
    assert len(windows.index) <= 2 * sum(lengths)
    begins = windows.cu_seqlens[torch.searchsorted(windows.cu_seqlens, windows.outputs, right=True) - 1]
    context = windows.outputs - begins + 1
    place = torch.cat([torch.arange(each) for each in lengths]) + 1
    assert torch.equal(context[place <= length], place[place <= length])
    assert ((context >= (length + 1) // 2) & (context <= length))[place > length].all()


def test_encoding_by_hand() -> None:
    """Sums of at most two positions over 1, 2, 4 | 8: last 2 + 4 and 8; all positions 1, 1 + 2, 2 + 4 and 8."""

    def sums(row: Tensor, cu_seqlens: Tensor) -> Tensor:
        return torch.cat([part.cumsum(0) for part in row.split(cu_seqlens.diff().tolist())])

    row, cu_seqlens = torch.tensor([[1.0], [2.0], [4.0], [8.0]]), torch.tensor([0, 3, 4])
    assert encode_last(sums, row, cu_seqlens, 2).flatten().tolist() == [6.0, 8.0]
    assert encode_windows(sums, row, cu_seqlens, 2).flatten().tolist() == [1.0, 3.0, 6.0, 8.0]
    for context in (encode_last, encode_windows):
        with pytest.raises(ShapeError, match="cu_seqlens"):
            context(sums, row, cu_seqlens + 1, 2)
