"""Sequential-rules baseline (decayed item-to-item co-occurrence)."""

from collections.abc import Callable

import numpy as np

from ssd4rec._csr import IntArray, lengths_to_offsets
from ssd4rec.baselines.item_pairs import FADE, ItemPairs, Weights, bounded_ranges

REACH = 7  # largest distance, in events, of two items that count as a pair
BACKWARDS = 0.5  # weight of a pair in the opposite order
POPULARITY_POWER = 0.2  # pairs are divided by the number of events of either item to this power
NEIGHBORS = 300  # strongest pairs per item; 100 to all give the same metrics
PAIRS_AT_ONCE = 1 << 20  # while counting


class SequentialRules(ItemPairs):
    """Scores an item by how often it occurs shortly after, or before, the last items of the sequence.

        score(j) = sum over the last READ events i, k events back, of FADE^k S[i, j]
        S[i, j]  = (A[i, j] + BACKWARDS A[j, i]) / (n_i n_j)^POPULARITY_POWER        n_i = 1 + training events of i
        A[i, j]  = sum of FADE^(d - 1) over training events i that j follows d events later, d <= REACH

    For each item only the NEIGHBORS largest S are stored, of equal ones those of smaller item index. The five constants were
    chosen by hand by validation NDCG@10 on Amazon Beauty.

    Source: sequential rules (Kamehkhosh, Jannach and Ludewig 2017), applied to several items with decaying weights
    (Garg et al. 2019, "Sequence and Time Aware Neighborhood"), pairs counted in both directions.
    """

    name = "sequential-rules"
    floor = 0.01

    @classmethod
    def fit(
        cls,
        items: IntArray,
        cu_seqlens: IntArray,
        catalog_size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> "SequentialRules":
        """Count the pairs of packed sequences; `progress` is called with (items done, V)."""
        events = np.bincount(items - 1, minlength=catalog_size)
        share = (1.0 + events) ** -POPULARITY_POWER
        by_item, first_place = np.argsort(items, kind="stable"), lengths_to_offsets(events)
        sequence = np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens))
        lengths, columns, weights = [], [], []
        for first, last in bounded_ranges(2 * REACH * events, PAIRS_AT_ONCE):
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
