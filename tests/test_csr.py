"""Arrays stored end to end."""

import numpy as np
import pytest

from ssd4rec._csr import evenly_spaced, lengths_to_offsets, ranges


@pytest.mark.parametrize(
    ("lengths", "offsets"), [([2, 0, 3], [0, 2, 2, 5]), ([], [0]), ([0], [0, 0]), ([True, False, True], [0, 1, 1, 2])]
)
def test_lengths_to_offsets(lengths, offsets):
    """Offsets [n + 1] of integer and boolean lengths."""
    actual = lengths_to_offsets(np.array(lengths, dtype=None if lengths else np.int64))
    assert actual.tolist() == offsets
    assert actual.dtype == np.int64


def test_offsets_of_small_numbers_do_not_overflow():
    """32-bit lengths whose sum needs 64 bits."""
    assert lengths_to_offsets(np.array([2**30] * 4, dtype=np.int32))[-1] == 2**32


@pytest.mark.parametrize(
    ("starts", "lengths", "places"),
    [
        ([7, 1, 4], [2, 0, 3], [7, 8, 4, 5, 6]),
        ([3, 3], [1, 2], [3, 3, 4]),
        (1, [2, 0, 3], [1, 2, 1, 2, 3]),
        ([], [], []),
        ([5], [0], []),
    ],
)
def test_ranges(starts, lengths, places):
    """Starts in any order, also with overlapping ranges."""
    starts = starts if isinstance(starts, int) else np.array(starts, dtype=np.int64)
    assert ranges(starts, np.array(lengths, dtype=np.int64)).tolist() == places


@pytest.mark.parametrize(
    ("total", "most", "indices"), [(5, 3, [0, 2, 4]), (3, 3, [0, 1, 2]), (2, 9, [0, 1]), (0, 4, []), (7, 1, [0])]
)
def test_evenly_spaced(total, most, indices):
    """The first and the last row are among them, if there is room for two."""
    assert evenly_spaced(total, most).tolist() == indices
