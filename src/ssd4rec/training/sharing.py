"""How processes share a batch: equally many positions each, the same random numbers however many they are."""

import heapq

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, ranges
from ssd4rec.array_types import CuSeqlens
from ssd4rec.data.packing import BatchPlan
from ssd4rec.data.split import Examples
from ssd4rec.distributed import World
from ssd4rec.ops.keyed_random import GOLDEN, splitmix64
from ssd4rec.ops.segments import CHUNK


def share_of(placed: BatchPlan, lengths: IntArray, token_budget: int, world: World) -> BatchPlan:
    """Return this process's share of a batch; the shares of all processes hold every example once.

    A batch is cut between chunks that no example spans, and the pieces, the largest first, go to the process with the fewest
    positions so far. The shares are as equal as the longest example allows. `lengths` are the positions that each example of the
    pass takes, [rows].
    """
    unit = min(CHUNK, token_budget)
    first = placed.start // unit
    last = (placed.start + lengths[placed.rows] - 1) // unit
    chunks = -(-placed.size // unit)
    spans = np.zeros(chunks + 1, dtype=np.int64)  # examples that go on from chunk c - 1 to chunk c
    np.add.at(spans, first + 1, 1)
    np.add.at(spans, last + 1, -1)
    begins = np.flatnonzero(np.cumsum(spans)[:chunks] == 0)  # first chunk of each piece
    sizes = np.diff(np.append(begins, chunks))
    piece = np.searchsorted(begins, first, side="right") - 1  # of each example
    occupied = np.unique(piece)
    offset = np.full(len(begins), -1, dtype=np.int64)  # of this process's pieces, in chunks
    heap = [(0, rank) for rank in range(world.size)]
    for index in occupied[np.argsort(-sizes[occupied], kind="stable")].tolist():
        load, rank = heap[0]
        if rank == world.rank:
            offset[index] = load
        heapq.heapreplace(heap, (load + int(sizes[index]), rank))
    mine = offset[piece] >= 0
    total = next(load for load, rank in heap if rank == world.rank)
    start = (offset[piece] - begins[piece]) * unit + placed.start
    return BatchPlan(placed.rows[mine], start[mine], total * unit)


def stream_keys(examples: Examples, placed: BatchPlan, cu_seqlens: CuSeqlens, seed: tuple[int, int]) -> Tensor:
    """Return the keys of a batch's positions for `ops.keyed_random`.

    A key depends on (seed, epoch), the example and the event; an example is identified by the event that follows it, which no
    other example of the pass has. Positions of padding have arbitrary keys.

    Args:
        examples: of the pass.
        placed: the batch.
        cu_seqlens: [B + 1] of the prepared batch; with one more position per sequence for masked-item training.
        seed: (seed, epoch).

    Returns:
        int64 [T].
    """
    rows = placed.rows
    lengths = examples.lengths[rows]
    event = np.zeros(placed.size, dtype=np.int64)
    example = np.zeros(placed.size, dtype=np.int64)
    position = ranges(placed.start, lengths)
    event[position] = ranges(examples.start[rows], lengths)
    example[position] = np.repeat(examples.stop[rows], lengths)
    events, in_example = torch.from_numpy(event), torch.from_numpy(example)
    if int(cu_seqlens[-1]) > placed.size:  # the masked-item objective appends the target of each sequence
        ends = torch.from_numpy(np.unique(np.concatenate([placed.start + lengths, placed.start, [0, placed.size]])))[1:] - 1
        events, in_example = (
            torch.cat([values, extra])[_interleaved(len(events), ends)]
            for values, extra in ((events, events[ends] + 1), (in_example, in_example[ends]))
        )
    base = splitmix64(torch.tensor((seed[0] << 20) ^ seed[1], dtype=torch.int64) * GOLDEN)
    return splitmix64(splitmix64(base + in_example * GOLDEN) + events * GOLDEN)


def _interleaved(length: int, ends: Tensor) -> Tensor:
    """Return the order of [0 … length - 1, the appended ones] that puts appended value i behind position ends[i]."""
    keys = torch.cat([torch.arange(length) * 2, ends * 2 + 1])
    return keys.argsort(stable=True)
