"""Shared by the closed-form baselines: which items take part, and the solution of a ridge regression."""

import logging
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, lengths_to_offsets

logger = logging.getLogger(__name__)

MAX_ITEMS = 20_000  # a matrix of this size has 1.6 GB, and its factorization takes minutes on a core
NEIGHBORS = 300  # weights that are stored for an item
ROWS_AT_ONCE = 512  # while the largest weights are looked for


def items_taking_part(items: IntArray, catalog_size: int, most: int, name: str) -> IntArray:
    """Return the most frequent items, as item indices minus one in ascending order; all of them if they are few.

    Args:
        items: int64 [T] item indices of the training set; 0 is an unknown item.
        catalog_size: V.
        most: how many items take part at most.
        name: of the baseline, for the warning that some do not.
    """
    events = np.bincount(items, minlength=catalog_size + 1)[1:]
    if catalog_size <= most:
        return np.arange(catalog_size)
    frequent = np.sort(np.argsort(-events, kind="stable")[:most])
    logger.warning(
        "%s: only the %s most frequent of %s items take part (%.1f %% of the events); the others score 0",
        name,
        f"{most:,}",
        f"{catalog_size:,}",
        100.0 * events[frequent].sum() / max(1, events.sum()),
    )
    return frequent


def renumbered(items: IntArray, frequent: IntArray, catalog_size: int) -> IntArray:
    """Return the place of each item among the frequent ones, -1 for the others. int64 [T] -> int64 [T].

    Items are item indices, 0 an unknown item; the frequent ones are item indices minus one, ascending.
    """
    place_of = np.full(catalog_size + 1, -1, dtype=np.int64)
    place_of[frequent + 1] = np.arange(len(frequent))
    return place_of[items]


def cholesky(gram: Tensor, regularization: float) -> Tensor:
    """Return the Cholesky factor of gram + regularization * identity, stored in the memory of `gram`. [n, n]."""
    gram.diagonal().add_(regularization)
    factor = gram.T  # the same numbers in the order of LAPACK, which then needs no copy
    torch.linalg.cholesky(factor, out=factor)
    return factor


def largest_weights(
    weights: Tensor, members: IntArray, catalog_size: int, neighbors: int = NEIGHBORS
) -> tuple[IntArray, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the arguments of an `ItemPairs` with the `neighbors` largest weights of each item, by absolute value.

    Args:
        weights: float32 [m, m] of the items that take part.
        members: int64 [m] their item indices minus one, ascending.
        catalog_size: V.
        neighbors: how many weights are stored for an item at most; zeros are left out.
    """
    neighbors = min(neighbors, len(members))
    columns = torch.cat([rows.abs().topk(neighbors, dim=1).indices for rows in weights.split(ROWS_AT_ONCE)]).sort(dim=1).values
    values = weights.gather(1, columns)
    lengths = np.zeros(catalog_size, dtype=np.int64)
    lengths[members] = (values != 0).sum(1).numpy()
    stored = (values != 0).flatten()
    return (
        lengths_to_offsets(lengths),
        members[columns.flatten()[stored].numpy()].astype(np.int32),
        values.flatten()[stored].numpy(),
    )


def raised_by_group(
    positions: IntArray,
    starts: IntArray,
    scores_of: Callable[[int, IntArray], Tensor],
    like: Tensor,
    members: Tensor,
    catalog_size: int,
    floor: float,
) -> Tensor:
    """Return what fusion with weight 1 adds to the scores of all items at some positions, see `ItemPairs.raises`. [n, V].

    Args:
        positions: [n]; those of a group are best next to each other.
        starts: [groups] a position at or before the first one of each group, ascending.
        scores_of: returns the scores [k, m] of k positions of a group, given its number and the positions.
        like: of the device and the type of the scores.
        members: int64 [m] the items that take part, as item indices minus one; the others are not raised.
        catalog_size: V.
        floor: as in `ItemPairs`.
    """
    group = np.searchsorted(starts, positions, side="right") - 1
    edges = np.flatnonzero(np.diff(group, prepend=-1, append=-1))
    everything = len(members) == catalog_size
    raised = (like.new_empty if everything else like.new_zeros)(len(positions), catalog_size)
    for first, last in pairwise(edges.tolist()):
        scores = scores_of(int(group[first]), positions[first:last])
        by = scores.abs().div_(floor).log1p_()
        if everything:
            torch.copysign(by, scores, out=raised[first:last])
        else:
            raised[first:last, members] = by.copysign_(scores)
    return raised
