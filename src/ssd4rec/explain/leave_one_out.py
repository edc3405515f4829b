"""The state of a sequence without each of its events: in one pass with one SSD layer, by re-reading with any model.

And its learned repeat logits without each of them, for a block of events at once.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import Hidden, Items, Positions, Scores, States, Values
from ssd4rec.explain.duality_row import last_without_each
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.layers.repeat_logits import RepeatLogits
from ssd4rec.models.members import members_of
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops.repeats import RepeatCells, sequence_items

TOKENS_AT_ONCE = 32768  # events of one packed batch when shortened sequences are re-read


def reads_in_one_pass(model: NextItemModel) -> bool:
    """Whether `states_in_one_pass` applies: SSD4Rec or Mamba4Rec with one layer, which reads the item vectors themselves."""
    reads_vectors = model.fading_sum is None or model.fade_skip_only
    return reads_vectors and all(isinstance(each, SSD4Rec) and len(each.layers) == 1 for each in members_of(model.backbone))


def states_by_rereading(model: NextItemModel, items: Items, positions: Positions) -> States:
    """Encode the sequence without each of some events, in packed batches: the definition of `states_in_one_pass`.

    Args:
        model: in evaluation mode.
        items: int64 [T] one sequence of 2 or more item indices.
        positions: int64 [n] the events to leave out, one at a time.

    Returns:
        [n, D].
    """
    shorter = len(items) - 1
    columns = torch.arange(shorter, device=items.device)
    states = []
    for some in positions.split(max(1, TOKENS_AT_ONCE // shorter)):
        batch = items[columns + (columns >= some[:, None])]  # [n, T - 1]
        states.append(model.encode(batch.flatten(), torch.arange(0, batch.numel() + 1, shorter)))
    return torch.cat(states)


def states_in_one_pass(model: NextItemModel, items: Items) -> States:
    """Do `states_by_rereading` for all events at about the cost of encoding the sequence once, if `reads_in_one_pass` holds.

    Returns:
        [T + 1, D]: row j is the state of the sequence without event j; the last row is the state of the whole sequence.
    """
    members = cast("list[SSD4Rec]", members_of(model.backbone))
    embedded = model.vectors_of(items)
    columns = embedded.chunk(len(members), dim=1)
    states = torch.cat([_output_without_each(*each) for each in zip(members, columns, strict=True)], dim=1)
    without = _rows(embedded[[-1, -2]], len(items) + 1, len(items) - 1)
    if model.fading_sum is not None:
        without = sums_without_each(model.fading_sum(embedded, torch.tensor([0, len(items)])), model.fading_sum.decay)
    return model.output(states, without)


def _output_without_each(backbone: SSD4Rec, embedded: Hidden) -> States:
    """Return the output of a backbone without each event: [T, D] -> [T + 1, D]."""
    hidden = backbone.norm(embedded) if backbone.config.norm_embedding else embedded
    states: States = backbone.final_norm(layer_without_each(cast("BiSSDLayer", backbone.layers[0]), hidden))
    return states


def sums_without_each(sums: Hidden, decay: Tensor) -> Hidden:
    """Return the last fading sum of a sequence without each of its events.

    Without event j, the events before it are one step closer to the end: f - decay^(T - 1 - j) (f_j - f_(j - 1)).

    Args:
        sums: [T, D] the fading sum after each event.
        decay: [1].

    Returns:
        [T + 1, D]: row j is the sum without event j; the last row is the sum.
    """
    before = F.pad(sums[:-1], (0, 0, 1, 0))
    ages = torch.arange(len(sums) - 1, -1, -1, device=sums.device)
    return torch.cat([sums[-1] - decay ** ages[:, None] * (sums - before), sums[-1:]])


def layer_without_each(layer: BiSSDLayer, hidden: Hidden) -> States:
    """Return `BiSSDLayer.forward_last` of the sequence without each of its events.

    Args:
        layer: in evaluation mode.
        hidden: [T, D] one sequence of 2 or more events.

    Returns:
        [T + 1, D]: row j is the read-out without event j; the last row is the read-out.
    """
    mixer, last = layer.mixer, len(hidden) - 1  # the row without the last event reads out the event before it
    gate, channels, dt = mixer.project(layer.source(hidden))
    mixed = _gated(mixer, last_without_each(mixer, channels, dt), gate[[-1, -2]], last)
    if layer.bidirectional and mixer.mirror_back:  # the last event alone
        back = mixer.gated(mixer.single_position(channels[[-1, -2]], dt[[-1, -2]]), gate[[-1, -2]])
        mixed += mixer.backward_weight * _rows(back, len(hidden) + 1, last)
    elif layer.bidirectional:  # the same of the reversed sequence
        back = _gated(mixer, last_without_each(mixer, channels.flip(0), dt.flip(0)), gate[[0, 1]], last)
        mixed[-1].add_(back[-1], alpha=mixer.backward_weight)
        mixed[:-1].add_(back[:-1].flip(0), alpha=mixer.backward_weight)
    return layer.residual(mixer.out_proj(mixed), _rows(hidden[[-1, -2]], len(hidden) + 1, last))


def _gated(mixer: Mamba2Mixer, y: Values, gates: Tensor, other: int) -> Hidden:
    """Apply the gate of the event that is read out, `gates[0]`; to the row where this event is left out, `gates[1]`."""
    row, opened = y[other].flatten() * F.silu(gates[1]), y.flatten(1).mul_(F.silu(gates[0]))
    opened[other] = row
    rows: Hidden = F.rms_norm(opened, mixer.norm.weight.shape, mixer.norm.weight, mixer.norm.eps)
    return rows


def _rows(values: Tensor, rows: int, other: int) -> Tensor:
    """Repeat `values[0]`, of the event that is read out; the row where this event is left out is `values[1]`."""
    repeated = values[:1].repeat(rows, 1)
    repeated[other] = values[1]
    return repeated


def logits_without_each(layer: RepeatLogits, states: States, items: Items, places: Positions, catalog_size: int) -> Scores:
    """Return what the layer adds to the scores of the sequence without each of some events.

    An event changes the gaps of the items that occurred last before it by one, the gap and the count of its own item, and the
    transitions from it and from the item before it.

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
    transitions = _transitions_without_each(items, group, places, len(distinct))[remains]
    cells = RepeatCells(row, distinct[column] - 1, gap[remains], count[remains], transitions)
    logits = layer.added(states, sequence_items(items, torch.tensor([0, events])))
    added = states.new_zeros(len(places), catalog_size)
    added[cells.row, cells.column] = (logits.coefficients[row] * logits.features(cells)).sum(1).to(added.dtype)
    return added


