"""Arrays of different lengths laid end to end in one, in numpy: where each begins, and the places of some of each."""

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def lengths_to_offsets(lengths: npt.NDArray[np.integer[Any] | np.bool_]) -> IntArray:
    """[n + 1] where each of n arrays begins when they lie end to end, and where the last one ends.

    [2, 0, 3] -> [0, 2, 2, 5]
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: IntArray | int, lengths: IntArray) -> IntArray:
    """start, start + 1, … of each start, as many as its length says, end to end; one start may be that of all.

    [7, 1, 4], [2, 0, 3] -> [7, 8, 4, 5, 6]
    """
    offsets = lengths_to_offsets(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
