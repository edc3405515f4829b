"""Examples laid end to end in one row: no truncation, and no padding beyond the few places that keep shapes constant.

To evaluate, examples keep their order and nothing lies between them (`pack`). To learn, they are placed as layers read fastest
(`plan_batches`): the scan works on chunks of Q positions, and an example of at most Q positions never lies across two of them.
What stays free is padding: histories of item 0 that ask for nothing. They are 1 to 4 % of the places and change no
other history.
"""

import heapq
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.array_types import CuSeqlens, Items, Targets
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.ops.segments import CHUNK, to_device

BINS = 8  # long examples are laid end to end until they take this part of a batch


class PackedBatch(NamedTuple):
    """Sequences end to end.

    Two histories, 5 7 2 followed by 9 and 1 followed by 4, each with its last target only:

    items [5, 7, 2, 1]    cu_seqlens [0, 3, 4]    targets [0, 0, 9, 4]
    """

    items: Items  # [T]
    cu_seqlens: CuSeqlens  # [B + 1], on the CPU wherever the rest is
    targets: Targets  # [T]: the item that follows position t, 0 where there is no target

    @property
    def last_targets(self) -> Targets:
        """[B] the target at the last position of each history."""
        return self.targets[to_device(self.cu_seqlens[1:] - 1, self.targets.device)]

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on a device, but for its cu_seqlens; a GPU fetches it while the CPU goes on."""
        return self._replace(items=to_device(self.items, device), targets=to_device(self.targets, device))


class BatchPlan(NamedTuple):
    """A batch before it is laid out: which examples, and where."""

    rows: IntArray  # [B] in the order in which they lie
    start: IntArray  # [B] the position of each example's first event
    size: int  # T: positions of the batch; what no example takes is filled


def pack(histories: Sequences, examples: Examples, token_budget: int) -> Iterator[PackedBatch]:
    """Lay examples end to end, in their order, in batches of at most `token_budget` positions.

    Args:
        histories: the sequences.
        examples: the parts of them that are read, and their targets.
        token_budget: positions per batch; a longer sequence is a batch of its own and is never cut.

    Yields:
        Batches that contain every example once.
    """
    for rows in consecutive(examples.lengths, token_budget):
        yield _pack_rows(histories, examples, rows)


def pack_with_full_history(
    histories: Sequences, examples: Examples, token_budget: int, device: torch.device
) -> Iterator[tuple[PackedBatch, PackedBatch]]:
    """Yield the batches of `pack` on a device, each with a batch of the same examples and their complete histories.

    The two differ if `data.max_length` shortens the input: the seen items of a user do not depend on it.
    """
    past = replace(examples, start=histories.offsets[examples.user])
    cut = bool((examples.start > past.start).any())
    for rows in consecutive(examples.lengths, token_budget):
        batch = _pack_rows(histories, examples, rows).to(device)
        yield batch, _pack_rows(histories, past, rows).to(device) if cut else batch


def _pack_rows(histories: Sequences, examples: Examples, rows: IntArray) -> PackedBatch:
    lengths = examples.lengths[rows]
    return materialize_batch(histories, examples, BatchPlan(rows, lengths_to_offsets(lengths)[:-1], int(lengths.sum())))


def consecutive(lengths: IntArray, token_budget: int) -> list[IntArray]:
    """Cut a list of examples into runs of at most `token_budget` positions; a longer example is alone."""
    edges, used = [0], 0
    for row, length in enumerate(lengths.tolist()):
        if used and used + length > token_budget:
            edges.append(row)
            used = 0
        used += length
    edges.append(len(lengths))
    return [np.arange(start, stop) for start, stop in pairwise(edges) if start < stop]


def plan_batches(
    lengths: IntArray, token_budget: int, rng: np.random.Generator, *, batch_size: int | None = None, chunk: int = CHUNK
) -> list[BatchPlan]:
    """Decide which examples share a batch, and where each lies.

    Short examples share chunks, each put where it leaves the least room; what has come together is spread over the batches so
    that these are equally full. With `batch_size` the batches are random draws of so many examples.

    Args:
        lengths: [rows] positions that each example takes.
        token_budget: positions a batch; a longer example is a batch of its own.
        rng: shuffles the examples, and the batches.
        batch_size: examples a batch.
        chunk: Q; no example of at most Q positions lies across two chunks.

    Returns:
        Batches that together hold every row once. All are of one size (whole chunks within the budget) but for those of one
        longer example, and those made with `batch_size`.
    """
    if not len(lengths):
        return []
    unit = min(chunk, token_budget)
    token_budget -= token_budget % unit
    order = rng.permutation(len(lengths))
    if batch_size is not None:
        placed = [
            batch
            for start in range(0, len(order), batch_size)
            for batch in _place(lengths, order[start : start + batch_size], token_budget, unit, rng)
        ]
    else:
        placed = _place(lengths, order, token_budget, unit, rng)
    return [placed[index] for index in rng.permutation(len(placed))]


def _place(lengths: IntArray, rows: IntArray, token_budget: int, unit: int, rng: np.random.Generator) -> list[BatchPlan]:
    """Put examples into bins of whole chunks, and the bins into batches."""
    is_long = lengths[rows] > unit
    long, short = rows[is_long], rows[~is_long]
    # Some long examples, end to end, begin a shelf and leave room in the last of its chunks; short ones share what is left.
    group, ahead = _next_fit(lengths[long], token_budget, enough=token_budget // BINS)
    total = np.bincount(group, weights=lengths[long]).astype(np.int64)
    tail = np.where(total > token_budget, unit, (total - 1) % unit + 1)
    groups = len(total)
    shelf, before = best_fit(np.concatenate([tail, lengths[short]]), unit, opening=groups)
    chunks = np.ones(shelf.max() + 1, dtype=np.int64)
    chunks[:groups] = -(-total // unit)
    rows = np.concatenate([long, short])
    shelf_of = np.concatenate([group, shelf[groups:]])
    inside = np.concatenate([ahead, (chunks[shelf[groups:]] - 1) * unit + before[groups:]])

    order = rng.permutation(len(chunks))
    order = order[np.argsort(-chunks[order], kind="stable")]
    batch, place = np.empty_like(chunks), np.empty_like(chunks)
    batch[order], place[order] = spread(chunks[order], token_budget // unit)
    start = place[shelf_of] * unit + inside
    sizes = np.bincount(batch, weights=chunks).astype(np.int64)
    one_size = max(sizes[sizes <= token_budget // unit], default=0)
    by_batch = np.lexsort((start, batch[shelf_of]))
    edges = np.flatnonzero(np.diff(batch[shelf_of][by_batch])) + 1
    return [
        BatchPlan(rows[each], start[each], int(max(sizes[batch[shelf_of[each[0]]]], one_size)) * unit)
        for each in np.split(by_batch, edges)
    ]


def spread(sizes: IntArray, capacity: int) -> tuple[IntArray, IntArray]:
    """Put things, the largest first, each into the bin with most room, over few bins: they become equally full.

    Args:
        sizes: [things] in falling order, each 1 or more; what is larger than `capacity` has a bin of its own.
        capacity: of a bin.

    Returns:
        For each thing its bin, and how much of the bin was taken before it.
    """
    alone = int(np.count_nonzero(sizes > capacity))
    rest = sizes[alone:].tolist()
    bins = -(-sum(rest) // capacity)
    taken = [(0, index) for index in range(bins)]
    batch_rows, before = list(range(alone)), [0] * alone
    for size in rest:
        used, index = taken[0]
        if used + size <= capacity:
            heapq.heapreplace(taken, (used + size, index))
        else:
            used, index = 0, len(taken)
            heapq.heappush(taken, (size, index))
        batch_rows.append(alone + index)
        before.append(used)
    return np.asarray(batch_rows, dtype=np.int64), np.asarray(before, dtype=np.int64)


def _next_fit(lengths: IntArray, capacity: int, enough: int) -> tuple[IntArray, IntArray]:
    # the group of each, and what lies before it there: a group is closed when it is long enough, or the next would not fit
    group, before, number, filled = [], [], -1, enough
    for length in lengths.tolist():
        if filled >= enough or filled + length > capacity:
            number, filled = number + 1, 0
        group.append(number)
        before.append(filled)
        filled += length
    return np.asarray(group, dtype=np.int64), np.asarray(before, dtype=np.int64)


def best_fit(sizes: IntArray, capacity: int, opening: int = 0) -> tuple[IntArray, IntArray]:
    """Put things one after the other into the bin that has the least room for them; a new bin where none has enough.

    Args:
        sizes: [things] each 1 or more; what is larger than `capacity` has a bin of its own.
        capacity: of a bin.
        opening: the first so many things open a bin each.

    Returns:
        For each thing its bin, and how much of the bin was taken before it.
    """
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r: some bin has room r
    bins = 0
    batch_rows, before = [], []
    for thing, size in enumerate(sizes.tolist()):
        fitting = rooms >> size << size if thing >= opening else 0
        if fitting:
            room = (fitting & -fitting).bit_length() - 1
            index = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, index = max(capacity, size), bins
            bins += 1
        batch_rows.append(index)
        before.append(max(capacity, size) - room)
        if left := room - size:
            by_room[left].append(index)
            rooms |= 1 << left
    return np.asarray(batch_rows, dtype=np.int64), np.asarray(before, dtype=np.int64)


def materialize_batch(histories: Sequences, examples: Examples, placed: BatchPlan) -> PackedBatch:
    """The packed batch of placed examples; free positions are padding, which holds item 0 and asks for nothing."""
    rows = placed.rows
    start, asked_from, lengths = examples.start[rows], examples.first_target[rows], examples.lengths[rows]
    # position p of the row reads items[at[p]]; what follows it is items[at[p] + 1]
    position, at = ranges(placed.start, lengths), ranges(start, lengths)
    items, follows = np.zeros(placed.size, dtype=np.int64), np.zeros(placed.size, dtype=np.int64)
    items[position] = histories.items[at]
    follows[position] = np.where(at + 1 < np.repeat(asked_from, lengths), 0, histories.items[at + 1])
    cu_seqlens = np.unique(np.concatenate([placed.start, placed.start + lengths, [0, placed.size]]))
    return PackedBatch(*map(torch.from_numpy, (items, cu_seqlens, follows)))
