"""Sequential ridge regression: the next items as a linear function of the last ones, in closed form."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, lengths_to_offsets
from ssd4rec.baselines.closed_form import MAX_ITEMS, NEIGHBORS, cholesky, items_taking_part, largest_weights, renumbered
from ssd4rec.baselines.item_pairs import FADE, READ, ItemPairs, Weights, bounded_ranges

REACH = 7  # events after a position that count as its target
REGULARIZATION = 50.0
COLUMNS_AT_ONCE = 512  # of the solution; a block of it is in memory twice
CELLS_AT_ONCE = 1 << 24  # of the matrices, while they are computed
PAIRS_AT_ONCE = 1 << 21


class SequentialRidge(ItemPairs):
    """Scores an item by a regression of the events that follow a position on the events before it.

    For each training position t that has a predecessor, the source row s and the target row g, both [V], are

        s[i] = sum of FADE^k       over the READ events i before t, k = 0, 1, … events before the last one
        g[j] = sum of FADE^d       over the REACH events j from t on, d = 0, 1, … events after t
        W    = argmin |S W - G|^2 + regularization |W|^2 = (S'S + regularization I)^-1 S'G

    For each item only the NEIGHBORS weights of the largest absolute value are stored. Where items do not repeat, the weights of
    an item with itself are negative, so that seen items sink without a rule.

    Source: SLIST (Choi et al. 2021, "Session-aware Linear Item-Item Models for Session-based Recommendation"), with one matrix
    and windows of fixed size.
    """

    name = "sequential-ridge"
    floor = 0.01

    @classmethod
    def fit(
        cls,
        items: IntArray,
        cu_seqlens: IntArray,
        catalog_size: int,
        *,
        regularization: float = REGULARIZATION,
        neighbors: int = NEIGHBORS,
        max_items: int = MAX_ITEMS,
        progress: Callable[[int, int], None] | None = None,
    ) -> "SequentialRidge":
        """Solve the regression on packed sequences, and store `neighbors` weights of each item.

        Only the `max_items` most frequent items take part, the others have no weights; two matrices of max_items^2 float32
        values are in memory. `progress` is called with (steps done, all).
        """
        members = items_taking_part(items, catalog_size, max_items, cls.name)
        weights = torch.empty(len(members), len(members))
        solve(renumbered(items, members, catalog_size), cu_seqlens, weights, regularization, progress=progress)
        return cls(*largest_weights(weights, members, catalog_size, neighbors))


def solve(
    items: IntArray,
    cu_seqlens: IntArray,
    out: Tensor,
    regularization: float,
    *,
    with_inverse: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Write W of a `SequentialRidge` to `out`, [m, m].

    Args:
        items: int64 [T] places of the items among those that take part, -1: it takes no part.
        cu_seqlens: int64 [B + 1].
        out: float32 [m, m].
        regularization: as in `SequentialRidge.fit`.
        with_inverse: return the inverse, not the factor.
        progress: called with (steps done, all).

    Returns:
        (S'S + regularization I)^-1, or its Cholesky factor. [m, m].
    """
    steps = 3 * len(out)  # the products, then a factorization that takes about twice as long

    def report(done: int) -> None:
        if progress:
            progress(done, steps)

    gram, _ = products(items, cu_seqlens, len(out), report, out)
    factor = cholesky(gram, regularization)
    for columns in out.split(COLUMNS_AT_ONCE, dim=1):  # torch.cholesky_solve would copy the factor
        forward = torch.linalg.solve_triangular(factor, columns, upper=False)
        columns.copy_(torch.linalg.solve_triangular(factor.T, forward, upper=True))
    if with_inverse:
        torch.cholesky_inverse(factor, out=factor)
    report(steps)
    return factor


def products(
    items: IntArray,
    cu_seqlens: IntArray,
    size: int,
    progress: Callable[[int], None] | None = None,
    right: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return S'S and S'G, each float32 [size, size], without the matrices S and G; `right` is memory for the second one.

    Two events of a sequence with d events between them and the end of the sequence far enough are both in the source of
    READ - d positions: their product is FADE^d times a geometric sum. An event is in the source and another, d events later, in
    the target of several positions, with a product of FADE^(d - 1) in each.

    Items are 0 … size - 1, or -1 if they do not take part; `progress` is called with the number of rows done.
    """
    gram, right = torch.empty(size, size), torch.empty(size, size) if right is None else right
    stop = np.repeat(cu_seqlens[1:], np.diff(cu_seqlens))  # of each event's sequence
    events = np.bincount(items[items >= 0], minlength=size)
    by_item = np.argsort(items, kind="stable")[np.count_nonzero(items < 0) :]
    first_place = lengths_to_offsets(events)
    # the pairs of a row, and its cells as a share of those that are allowed
    for first, last in bounded_ranges(2 * READ * events + PAIRS_AT_ONCE * size // CELLS_AT_ONCE, PAIRS_AT_ONCE):
        places = by_item[first_place[first] : first_place[last]]
        for matrix, pairs in ((gram, _source_pairs), (right, _target_pairs)):
            keys, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
            for row, column, weight in pairs(places, stop):
                both = items[column] >= 0
                keys.append((items[row[both]] - first) * size + items[column[both]])
                weights.append(weight[both])
            summed = np.bincount(np.concatenate(keys), np.concatenate(weights), minlength=(last - first) * size)
            matrix[first:last] = torch.from_numpy(summed.reshape(-1, size))
        if progress:
            progress(last)
    return gram, right


def _source_pairs(places: IntArray, stop: IntArray) -> Iterator[tuple[IntArray, IntArray, Weights]]:
    """Yield pairs of events that share a source, of which the first one is at one of the places, and their products."""
    for apart in range(-READ + 1, READ):
        inside = places[(places + apart >= 0) & (places + apart < len(stop))]
        row = inside[stop[inside] == stop[inside + apart]]
        positions = np.minimum(READ - abs(apart), stop[row] - 1 - np.maximum(row, row + apart))
        yield row, row + apart, FADE ** abs(apart) * (1 - FADE ** (2.0 * positions)) / (1 - FADE**2)


def _target_pairs(places: IntArray, stop: IntArray) -> Iterator[tuple[IntArray, IntArray, Weights]]:
    """Yield pairs of an event at one of the places and one that is a target of it, and their products."""
    for apart in range(1, READ + REACH):
        row = places[places + apart < stop[places]]
        positions = min(apart, READ) - max(1, apart - REACH + 1) + 1
        yield row, row + apart, np.full(len(row), positions * FADE ** (apart - 1))