def _transitions_without_each(items: Items, group: Tensor, places: Positions, groups: int) -> Tensor:
    """Return how often each item came directly after the last one, without each of some events. int64 [n, groups].

    Args:
        items: int64 [T] the sequence.
        group: int64 [T] of each event, the number of its item.
        places: int64 [n] the events to leave out, one at a time.
        groups: how many items there are.
    """
    last = len(items) - 1
    counts = _transitions(items, group, groups).repeat(len(places), 1)
    counts[places == last] = _transitions(items[:-1], group[:-1], groups)
    inside = places < last
    from_before = (inside & (places > 0) & (items[places - 1] == items[-1])).nonzero()[:, 0]
    from_own = (inside & (items[places] == items[-1])).nonzero()[:, 0]
    counts[from_before, group[places[from_before]]] -= 1
    counts[from_own, group[places[from_own] + 1]] -= 1
    counts[from_before, group[places[from_before] + 1]] += 1  # the neighbors of the event are next to each other without it
    return counts


def _transitions(items: Items, group: Tensor, groups: int) -> Tensor:
    return torch.bincount(group[1:][items[:-1] == items[-1:]], minlength=groups)


def _latest(positions: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the largest position of each group; -1: it has none."""
    return positions.new_full((groups,), -1).scatter_reduce(0, group, positions, "amax")
