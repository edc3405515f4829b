"""The scores of a sequential ridge at its own training positions, as if it had not been trained on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.baselines.closed_form import MAX_ITEMS, items_taking_part, renumbered
from ssd4rec.baselines.item_pairs import FADE, READ
from ssd4rec.baselines.sequential_ridge import REACH, REGULARIZATION, SequentialRidge, solve, stored
from ssd4rec.ops.segments import to_device

BLOCK = 128  # positions of a sequence that are left out together
REPORT_EVERY = 1000  # blocks


class Blocks(NamedTuple):
    """Consecutive training positions of a sequence, and the events that their sources and targets consist of."""

    position: IntArray  # [blocks] the first position of each, ascending
    positions: IntArray  # [blocks] how many
    event: IntArray  # [blocks] the first event
    events: IntArray  # [blocks] how many


@dataclass(frozen=True)
class LeftOutRidge:
    """Scores the training positions of a `SequentialRidge`, each as if its sequence had not been trained on.

    A regression knows its own targets: at a training position it scores them higher than it would those of a new sequence.
    Leaving out the rows of a sequence changes its residuals by a matrix as small as the sequence. In these rows

        G - S W' = (I - H)^-1 (G - S W)        H = S (S'S + regularization I)^-1 S'

    with W of all sequences and W' of all others, so that S W' is known exactly without fitting again. Of a sequence with more
    than BLOCK positions, BLOCK consecutive ones are left out together.

    A position is the index of the event that is to be predicted.

    Source: Cook and Weisberg 1982, "Residuals and Influence in Regression", on the deletion of several cases.
    """

    weights: Tensor  # float32 [m, m] W, see `SequentialRidge`
    members: Tensor  # int64 [m] the items that take part, as item indices minus one, ascending
    places: Tensor  # int64 [T] for each event its item's place among the members, -1: none
    sequences: tuple[IntArray, IntArray]  # first event of each training sequence, and one past the last one
    blocks: Blocks
    edges: IntArray  # [blocks + 1] of `factors`
    factors: Tensor  # float32; of each block two matrices [positions, events]: factors of rows of W, and what is added
    catalog_size: int

    @classmethod
    def prepare(
        cls,
        items: IntArray,
        start: IntArray,
        stop: IntArray,
        catalog_size: int,
        *,
        max_items: int = MAX_ITEMS,
        block: int = BLOCK,
    ) -> Self:
        """Return an instance with weights and factors of the right size, all 0, for `solve` to compute.

        Args:
            items: int64 [T] item indices; 0 is an unknown item.
            start: [B] the first event of each training sequence, ascending.
            stop: [B] one past the last one.
            catalog_size: V.
            max_items: as in `SequentialRidge.fit`.
            block: positions of a sequence that are left out together at most.
        """
        training_items = items[ranges(start, stop - start)]
        members = items_taking_part(training_items, catalog_size, max_items, SequentialRidge.name)
        blocks = _blocks(start, stop, block)
        edges = lengths_to_offsets(2 * blocks.positions * blocks.events)
        return cls(
            weights=torch.zeros(len(members), len(members)),
            members=torch.from_numpy(members),
            places=torch.from_numpy(renumbered(items, members, catalog_size)),
            sequences=(start, stop),
            blocks=blocks,
            edges=edges,
            factors=torch.zeros(int(edges[-1])),
            catalog_size=catalog_size,
        )

    def solve(
        self, progress: Callable[[int, int], None] | None = None, *, regularization: float = REGULARIZATION
    ) -> SequentialRidge:
        """Compute the weights and the factors; return the ridge of all sequences.

        Three matrices of max_items^2 float32 values are in memory at most, one of which remains.

        Args:
            progress: called with (steps done, all).
            regularization: as in `SequentialRidge.fit`.
        """
        start, stop = self.sequences
        places = self.places.numpy()
        packed, cu_seqlens = places[ranges(start, stop - start)], lengths_to_offsets(stop - start)
        inverse = solve(packed, cu_seqlens, self.weights, regularization, with_inverse=True, progress=progress).numpy()
        factors, edges = self.factors.numpy(), self.edges
        count = len(edges) - 1
        for number, (position, positions, event, events) in enumerate(zip(*self.blocks, strict=True), start=1):
            of_block = _factors(position - event, positions, places[event : event + events], inverse)
            factors[edges[number - 1] : edges[number]] = of_block.ravel()
            if progress and (number % REPORT_EVERY == 0 or number == count):
                progress(number, count)
        return stored(self.weights, self.members.numpy(), self.catalog_size)

    def to(self, device: torch.device | str) -> Self:
        """Return the same on a device."""
        weights, members, places, factors = (
            to_device(each, torch.device(device)) for each in (self.weights, self.members, self.places, self.factors)
        )
        return replace(self, weights=weights, members=members, places=places, factors=factors)

    def raises(self, positions: IntArray) -> Tensor:
        """Return what fusion with weight 1 adds to the scores of all items, see `ItemPairs.raises`. float32 [n, V].

        Args:
            positions: [n]; those of a sequence are best next to each other.
        """
        block = np.searchsorted(self.blocks.position, positions, side="right") - 1
        edges = np.flatnonzero(np.diff(block, prepend=-1, append=-1))
        raised = self.weights.new_zeros(len(positions), self.catalog_size)
        everything = len(self.members) == self.catalog_size
        for first, last in pairwise(edges.tolist()):
            scores = self._scores(int(block[first]), positions[first:last])
            by = scores.abs().div_(SequentialRidge.floor).log1p_().copysign_(scores)
            if everything:
                raised[first:last] = by
            else:
                raised[first:last, self.members] = by
        return raised

    def _scores(self, number: int, positions: IntArray) -> Tensor:
        """Return the scores of some positions of a block for the items that take part. [n, m]."""
        first, count, event, events = (int(each[number]) for each in self.blocks)
        places = self.places[event : event + events]
        known = (places >= 0).nonzero().squeeze(1)
        factors = self.factors[self.edges[number] : self.edges[number + 1]].view(2, count, events)
        read, own = factors[:, torch.from_numpy(positions - first).to(factors.device)][:, :, known]
        scores: Tensor = read @ self.weights[places[known]]
        return scores.index_add_(1, places[known], own)


def _blocks(start: IntArray, stop: IntArray, most: int) -> Blocks:
    """Cut the training positions of sequences into blocks: all events but the first one of each sequence."""
    positions = np.maximum(stop - start - 1, 0)
    pieces = -(-positions // most)
    sequence = np.repeat(np.arange(len(start)), pieces)
    first = start[sequence] + 1 + most * ranges(np.zeros_like(pieces), pieces)
    last = np.minimum(first + most, stop[sequence])
    event = np.maximum(first - READ, start[sequence])
    return Blocks(first, last - first, event, np.minimum(last - 1 + REACH, stop[sequence]) - event)


def _factors(before: int, positions: int, places: IntArray, inverse: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the two factors of a block. [2, positions, events].

    With the sources S = F E and the targets G = K E of the block, E the items of its events, one row each, the scores are

        (I - H)^-1 F (E W) + (K - (I - H)^-1 K) E        H = F E (S'S + regularization I)^-1 E' F'

    Args:
        before: events of the block before the event that its first position predicts.
        positions: of the block.
        places: [events] of their items among the members, -1: none.
        inverse: [m, m].
    """
    ahead = np.arange(len(places)) - (before + np.arange(positions))[:, None]  # of each event, from the one that is predicted
    source = np.where((ahead < 0) & (ahead >= -READ) & (places >= 0), FADE ** (-1.0 - ahead), 0.0)
    target = np.where((ahead >= 0) & (ahead < REACH) & (places >= 0), FADE ** (1.0 * ahead), 0.0)
    hat = source @ inverse[np.ix_(places, places)] @ source.T
    read, changed = np.split(np.linalg.solve(np.eye(positions) - hat, np.hstack([source, target])), 2, axis=1)
    return np.stack([read, target - changed])
