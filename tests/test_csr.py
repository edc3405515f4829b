"""Arrays end to end."""

import numpy as np
import pytest

from ssd4rec._csr import lengths_to_offsets, ranges


@pytest.mark.parametrize(
    ("lengths", "offsets"), [([2, 0, 3], [0, 2, 2, 5]), ([], [0]), ([0], [0, 0]), ([True, False, True], [0, 1, 1, 2])]
)
def test_where_each_begins(lengths, offsets):
    """One more than there are arrays; of truths, how many came before."""
    found = lengths_to_offsets(np.array(lengths, dtype=None if lengths else np.int64))
    assert found.tolist() == offsets
    assert found.dtype == np.int64


def test_offsets_of_small_numbers_do_not_overflow():
    """Lengths of 32 bits whose sum has more."""
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
def test_some_places_of_each(starts, lengths, places):
    """Whatever order the starts are in, and also where they overlap."""
    starts = starts if isinstance(starts, int) else np.array(starts, dtype=np.int64)
    assert ranges(starts, np.array(lengths, dtype=np.int64)).tolist() == places
