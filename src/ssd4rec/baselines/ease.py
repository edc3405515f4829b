"""EASE: a linear autoencoder of item sets in closed form, read with fading weights."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec._csr import IntArray
from ssd4rec.array_types import CuSeqlens, Items, Scores
from ssd4rec.baselines.closed_form import MAX_ITEMS, NEIGHBORS, cholesky, items_taking_part, largest_weights, renumbered
from ssd4rec.baselines.item_pairs import ItemPairs

REGULARIZATION = 300.0
REGULARIZATION_OF_PAIRS = 100.0
FADE = 0.7
SEQUENCES_AT_ONCE = 256  # while counting
BLOCK_ELEMENTS = 1 << 22  # scores held at once


class EASE:
    """Scores an item by its linear reconstruction from the items of the sequence.

        W = argmin |X - X W|^2 + regularization |W|^2 with a zero diagonal, X[u, i] = 1 if user u has item i
          = I - P / diag(P), P = (X'X + regularization I)^-1
        score(j) = sum over the events i, k events back, of fade^k W[i, j]

    Args:
        weights: float32 [n, n] W of the items that take part.
        members: int64 [n] their item indices minus one, ascending.
        catalog_size: V.
        fade: decay per event further back; 1: the order does not matter, as in the paper.

    Source: Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data"; the fading input is ours.
    """

    name = "ease"

    def __init__(self, weights: Tensor, members: IntArray, catalog_size: int, fade: float = FADE) -> None:
        self.weights, self.members, self.catalog_size, self.fade = weights, members, catalog_size, fade

    @classmethod
    def fit(
        cls,
        items: IntArray,
        cu_seqlens: IntArray,
        catalog_size: int,
        *,
        regularization: float = REGULARIZATION,
        fade: float = FADE,
        max_items: int = MAX_ITEMS,
        progress: Callable[[int, int], None] | None = None,
    ) -> "EASE":
        """Solve the regression on packed sequences; see the class.

        Only the `max_items` most frequent items take part, the others score 0; a matrix of max_items^2 float32 values is in
        memory. `progress` is called with (sequences counted, all).
        """
        members = items_taking_part(items, catalog_size, max_items, cls.name)
        inverse = torch.empty(len(members), len(members))
        inverse_gram(renumbered(items, members, catalog_size), cu_seqlens, inverse, regularization, progress)
        return cls(weights_of(inverse), members, catalog_size, fade)

    def score_blocks(self, items: Items, cu_seqlens: CuSeqlens) -> Iterator[tuple[slice, Scores]]:
        """Yield the scores of a few packed sequences at a time: the rows, and float32 [rows, V], 0 for items not taking part."""
        size, edges = max(1, BLOCK_ELEMENTS // self.catalog_size), cu_seqlens.cpu()
        place = torch.from_numpy(renumbered(items.cpu().numpy(), self.members, self.catalog_size))
        columns = torch.from_numpy(self.members)
        for first in range(0, len(edges) - 1, size):
            rows = slice(first, min(first + size, len(edges) - 1))
            bounds = edges[rows.start : rows.stop + 1]
            own, offsets = place[bounds[0] : bounds[-1]], bounds - bounds[0]
            back = torch.repeat_interleave(offsets[1:], offsets.diff()) - 1 - torch.arange(len(own))
            share = self.fade**back * (own >= 0)
            scores = torch.zeros(len(offsets) - 1, self.catalog_size)
            scores[:, columns] = F.embedding_bag(
                own.clamp(min=0), self.weights, offsets[:-1], mode="sum", per_sample_weights=share.float()
            )
            yield rows, scores


class EASEPairs(ItemPairs):
    """The largest weights of an `EASE`, for score fusion: a sum over the last `window` events, whatever their order.

    It knows which items go together over a whole history, where the network and the other co-occurrence models look at the most
    recent events first.
    """

    name = EASE.name
    floor = 0.01
    window = 50
    fade = 1.0

    @classmethod
    def fit(
        cls,
        items: IntArray,
        cu_seqlens: IntArray,
        catalog_size: int,
        *,
        regularization: float = REGULARIZATION_OF_PAIRS,
        neighbors: int = NEIGHBORS,
        max_items: int = MAX_ITEMS,
        progress: Callable[[int, int], None] | None = None,
    ) -> "EASEPairs":
        """Solve the regression as `EASE.fit` does, and store `neighbors` weights of each item."""
        whole = EASE.fit(items, cu_seqlens, catalog_size, regularization=regularization, max_items=max_items, progress=progress)
        return cls(*largest_weights(whole.weights, whole.members, catalog_size, neighbors))


def inverse_gram(
    items: IntArray,
    cu_seqlens: IntArray,
    out: Tensor,
    regularization: float,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write P = (X'X + regularization I)^-1 of an `EASE` to `out`, float32 [m, m].

    `items` are packed places of the items among those that take part, -1 for the others; no other matrix is in memory.
    """
    out.zero_()
    for first in range(0, len(cu_seqlens) - 1, SEQUENCES_AT_ONCE):
        edges = cu_seqlens[first : first + SEQUENCES_AT_ONCE + 1]
        _add_products(out, items[edges[0] : edges[-1]], np.diff(edges))
        if progress:
            progress(first + len(edges) - 1, len(cu_seqlens) - 1)
    factor = cholesky(out, regularization)
    torch.cholesky_inverse(factor, out=factor)  # P is symmetric, so it does not matter that LAPACK stores columns


def weights_of(inverse: Tensor) -> Tensor:
    """Return W of an `EASE` in the memory of its P. [m, m]."""
    weights = inverse.div_(-inverse.diagonal().clone())
    return weights.fill_diagonal_(0.0)


def _add_products(gram: Tensor, items: IntArray, lengths: IntArray) -> None:
    """Add X'X of a few sequences. `items` are packed, -1 for those that do not take part."""
    row = np.repeat(np.arange(len(lengths)), lengths)[items >= 0]
    own, column = np.unique(items[items >= 0], return_inverse=True)
    has = torch.zeros(len(lengths), len(own))
    has[row, column] = 1.0
    gram[np.ix_(own, own)] += has.T @ has
