"""Ranks with an item table whose rows are spread over processes: no process needs the whole table.

The processes encode different examples, exchange the states, and each counts the candidates among its own items that score at
least as high as the target. The counts add up to the rank.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssd4rec.array_types import Items, States
from ssd4rec.data.packing import consecutive
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.distributed import World
from ssd4rec.evaluation.metrics import Ranks
from ssd4rec.evaluation.ranks import not_finite, rounding_at
from ssd4rec.evaluation.scoring import BLOCK_ITEMS, EncodedBatch, encode_examples, evaluating, score_blocks
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops.repeats import sequence_items


def rank_examples_sharded(
    model: NextItemModel, sequences: Sequences, examples: Examples, token_budget: int, world: World
) -> Ranks:
    """Return `rank_examples` of a model whose table is a `ShardedTable`; all processes call this together.

    Each process encodes batches of at most `token_budget` events, and returns the same ranks, int64 [examples].

    Raises:
        DivergedError: a score is not a finite number.
    """
    ranks = np.zeros(len(examples), np.int64)
    rounds = -(-len(consecutive(examples.lengths, token_budget)) // world.size)
    with torch.inference_mode(), evaluating(model):
        batches = encode_examples(model, sequences, examples, token_budget, world)
        for _ in range(rounds):
            block = _exchange(model, next(batches, None), world)
            ranks[block.example.cpu().numpy()] = _rank(model, block, world).cpu().numpy()
    return ranks


class _Block(NamedTuple):
    """Examples of all processes."""

    example: Tensor  # int64 [M] which ones
    targets: Items  # [M]
    states: States  # [M, D]
    cells: Tensor  # int64 [n, 2] row and item of the logits that are added
    logits: Tensor  # [n]


def _exchange(model: NextItemModel, batch: EncodedBatch | None, world: World) -> _Block:
    """Return the batches of all processes side by side; a process without one takes part with nothing."""
    weight = model.table.weight
    numbers = torch.zeros(0, 2, dtype=torch.int64, device=weight.device)
    states, cells, logits = weight.new_zeros(0, weight.shape[1]), numbers, weight.new_zeros(0, 1)
    if batch is None:
        model.vectors_of(numbers[:, 0])  # the look-up of the others is an exchange
    else:
        assert batch.states is not None  # noqa: S101 - the model encodes
        example = torch.from_numpy(batch.rows).to(weight.device)
        states, numbers = batch.states, torch.stack([example, batch.packed.last_targets], 1)
        if model.repeat_logits is not None:
            added = model.repeat_logits.added(states, sequence_items(batch.full.items, batch.full.cu_seqlens))
            own, values = added.logits(slice(0, len(states)))
            logits = values[:, None]
            cells = torch.stack([own.row, own.column + 1], 1)
    every, counts = world.all_rows(numbers)
    cells = cells + torch.tensor([sum(counts[: world.rank]), 0], device=cells.device)
    exchanged = (world.all_rows(each)[0] for each in (states, cells, logits))
    every_state, every_cell, every_logit = exchanged
    return _Block(every[:, 0], every[:, 1], every_state, every_cell, every_logit[:, 0])


def _rank(model: NextItemModel, block: _Block, world: World) -> Tensor:
    """Return the rank of each target of a block. int64 [M]."""
    weight, size, rank = model.table.weight, world.size, world.rank
    first = 1 if rank == 0 else 0  # the mask is on the first process, and never scored
    scored = weight[first:]
    mine = block.targets % size == rank
    vectors = weight[block.targets[mine] // size]
    own, length = weight.new_zeros(2, len(block.targets))
    own[mine], length[mine] = (block.states[mine] * vectors).sum(1), vectors.norm(dim=1)
    row, item = block.cells.unbind(1)
    of_target = (item == block.targets[row]).nonzero()[:, 0]
    world.sum_([own, length])
    own[row[of_target]] += block.logits[of_target]  # an item is one cell of a row
    own -= rounding_at(block.states, length)
    here = (item % size == rank).nonzero()[:, 0]
    here = here[row[here].argsort(stable=True)]
    row, column, logits = row[here], item[here] // size - first, block.logits[here]
    ranks, broken = torch.zeros_like(block.targets), torch.zeros_like(block.targets)
    for rows, scores in score_blocks(block.states, scored) if len(scored) else ():
        part = slice(*torch.searchsorted(row, torch.tensor([rows.start, rows.stop], device=row.device)).tolist())
        scores[row[part] - rows.start, column[part]] += logits[part]
        broken[rows] = ~torch.isfinite(scores.sum(1))
        hit = mine[rows].nonzero()[:, 0]
        scores[hit, block.targets[rows][hit] // size - first] = torch.inf  # a target counts itself, however it was rounded
        for columns in scores.split(BLOCK_ITEMS, dim=1):  # a sum of all columns would widen all of them
            ranks[rows] += (columns >= own[rows, None]).sum(1)
    world.sum_([ranks, broken])
    if bad := int((broken > 0).sum()):
        raise not_finite(bad, len(broken))
    return ranks
