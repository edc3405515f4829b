"""Examples laid end to end in one row: no padding, no truncation."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec.data.histories import Histories
from ssd4rec.data.split import Examples
from ssd4rec.shapes import Boundaries, Items, Targets

OPEN_BATCHES = 16  # how many unfilled batches an example may still be put into

Numbers = npt.NDArray[np.int64]


class PackedBatch(NamedTuple):
    """Histories end to end.

    Two histories, 5 7 2 followed by 9 and 1 followed by 4, each asked for its last target only:

    items [5, 7, 2, 1]    boundaries [0, 3, 4]    targets [0, 0, 9, 4]
    """

    items: Items  # [T]
    boundaries: Boundaries  # [B + 1]
    targets: Targets  # [T]: the item that follows position t, 0 where nothing is asked

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on a device."""
        return PackedBatch(*(tensor.to(device) for tensor in self))


def pack(
    histories: Histories, examples: Examples, token_budget: int, rng: np.random.Generator | None = None
) -> Iterator[PackedBatch]:
    """Lay examples end to end in batches of at most `token_budget` positions.

    Args:
        histories: where the items lie.
        examples: which parts of them are read, and what is asked.
        token_budget: positions a batch. A longer history is a batch of its own: it is never cut.
        rng: shuffles the examples; None keeps their order.

    Yields:
        Batches that hold every example once.
    """
    for rows in plan_batches(examples.stop - 1 - examples.start, token_budget, rng=rng):
        yield lay_end_to_end(histories, examples, rows)


def plan_batches(
    lengths: Numbers, token_budget: int, *, batch_size: int | None = None, rng: np.random.Generator | None = None
) -> list[Numbers]:
    """Decide which examples share a batch: first fit, over a few open batches.

    Args:
        lengths: [rows] positions that each example takes.
        token_budget: positions a batch.
        batch_size: examples a batch at most.
        rng: shuffles the examples, and the batches; None keeps their order.

    Returns:
        For each batch the rows in it; together every row once.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    limit = batch_size or len(lengths)
    room: list[int] = []
    members: list[list[int]] = []
    finished: list[list[int]] = []
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        for slot, left in enumerate(room):
            if length <= left and len(members[slot]) < limit:
                room[slot] -= length
                members[slot].append(row)
                break
        else:
            if len(room) == OPEN_BATCHES or (rng is None and room):
                fullest = int(np.argmin(room))
                finished.append(members.pop(fullest))
                room.pop(fullest)
            room.append(token_budget - length)
            members.append([row])
    finished += members
    if rng is not None:
        rng.shuffle(finished)
    return [np.asarray(rows, dtype=np.int64) for rows in finished]


def lay_end_to_end(histories: Histories, examples: Examples, rows: Numbers) -> PackedBatch:
    """The packed batch of some examples, in the order of `rows`."""
    start, asked_from, stop = examples.start[rows], examples.first_target[rows], examples.stop[rows]
    lengths = stop - 1 - start
    boundaries = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    # position t of the row reads items[at[t]]; what follows it is items[at[t] + 1]
    at = np.arange(boundaries[-1]) + np.repeat(start - boundaries[:-1], lengths)
    follows = histories.items[at + 1].astype(np.int64)
    follows[at + 1 < np.repeat(asked_from, lengths)] = 0
    return PackedBatch(_tensor(histories.items[at].astype(np.int64)), _tensor(boundaries), _tensor(follows))


def _tensor(values: Numbers) -> Tensor:
    return torch.from_numpy(values)
