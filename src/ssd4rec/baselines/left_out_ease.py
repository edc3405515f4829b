"""The scores of an EASE at its own training positions, as if it had not been trained on their sequences."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.baselines.closed_form import MAX_ITEMS, items_taking_part, largest_weights, renumbered
from ssd4rec.baselines.ease import REGULARIZATION_OF_PAIRS, EASEPairs, inverse_gram, weights_of
from ssd4rec.ops.segments import to_device


@dataclass(frozen=True)
class LeftOutEASE:
    """An `EASEPairs` with all weights that scores its own training positions, leaving out the sequence of each.

    The weights follow from P = (X'X + regularization I)^-1. Without the row x of a sequence, P is known by a change of rank one:

        P' = P + a a' / (1 - x'a)        a = P x

    A position is the index of the event that is to be predicted; it reads the `EASEPairs.read` events before it.

    Source: Sherman and Morrison 1950.
    """

    inverse: Tensor  # [m, m] P
    members: Tensor  # int64 [m] the items that take part, as item indices minus one, ascending
    places: Tensor  # int64 [T] for each event its item's place among the members, -1: none; on the CPU
    sequences: tuple[IntArray, IntArray]  # first event of each training sequence, ascending, and one past the last one
    catalog_size: int

    @property
    def tensors(self) -> list[Tensor]:
        """What `solve` computes."""
        return [self.inverse]

    @classmethod
    def prepare(cls, items: IntArray, start: IntArray, stop: IntArray, catalog_size: int, *, max_items: int = MAX_ITEMS) -> Self:
        """Return an instance with a matrix of the right size, all 0, for `solve` to compute.

        Args:
            items: int64 [T] item indices; 0 is an unknown item.
            start: [B] the first event of each training sequence, ascending.
            stop: [B] one past the last one.
            catalog_size: V.
            max_items: as in `EASEPairs.fit`.
        """
        members = items_taking_part(items[ranges(start, stop - start)], catalog_size, max_items, EASEPairs.name)
        return cls(
            inverse=torch.zeros(len(members), len(members)),
            members=torch.from_numpy(members),
            places=torch.from_numpy(renumbered(items, members, catalog_size)),
            sequences=(start, stop),
            catalog_size=catalog_size,
        )

    def solve(
        self, progress: Callable[[int, int], None] | None = None, *, regularization: float = REGULARIZATION_OF_PAIRS
    ) -> EASEPairs:
        """Compute the inverse; return the EASE of all sequences.

        Two matrices of max_items^2 float32 values are in memory, one of which remains.

        Args:
            progress: called with (steps done, all).
            regularization: as in `EASEPairs.fit`.
        """
        start, stop = self.sequences
        packed = self.places.numpy()[ranges(start, stop - start)]
        inverse_gram(packed, lengths_to_offsets(stop - start), self.inverse, regularization, progress)
        weights = weights_of(self.inverse.clone())
        return EASEPairs(*largest_weights(weights, self.members.numpy(), self.catalog_size))

    def to(self, like: Tensor) -> Self:
        """Return a copy on the device and in the type of a tensor."""
        inverse = to_device(self.inverse, like.device).to(like.dtype)
        return replace(self, inverse=inverse, members=to_device(self.members, like.device))

    def raises(self, positions: IntArray) -> Tensor:
        """Return what fusion with weight 1 adds to the scores of all items, see `ItemPairs.raises`. [n, V].

        Args:
            positions: [n]; those of a sequence are best next to each other.
        """
        sequence = np.searchsorted(self.sequences[0], positions, side="right") - 1
        edges = np.flatnonzero(np.diff(sequence, prepend=-1, append=-1))
        everything = len(self.members) == self.catalog_size
        raised = self.inverse.new_zeros(len(positions), self.catalog_size)
        for first, last in pairwise(edges.tolist()):
            scores = self._scores(int(sequence[first]), positions[first:last])
            by = scores.abs().div_(EASEPairs.floor).log1p_().copysign_(scores)
            if everything:
                raised[first:last] = by
            else:
                raised[first:last, self.members] = by
        return raised

    def _scores(self, number: int, positions: IntArray) -> Tensor:
        """Return the scores of some positions of a sequence for the items that take part. [n, m]."""
        start, stop = (int(each[number]) for each in self.sequences)
        own = self.places[start:stop].unique()
        own = to_device(own[own >= 0], self.inverse.device)
        a = self.inverse[own].sum(0)
        rest = 1 - a[own].sum()
        oldest = np.maximum(positions - EASEPairs.read, start)
        begin, end = int(oldest.min()), int(positions.max())
        places = self.places[begin:end]
        counts = self._counts(torch.from_numpy(oldest - begin), torch.from_numpy(positions - begin), places)
        read = to_device((places >= 0).nonzero().squeeze(1), self.inverse.device)
        items = to_device(places, self.inverse.device)[read]
        counts = to_device(counts, self.inverse.device).to(self.inverse.dtype)[:, read]
        sums = counts @ self.inverse[items]  # [n, m] of the rows of P that are read
        sums += (counts @ a[items] / rest)[:, None] * a
        scores = sums.div_(-(self.inverse.diagonal() + a * a / rest))
        return scores.index_add_(1, items, counts)

    @staticmethod
    def _counts(first: Tensor, last: Tensor, places: Tensor) -> Tensor:
        """Return which events each position reads. [n, events]."""
        event = torch.arange(len(places))
        return (event >= first[:, None]) & (event < last[:, None])
