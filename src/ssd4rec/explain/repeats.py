"""Learned repeat logits of a sequence without each of its events, for a block of events at once."""

import torch
from torch import Tensor

from ssd4rec.array_types import Items, Positions, Scores, States
from ssd4rec.layers.repeat_logits import RepeatLogits
from ssd4rec.ops.cross_entropy import repeat_features
from ssd4rec.ops.repeats import RepeatCells, sequence_items


def logits_without_each(layer: RepeatLogits, states: States, items: Items, places: Positions, catalog_size: int) -> Scores:
    """Return what the layer adds to the scores of the sequence without each of some events.

    An event changes the gaps of the items that occurred last before it by one, and the gap and the count of its own item.

    Args:
        layer: the logits.
        states: [n, D] of the shortened sequences.
        items: int64 [T] the sequence.
        places: int64 [n] the events to leave out, one at a time.
        catalog_size: V.

    Returns:
        [n, V]; 0 for items that the shortened sequence does not contain.
    """
    events, rows = len(items), torch.arange(len(places), device=items.device)
    distinct, group, counts = torch.unique(items, return_inverse=True, return_counts=True)
    positions = torch.arange(events, device=items.device)
    latest = _latest(positions, group, len(distinct))
    second = _latest(torch.where(positions == latest[group], -1, positions), group, len(distinct))

    own = group[places]
    gap = events - 1 - latest - (places[:, None] > latest).long()
    gap[rows, own] = torch.where(places == latest[own], events - 2 - second[own], gap[rows, own])
    count = counts.repeat(len(places), 1)
    count[rows, own] -= 1
    remains = count > 0
    row, column = remains.nonzero(as_tuple=True)
    cells = RepeatCells(row, distinct[column] - 1, gap[remains], count[remains])
    coefficients = layer.added(states, sequence_items(items, torch.tensor([0, events]))).coefficients
    added = states.new_zeros(len(places), catalog_size)
    added[cells.row, cells.column] = (coefficients[row] * repeat_features(cells, coefficients)).sum(1).to(added.dtype)
    return added


def _latest(positions: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the largest position of each group; -1: it has none."""
    return positions.new_full((groups,), -1).scatter_reduce(0, group, positions, "amax")
