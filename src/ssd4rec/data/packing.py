"""Packed batches: sequences of different lengths end to end in one tensor, without truncation and almost without padding.

For evaluation, sequences keep their order and nothing is between them (`pack`). For training, they are arranged for speed
(`plan_batches`): layers work on chunks of Q positions, and a sequence of at most Q positions never crosses from one chunk to the
next. The positions that remain free, 1 to 4 % of them, are filled with sequences of item 0 without targets, which keep
the shapes constant and do not affect other sequences.
"""

import heapq
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.array_types import CuSeqlens, Items, RequestTimes, Targets
from ssd4rec.data.request_times import NOT_KNOWN, times_before
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.ops.segments import CHUNK, to_device

BINS = 8  # long examples are joined end to end until together they take 1 / BINS of a batch


class PackedBatch(NamedTuple):
    """Sequences end to end, and the target of each position.

    Two sequences, 5 7 2 with the target 9 and 1 with the target 4:

    items [5, 7, 2, 1]    cu_seqlens [0, 3, 4]    targets [0, 0, 9, 4]
    """

    items: Items  # [T]
    cu_seqlens: CuSeqlens  # [B + 1]; stays on the CPU
    targets: Targets  # [T]: the item that follows position t, 0 where there is no target
    request_times: RequestTimes | None = None  # [T, 2]: gap and moment of each target; None: not asked for; on the CPU
    target_events: Tensor | None = None  # int64 [T]: index of each target in the sequences; None: not asked for; on the CPU

    @property
    def last_targets(self) -> Targets:
        """The target at the last position of each sequence, [B]."""
        return self.targets[to_device(self.cu_seqlens[1:] - 1, self.targets.device)]

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Return the batch with items and targets on a device; the copy to a GPU is asynchronous."""
        return self._replace(items=to_device(self.items, device), targets=to_device(self.targets, device))


class BatchPlan(NamedTuple):
    """The examples of a batch, and their positions in it."""

    rows: IntArray  # [B] indices of the examples, in their order in the batch
    start: IntArray  # [B] position of the first event of each example
    size: int  # T: positions of the batch; those of no example are filled with item 0


def pack(histories: Sequences, examples: Examples, token_budget: int) -> Iterator[PackedBatch]:
    """Pack all examples in their order into batches of at most `token_budget` positions.

    A longer example is a batch of its own and is never cut.
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
    """Cut a list of examples into ranges of at most `token_budget` positions; a longer example is a range of its own."""
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
    """Decide which examples share a batch, and at which position each starts.

    Short examples share chunks by best fit: each goes into the chunk that it fills best. The chunks are then distributed over
    the batches so that these are equally full. With `batch_size`, each batch is a random sample of that many examples.

    Args:
        lengths: [examples] number of positions of each.
        token_budget: positions per batch; a longer example is a batch of its own.
        rng: shuffles the examples and the batches.
        batch_size: examples per batch; None: as many as `token_budget` allows.
        chunk: Q; no example of at most Q positions crosses from one chunk to the next.

    Returns:
        Batches that together contain every example once. They have the same size, a multiple of Q within the budget, except
        for batches of one longer example and batches made with `batch_size`.
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
    # A bin is a run of long examples, or one chunk of short ones; short examples also fill the last chunk of a run.
    run, offset_in_run = _next_fit(lengths[long], token_budget, enough=token_budget // BINS)
    run_length = np.bincount(run, weights=lengths[long]).astype(np.int64)
    in_last_chunk = np.where(run_length > token_budget, unit, (run_length - 1) % unit + 1)
    runs = len(run_length)
    fitted, taken = best_fit(np.concatenate([in_last_chunk, lengths[short]]), unit, opening=runs)
    chunks = np.ones(fitted.max() + 1, dtype=np.int64)  # of each bin
    chunks[:runs] = -(-run_length // unit)
    rows = np.concatenate([long, short])
    bin_of = np.concatenate([run, fitted[runs:]])
    offset_in_bin = np.concatenate([offset_in_run, (chunks[fitted[runs:]] - 1) * unit + taken[runs:]])

    order = rng.permutation(len(chunks))
    order = order[np.argsort(-chunks[order], kind="stable")]
    batch_of_bin, first_chunk = np.empty_like(chunks), np.empty_like(chunks)
    batch_of_bin[order], first_chunk[order] = spread(chunks[order], token_budget // unit)
    start = first_chunk[bin_of] * unit + offset_in_bin
    sizes = np.bincount(batch_of_bin, weights=chunks).astype(np.int64)
    common_size = max(sizes[sizes <= token_budget // unit], default=0)
    batch = batch_of_bin[bin_of]
    by_batch = np.lexsort((start, batch))
    edges = np.flatnonzero(np.diff(batch[by_batch])) + 1
    return [
        BatchPlan(rows[each], start[each], int(max(sizes[batch[each[0]]], common_size)) * unit)
        for each in np.split(by_batch, edges)
    ]


def spread(sizes: IntArray, capacity: int) -> tuple[IntArray, IntArray]:
    """Distribute pieces over few bins that become equally full: each piece goes into the bin with the most room.

    Args:
        sizes: [pieces] in descending order, each 1 or more; a piece larger than `capacity` has a bin of its own.
        capacity: of a bin.

    Returns:
        For each piece its bin, and how much of the bin was taken before it.
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
    """Return the run of each example, and the length of the run before it.

    A run ends when it is long enough, or when the next example would exceed the capacity.
    """
    run, before, number, filled = [], [], -1, enough
    for length in lengths.tolist():
        if filled >= enough or filled + length > capacity:
            number, filled = number + 1, 0
        run.append(number)
        before.append(filled)
        filled += length
    return np.asarray(run, dtype=np.int64), np.asarray(before, dtype=np.int64)


