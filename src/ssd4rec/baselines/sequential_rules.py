"""Sequential-rules baseline (decayed item-to-item co-occurrence)."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.array_types import CuSeqlens, Items, Scores

Weights = npt.NDArray[np.float64]

REACH = 7  # largest distance, in events, of two items that count as a pair
READ = 10  # most recent events of a sequence that are looked up
FADE = 0.7  # decay per event of distance, and per event further back
BACKWARDS = 0.5  # weight of a pair in the opposite order
POPULARITY_POWER = 0.2  # pairs are divided by the number of events of either item to this power
NEIGHBORS = 300  # strongest pairs per item; 100 to all give the same metrics
FLOOR = 0.01  # a co-occurrence score of this size raises a model's score by weight * log 2
BLOCK_ELEMENTS = 1 << 21  # scores in memory at once
PAIRS_AT_ONCE = 1 << 20  # while counting


class SequentialRules:
    """Scores an item by how often it occurs shortly after, or before, the last items of the sequence.

        score(j) = sum over the last READ events i, k events back, of FADE^k S[i, j]
        S[i, j]  = (A[i, j] + BACKWARDS A[j, i]) / (n_i n_j)^POPULARITY_POWER        n_i = 1 + training events of i
        A[i, j]  = sum of FADE^(d - 1) over training events i that j follows d events later, d <= REACH

    For each item only the NEIGHBORS largest S are stored, of equal ones those of smaller item index. The five constants were
    chosen by hand by validation NDCG@10 on Amazon Beauty.

    Args:
        edges: int64 [V + 1]; the pairs of item index i are those from edges[i - 1] to edges[i].
        columns: int32 [pairs] the other item's index minus one, ascending for each item.
        weights: float32 [pairs] S.

    Source: sequential rules (Kamehkhosh, Jannach and Ludewig 2017), applied to several items with decaying weights
    (Garg et al. 2019, "Sequence and Time Aware Neighborhood"), pairs counted in both directions.
    """

    def __init__(self, edges: IntArray, columns: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> None:
        self.edges, self.columns, self.weights = edges, columns, weights
        self.catalog_size = len(edges) - 1

    @classmethod
    def nothing(cls, catalog_size: int) -> "SequentialRules":
        """Return rules without pairs: every score is 0."""
        return cls(np.zeros(catalog_size + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))

    @classmethod
    def count(
        cls,
        items: IntArray,
        cu_seqlens: IntArray,
        catalog_size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> "SequentialRules":
        """Count the pairs of packed sequences.

        Args:
            items: int64 [T] the training part, packed.
            cu_seqlens: int64 [B + 1].
            catalog_size: V.
            progress: called with (items done, V).
        """
        events = np.bincount(items - 1, minlength=catalog_size)
        share = (1.0 + events) ** -POPULARITY_POWER
        by_item, first_place = np.argsort(items, kind="stable"), lengths_to_offsets(events)
        sequence = np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens))
        lengths, columns, weights = [], [], []
        for first, last in _ranges(2 * REACH * events, PAIRS_AT_ONCE):
            places = by_item[first_place[first] : first_place[last]]
            row, column, weight = _pairs(items - 1, sequence, places, catalog_size)
            weight *= share[row] * share[column]
            strongest = _strongest(row, weight)
            lengths.append(np.bincount(row[strongest] - first, minlength=last - first))
            columns.append(column[strongest].astype(np.int32))
            weights.append(weight[strongest].astype(np.float32))
            if progress:
                progress(last, catalog_size)
        edges = lengths_to_offsets(np.concatenate(lengths))
        return cls(edges, np.concatenate(columns), np.concatenate(weights))

    def score_blocks(self, items: Items, cu_seqlens: CuSeqlens) -> Iterator[tuple[slice, Scores]]:
        """Yield the scores of a few sequences at a time.

        Args:
            items: int64 [T] packed sequences.
            cu_seqlens: int64 [B + 1].

        Yields:
            The rows, and their scores, float64 [rows, V]; 0 for items without a pair.
        """
        size = max(1, BLOCK_ELEMENTS // self.catalog_size)
        sequences = len(cu_seqlens) - 1
        for first in range(0, sequences, size):
            rows = slice(first, min(first + size, sequences))
            yield rows, torch.from_numpy(self._scores(items, cu_seqlens, rows)).view(-1, self.catalog_size)

    def raises(self, items: Items, cu_seqlens: CuSeqlens, rows: slice) -> tuple[Tensor, Tensor]:
        """Return what fusion with weight 1 adds to the scores of a few sequences: log(1 + score / FLOOR), where it is not 0.

        Args:
            items: int64 [T] packed sequences.
            cu_seqlens: int64 [B + 1].
            rows: which sequences.

        Returns:
            int64 [n] flattened indices into [rows, V], each once; float32 [n] the values.
        """
        scores = self._scores(items, cu_seqlens, rows)
        places = np.flatnonzero(scores)
        return torch.from_numpy(places), torch.from_numpy(np.log1p(scores[places] / FLOOR).astype(np.float32))

    def _scores(self, items: Items, cu_seqlens: CuSeqlens, rows: slice) -> Weights:
        """Return the scores of a few sequences, flattened. [rows * V]."""
        edges = cu_seqlens[rows.start : rows.stop + 1].cpu().numpy()
        events = items[edges[0] : edges[-1]].cpu().numpy()
        first, last = edges[:-1] - edges[0], edges[1:] - edges[0] - 1
        scores = np.zeros(len(first) * self.catalog_size)
        for back in range(READ):
            row = np.flatnonzero(last - back >= first)
            row = row[events[last[row] - back] > 0]
            item = events[last[row] - back] - 1
            pairs = self.edges[item + 1] - self.edges[item]
            entry = ranges(self.edges[item], pairs)
            place = np.repeat(row, pairs) * self.catalog_size + self.columns[entry]
            scores[place] += FADE**back * self.weights[entry]  # no place twice: a sequence has one event so far back
        return scores


def _ranges(sizes: IntArray, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of neighboring items whose sizes sum to at most `most`, or that are a single item."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        before = ends[first] - sizes[first]
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last


def _pairs(items: IntArray, sequence: IntArray, places: IntArray, catalog_size: int) -> tuple[IntArray, IntArray, Weights]:
    """Return each pair of an item at one of the places and any other, in order, and A[i, j] + BACKWARDS A[j, i]."""
    keys, weights = [], []
    for apart in (*range(-REACH, 0), *range(1, REACH + 1)):
        inside = places[(places + apart >= 0) & (places + apart < len(items))]
        near = inside[sequence[inside] == sequence[inside + apart]]
        keys.append(items[near] * catalog_size + items[near + apart])
        weights.append(np.full(len(near), FADE ** (abs(apart) - 1) * (1.0 if apart > 0 else BACKWARDS)))
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    summed = np.bincount(place, np.concatenate(weights), minlength=len(pairs)).astype(np.float64)
    return pairs // catalog_size, pairs % catalog_size, summed


def _strongest(row: IntArray, weight: Weights) -> IntArray:
    """Return the places of the NEIGHBORS largest weights of each row, in the order of the pairs; `row` is ascending."""
    descending = np.lexsort((-weight, row))
    starts = np.searchsorted(row, row)  # of each pair's row
    return np.sort(descending[np.arange(len(row)) - starts < NEIGHBORS])
