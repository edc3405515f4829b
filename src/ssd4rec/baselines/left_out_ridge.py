"""The scores of a sequential ridge at its own training positions, as if it had not been trained on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.baselines.closed_form import MAX_ITEMS, items_taking_part, largest_weights, raised_by_group, renumbered
from ssd4rec.baselines.item_pairs import FADE, READ
from ssd4rec.baselines.sequential_ridge import REACH, REGULARIZATION, SequentialRidge, solve
from ssd4rec.ops.segments import to_device

BLOCK = 128  # positions of a sequence that are left out together
REPORT_EVERY = 1000  # blocks


class Blocks(NamedTuple):
    """Consecutive training positions of a sequence whose scores are computed together, [blocks] each.

    The positions just before and after them are left out too, because their targets overlap.
    """

    position: IntArray  # the first position, ascending
    positions: IntArray  # how many
    left_out: IntArray  # the first position that is left out
    left_outs: IntArray  # how many
    event: IntArray  # the first event in a source or target of these
    events: IntArray  # how many


@dataclass(frozen=True)
class LeftOutRidge:
    """A `SequentialRidge` that scores its own training positions, leaving out the sequence of each.

    A regression was fitted to its own targets: at a training position it scores them higher than it would those of a new
    sequence. Leaving out rows of a regression changes its residuals in these rows by a small matrix:

        G - S W' = (I - H)^-1 (G - S W)        H = S (S'S + regularization I)^-1 S'

    Here S and G are the sources and targets of the rows, W is the solution for all rows, and W' that for the others. So the
    scores S W' are known exactly without fitting again. In a sequence with more than BLOCK positions, BLOCK of them and the
    REACH - 1 positions on either side are left out together, so that no target of the BLOCK positions takes part.

    A position is the index of the event that is to be predicted.

    Source: Cook and Weisberg 1982, "Residuals and Influence in Regression", on the deletion of several cases.
    """

    weights: Tensor  # [m, m] W, see `SequentialRidge`
    members: Tensor  # int64 [m] the items that take part, as item indices minus one, ascending
    places: Tensor  # int64 [T] for each event its item's place among the members, -1: none; on the CPU
    sequences: tuple[IntArray, IntArray]  # first event of each training sequence, and one past the last one
    blocks: Blocks
    edges: IntArray  # [blocks + 1] the factors of block b are those from edges[b] to edges[b + 1]
    factors: Tensor  # of each block two matrices [positions, events]: factors of rows of W, and numbers added to the scores
    catalog_size: int

    @property
    def tensors(self) -> list[Tensor]:
        """What `solve` computes."""
        return [self.weights, self.factors]

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

        Three matrices of max_items^2 float32 values are in memory at most, one of which remains, with up to 1.3 KB of factors for
        each training position of long sequences.

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
        for number, block in enumerate(zip(*self.blocks, strict=True), start=1):
            position, positions, left_out, left_outs, event, events = block
            ahead = np.arange(event, event + events) - np.arange(left_out, left_out + left_outs)[:, None]
            of_block = _factors(ahead, places[event : event + events], inverse)
            scored = slice(position - left_out, position - left_out + positions)
            factors[edges[number - 1] : edges[number]] = of_block[:, scored].ravel()
            if progress and (number % REPORT_EVERY == 0 or number == count):
                progress(number, count)
        return SequentialRidge(*largest_weights(self.weights, self.members.numpy(), self.catalog_size))

    def to(self, like: Tensor) -> Self:
        """Return a copy on the device and in the type of a tensor."""
        weights, factors = (to_device(each, like.device).to(like.dtype) for each in (self.weights, self.factors))
        return replace(self, weights=weights, factors=factors, members=to_device(self.members, like.device))

    def raises(self, positions: IntArray) -> Tensor:
        """Return what fusion with weight 1 adds to the scores of all items, see `ItemPairs.raises`. [n, V].

        Args:
            positions: [n]; those of a sequence are best next to each other.
        """
        starts, floor = self.blocks.position, SequentialRidge.floor
        return raised_by_group(positions, starts, self._scores, self.weights, self.members, self.catalog_size, floor)

    def _scores(self, number: int, positions: IntArray) -> Tensor:
        """Return the scores of some positions of a block for the items that take part. [n, m]."""
        event, events = int(self.blocks.event[number]), int(self.blocks.events[number])
        factors = self.factors[self.edges[number] : self.edges[number + 1]].view(2, -1, events)
        rows, places = torch.from_numpy(positions - self.blocks.position[number]), self.places[event : event + events]
        of_weights, summands = factors[:, to_device(rows, factors.device)]
        taking_part = places >= 0
        if not taking_part.all():
            columns = to_device(taking_part.nonzero().squeeze(1), factors.device)
            of_weights, summands, places = of_weights[:, columns], summands[:, columns], places[taking_part]
        places = to_device(places, factors.device)
        scores: Tensor = of_weights @ self.weights[places]
        return scores.index_add_(1, places, summands)


def _blocks(start: IntArray, stop: IntArray, most: int) -> Blocks:
    """Cut the training positions of sequences into blocks: all events but the first one of each sequence."""
    positions = np.maximum(stop - start - 1, 0)
    pieces = -(-positions // most)
    sequence = np.repeat(np.arange(len(start)), pieces)
    start, stop = start[sequence], stop[sequence]
    first = start + 1 + most * ranges(np.zeros_like(pieces), pieces)
    last = np.minimum(first + most, stop)
    left_out, end = np.maximum(first - REACH + 1, start + 1), np.minimum(last + REACH - 1, stop)
    event, end_event = np.maximum(left_out - READ, start), np.minimum(end - 1 + REACH, stop)
    return Blocks(first, last - first, left_out, end - left_out, event, end_event - event)


def _factors(ahead: IntArray, places: IntArray, inverse: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the two factors of rows that are left out together. [2, rows, events].

    With the sources S = F E and the targets G = K E, E the items of the events, one row each, the scores are

        (I - H)^-1 F (E W) + (K - (I - H)^-1 K) E        H = F E (S'S + regularization I)^-1 E' F'

    Args:
        ahead: [rows, events] how many events the event comes after the position.
        places: [events] of their items among the members, -1: none.
        inverse: [m, m].
    """
    source = np.where((ahead < 0) & (ahead >= -READ) & (places >= 0), FADE ** (-1.0 - ahead), 0.0)
    target = np.where((ahead >= 0) & (ahead < REACH) & (places >= 0), FADE ** (1.0 * ahead), 0.0)
    hat = source @ inverse[np.ix_(places, places)] @ source.T
    new_source, new_target = np.split(np.linalg.solve(np.eye(len(hat)) - hat, np.hstack([source, target])), 2, axis=1)
    return np.stack([new_source, target - new_target])
