"""Scores from one weight for each pair of items: a fading sum over the last items of a sequence."""

from collections.abc import Iterator
from typing import ClassVar, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, ranges
from ssd4rec.array_types import CuSeqlens, Items, Scores

Weights = npt.NDArray[np.float64]

READ = 10  # most recent events of a sequence that are looked up, unless a model says otherwise
FADE = 0.7  # decay per event further back, unless a model says otherwise
BLOCK_ELEMENTS = 1 << 21  # scores held at once


class ItemPairs:
    """Scores an item by its weights with the last items of the sequence.

        score(j) = sum over the last `window` events i, k events back, of fade^k W[i, j]

    A request reads `window` rows of W, so its cost is bounded by the number of weights that are stored for an item.

    Args:
        edges: int64 [V + 1]; the pairs of item index i are those from edges[i - 1] to edges[i].
        columns: int32 [pairs] the other item's index minus one, ascending for each item.
        weights: float32 [pairs] W.
    """

    name: ClassVar[str]  # in settings, reports and artifacts
    floor: ClassVar[float]  # a score of this size is worth log 2 in score fusion
    window: ClassVar[int] = READ
    fade: ClassVar[float] = FADE

    def __init__(self, edges: IntArray, columns: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> None:
        self.edges, self.columns, self.weights = edges, columns, weights
        self.catalog_size = len(edges) - 1

    @classmethod
    def nothing(cls, catalog_size: int) -> Self:
        """Return an instance without pairs: every score is 0."""
        return cls(np.zeros(catalog_size + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))

    def score_blocks(self, items: Items, cu_seqlens: CuSeqlens) -> Iterator[tuple[slice, Scores]]:
        """Yield the scores of a few packed sequences at a time: the rows, and float64 [rows, V], 0 for items without a pair."""
        size = max(1, BLOCK_ELEMENTS // self.catalog_size)
        sequences = len(cu_seqlens) - 1
        for first in range(0, sequences, size):
            rows = slice(first, min(first + size, sequences))
            yield rows, torch.from_numpy(self._scores(items, cu_seqlens, rows)).view(-1, self.catalog_size)

    def raises(self, items: Items, cu_seqlens: CuSeqlens, rows: slice) -> tuple[Tensor, Tensor]:
        """Return what fusion with weight 1 adds to the scores of a few sequences, where it is not 0.

        A score s adds log(1 + s / floor), and a negative one the same amount with a minus sign.

        Returns:
            int64 [n] flattened indices into [rows, V], each once; float32 [n] the values.
        """
        scores = self._scores(items, cu_seqlens, rows)
        places = np.flatnonzero(scores)
        return torch.from_numpy(places), torch.from_numpy(self._raised(scores[places]))

    def raised_cells(self, items: Items, cu_seqlens: CuSeqlens) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Return `raises` of all sequences, places ascending, without an array of V scores a sequence."""
        parts = list(self._entries(items, cu_seqlens, slice(0, len(cu_seqlens) - 1)))
        places, entry = np.unique(np.concatenate([place for place, _ in parts]), return_inverse=True)
        scores = np.bincount(entry, np.concatenate([weights for _, weights in parts]), len(places)).astype(np.float64)
        return places[scores != 0], self._raised(scores[scores != 0])

    def _raised(self, scores: Weights) -> npt.NDArray[np.float32]:
        return np.copysign(np.log1p(np.abs(scores) / self.floor), scores).astype(np.float32)

    def _scores(self, items: Items, cu_seqlens: CuSeqlens, rows: slice) -> Weights:
        """Return the scores of a few sequences, flattened. [rows * V]."""
        scores = np.zeros((len(cu_seqlens[rows.start : rows.stop + 1]) - 1) * self.catalog_size)
        for place, weights in self._entries(items, cu_seqlens, rows):
            scores[place] += weights  # no place twice: a sequence has one event so far back
        return scores

    def _entries(self, items: Items, cu_seqlens: CuSeqlens, rows: slice) -> Iterator[tuple[IntArray, Weights]]:
        """Yield the places in `_scores` of the pairs of the last events, then of those before them, …, and their weights."""
        edges = cu_seqlens[rows.start : rows.stop + 1].cpu().numpy()
        events = items[edges[0] : edges[-1]].cpu().numpy()
        first, last = edges[:-1] - edges[0], edges[1:] - edges[0] - 1
        for back in range(min(self.window, int(np.diff(edges).max(initial=1)))):
            row = np.flatnonzero(last - back >= first)
            row = row[events[last[row] - back] > 0]
            item = events[last[row] - back] - 1
            pairs = self.edges[item + 1] - self.edges[item]
            entry = ranges(self.edges[item], pairs)
            place = np.repeat(row, pairs) * self.catalog_size + self.columns[entry]
            yield cast("IntArray", place), cast("Weights", self.fade**back * self.weights[entry])


def bounded_ranges(sizes: IntArray, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of neighboring items whose sizes sum to at most `most`, or that are a single item."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        before = ends[first] - sizes[first]
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last
