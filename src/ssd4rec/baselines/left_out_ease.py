"""The scores of an EASE at its own training positions, as if it had not been trained on their sequences."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.baselines.closed_form import MAX_ITEMS, items_taking_part, largest_weights, raised_by_group, renumbered
from ssd4rec.baselines.ease import REGULARIZATION_OF_PAIRS, EASEPairs, inverse_gram, weights_of
from ssd4rec.ops.segments import to_device


@dataclass(frozen=True)
class LeftOutEASE:
    """An `EASEPairs` with all weights that scores its own training positions, leaving out the sequence of each.

    The weights follow from P = (X'X + regularization I)^-1. Without the row x of a sequence, P is known by a change of rank one:

        P' = P + a a' / (1 - x'a)        a = P x

    A position is the index of the event that is to be predicted; it reads the `EASEPairs.window` events before it.

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
        starts, floor = self.sequences[0], EASEPairs.floor
        return raised_by_group(positions, starts, self._scores, self.inverse, self.members, self.catalog_size, floor)

    def _scores(self, number: int, positions: IntArray) -> Tensor:
        """Return the scores of some positions of a sequence for the items that take part. [n, m]."""
        start, stop = (int(each[number]) for each in self.sequences)
        event = torch.from_numpy(np.arange(start, stop))[self.places[start:stop] >= 0]
        own, item = self.places[event].unique(return_inverse=True)  # x has these items; event e has own[item[e]]
        last = torch.from_numpy(positions)[:, None]
        is_read = ((event < last) & (event >= last - EASEPairs.window)).to(self.inverse.dtype)
        counts = is_read.new_zeros(len(positions), len(own)).index_add_(1, item, is_read)  # how often an item is read
        own, counts = to_device(own, self.inverse.device), to_device(counts, self.inverse.device)
        rows = self.inverse[own]  # [own, m]; a is their sum
        a = rows[:, own].sum(0)
        rest = 1 - a.sum()
        factors = torch.cat([counts + (counts @ a / rest)[:, None], torch.ones_like(counts[:1])])
        sums = factors @ rows  # of the rows of P' that are read, and a itself
        scores = sums[:-1].div_(-(self.inverse.diagonal() + sums[-1].square() / rest))
        return scores.index_add_(1, own, counts)
