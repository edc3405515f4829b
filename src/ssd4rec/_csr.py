"""NumPy helpers for indices, and for arrays of different lengths stored end to end (compressed sparse rows)."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def lengths_to_offsets(lengths: npt.NDArray[np.integer[Any] | np.bool_]) -> IntArray:
    """Return the offsets [n + 1] of n arrays stored end to end.

    [2, 0, 3] -> [0, 2, 2, 5]
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: IntArray | int, lengths: IntArray) -> IntArray:
    """Concatenate the ranges start, start + 1, …, start + length - 1; a single start is used for all lengths.

    [7, 1, 4], [2, 0, 3] -> [7, 8, 4, 5, 6]
    """
    offsets = lengths_to_offsets(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


def split_rows(values: IntArray, offsets: IntArray) -> list[IntArray]:
    """Return the arrays [n] that are stored end to end, as views.

    [7, 8, 4, 5, 6], [0, 2, 2, 5] -> [7, 8], [], [4, 5, 6]
    """
    return [values[start:stop] for start, stop in pairwise(offsets.tolist())]


def evenly_spaced(total: int, most: int) -> IntArray:
    """Return all indices of `total` rows, or `most` of them from the first to the last."""
    return np.arange(total) if total <= most else np.linspace(0, total - 1, most).astype(np.int64)