def best_fit(sizes: IntArray, capacity: int, opening: int = 0) -> tuple[IntArray, IntArray]:
    """Put each piece into the bin with the least sufficient room, or into a new bin (best fit).

    Args:
        sizes: [pieces] each 1 or more; a piece larger than `capacity` has a bin of its own.
        capacity: of a bin.
        opening: number of first pieces that get a new bin each.

    Returns:
        For each piece its bin, and how much of the bin was taken before it.
    """
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r: some bin has room r
    bins = 0
    batch_rows, before = [], []
    for piece, size in enumerate(sizes.tolist()):
        fitting = rooms >> size << size if piece >= opening else 0
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
        if remaining := room - size:
            by_room[remaining].append(index)
            rooms |= 1 << remaining
    return np.asarray(batch_rows, dtype=np.int64), np.asarray(before, dtype=np.int64)


def materialize_batch(
    histories: Sequences, examples: Examples, plan: BatchPlan, *, request_times: bool = False, target_events: bool = False
) -> PackedBatch:
    """Return the packed batch of a plan; free positions are padding: item 0, without a target.

    Args:
        histories: the sequences.
        examples: the parts of them that are read, and their targets.
        plan: which examples, and where.
        request_times: also return the times of the targets.
        target_events: also return where the targets are in the sequences.
    """
    rows = plan.rows
    start, first_target, lengths = examples.start[rows], examples.first_target[rows], examples.lengths[rows]
    # position[i] of the batch has the event at[i] of the sequences, and the event after it as its target
    position, at = ranges(plan.start, lengths), ranges(start, lengths)
    items, targets = np.zeros(plan.size, dtype=np.int64), np.zeros(plan.size, dtype=np.int64)
    items[position] = histories.items[at]
    targets[position] = np.where(at + 1 < np.repeat(first_target, lengths), 0, histories.items[at + 1])
    cu_seqlens = np.unique(np.concatenate([plan.start, plan.start + lengths, [0, plan.size]]))
    batch = PackedBatch(*map(torch.from_numpy, (items, cu_seqlens, targets)))
    if target_events:
        events = np.zeros(plan.size, dtype=np.int64)
        events[position] = at + 1
        batch = batch._replace(target_events=torch.from_numpy(events))
    if not request_times:
        return batch
    times = np.tile(np.array(NOT_KNOWN), (plan.size, 1))
    times[position] = times_before(histories, at + 1)
    return batch._replace(request_times=torch.from_numpy(times))
