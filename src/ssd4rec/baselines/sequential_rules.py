"""What came soon after what: the baseline that counts where models learn."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.array_types import CuSeqlens, Items, Scores

Weights = npt.NDArray[np.float64]

REACH = 7  # events apart, at most, of two items that are counted as a pair
READ = 10  # last events of a history that are looked up
FADE = 0.7  # an event further apart, or further back, counts so much less
BACKWARDS = 0.5  # what a pair counts for the item that came first
POPULARITY_POWER = 0.2  # of the events of either item, that its pairs are divided by
NEIGHBORS = 300  # the strongest pairs of an item that are kept; 100 to all give the same figures (docs/log.md)
FLOOR = 0.01  # a score of so much raises a model's score by weight * log 2
BLOCK_ELEMENTS = 1 << 21  # scores held at once
PAIRS_AT_ONCE = 1 << 20  # while counting, of as many items as that is enough for


class SequentialRules:
    """Scores an item by how often it came soon after, or before, the last items of the history.

        score(j) = sum over the last READ events i, k events back, of FADE^k S[i, j]
        S[i, j]  = (A[i, j] + BACKWARDS A[j, i]) / (n_i n_j)^POPULARITY_POWER        n_i = 1 + training events of i
        A[i, j]  = sum of FADE^(d - 1) over training events i that j follows d events later, d <= REACH

    Of each item's S only the NEIGHBORS largest are kept, of equal ones those of smaller item number.

    Nothing is learned. The five numbers were chosen by hand by validation NDCG@10 on Amazon Beauty (docs/log.md).

    Args:
        edges: int64 [V + 1]; the pairs of item number i are those from edges[i - 1] to edges[i].
        columns: int32 [pairs] the other item's number less one, rising for each item.
        weights: float32 [pairs] S.

    Source: sequential rules (Kamehkhosh, Jannach and Ludewig 2017), read from several items with fading weights
    (Garg et al. 2019, "Sequence and Time Aware Neighborhood"), pairs counted in both directions.
    """

    def __init__(self, edges: IntArray, columns: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> None:
        self.edges, self.columns, self.weights = edges, columns, weights
        self.catalog_size = len(edges) - 1

    @classmethod
    def nothing(cls, catalog_size: int) -> "SequentialRules":
        """No pair was counted: every score is 0."""
        return cls(np.zeros(catalog_size + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))

    @classmethod
    def count(
        cls,
        items: IntArray,
        cu_seqlens: IntArray,
        catalog_size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> "SequentialRules":
        """Count histories.

        Args:
            items: int64 [T] the training part, packed.
            cu_seqlens: int64 [B + 1] of its histories.
            catalog_size: V.
            progress: called with (items whose pairs are counted, V).
        """
        events = np.bincount(items - 1, minlength=catalog_size)
        share = (1.0 + events) ** -POPULARITY_POWER
        by_item, first_place = np.argsort(items, kind="stable"), lengths_to_offsets(events)
        history = np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens))
        lengths, columns, weights = [], [], []
        for first, last in _ranges(2 * REACH * events, PAIRS_AT_ONCE):
            places = by_item[first_place[first] : first_place[last]]
            row, column, weight = _pairs(items - 1, history, places, catalog_size)
            weight *= share[row] * share[column]
            kept = _strongest(row, weight)
            lengths.append(np.bincount(row[kept] - first, minlength=last - first))
            columns.append(column[kept].astype(np.int32))
            weights.append(weight[kept].astype(np.float32))
            if progress:
                progress(last, catalog_size)
        edges = lengths_to_offsets(np.concatenate(lengths))
        return cls(edges, np.concatenate(columns), np.concatenate(weights))

    def score_blocks(self, items: Items, cu_seqlens: CuSeqlens) -> Iterator[tuple[slice, Scores]]:
        """The scores of a few histories at a time.

        Args:
            items: int64 [T] packed histories.
            cu_seqlens: int64 [B + 1].

        Yields:
            Which histories, and their scores, float64 [rows, V]; 0 where nothing is known.
        """
        size = max(1, BLOCK_ELEMENTS // self.catalog_size)
        histories = len(cu_seqlens) - 1
        for first in range(0, histories, size):
            rows = slice(first, min(first + size, histories))
            yield rows, torch.from_numpy(self._scores(items, cu_seqlens, rows)).view(-1, self.catalog_size)

    def raises(self, items: Items, cu_seqlens: CuSeqlens, rows: slice) -> tuple[Tensor, Tensor]:
        """By how much a few histories' scores are raised at weight 1: log(1 + score / FLOOR), where it is not 0.

        Args:
            items: int64 [T] packed histories.
            cu_seqlens: int64 [B + 1].
            rows: which histories.

        Returns:
            int64 [n] places in [rows, V], counted through, none of them twice; float32 [n] by how much.
        """
        scores = self._scores(items, cu_seqlens, rows)
        places = np.flatnonzero(scores)
        return torch.from_numpy(places), torch.from_numpy(np.log1p(scores[places] / FLOOR).astype(np.float32))

    def _scores(self, items: Items, cu_seqlens: CuSeqlens, rows: slice) -> Weights:
        """[rows * V]: the scores of a few histories, end to end."""
        edges = cu_seqlens[rows.start : rows.stop + 1].cpu().numpy()
        read = items[edges[0] : edges[-1]].cpu().numpy()
        first, last = edges[:-1] - edges[0], edges[1:] - edges[0] - 1
        scores = np.zeros(len(first) * self.catalog_size)
        for back in range(READ):
            there = np.flatnonzero(last - back >= first)
            there = there[read[last[there] - back] > 0]
            item = read[last[there] - back] - 1
            found = self.edges[item + 1] - self.edges[item]
            entry = ranges(self.edges[item], found)
            place = np.repeat(there, found) * self.catalog_size + self.columns[entry]
            scores[place] += FADE**back * self.weights[entry]  # no place twice: a history has one event so far back
        return scores


def _ranges(sizes: IntArray, most: int) -> Iterator[tuple[int, int]]:
    """Neighbouring items in groups whose sizes come to `most` at most, or that are one item."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        before = ends[first] - sizes[first]
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last


def _pairs(items: IntArray, history: IntArray, places: IntArray, catalog_size: int) -> tuple[IntArray, IntArray, Weights]:
    """Each pair of an item at one of some places and any other, in order, and A[i, j] + BACKWARDS A[j, i]."""
    keys, weights = [], []
    for apart in (*range(-REACH, 0), *range(1, REACH + 1)):
        inside = places[(places + apart >= 0) & (places + apart < len(items))]
        near = inside[history[inside] == history[inside + apart]]
        keys.append(items[near] * catalog_size + items[near + apart])
        weights.append(np.full(len(near), FADE ** (abs(apart) - 1) * (1.0 if apart > 0 else BACKWARDS)))
    found, place = np.unique(np.concatenate(keys), return_inverse=True)
    summed = np.bincount(place, np.concatenate(weights), minlength=len(found)).astype(np.float64)
    return found // catalog_size, found % catalog_size, summed


def _strongest(row: IntArray, weight: Weights) -> IntArray:
    """Where the NEIGHBORS largest weights of each row are, in the order of the pairs; `row` rises."""
    falling = np.lexsort((-weight, row))
    starts = np.searchsorted(row, row)  # of each pair's row
    return np.sort(falling[np.arange(len(row)) - starts < NEIGHBORS])
