"""Scores and ranks of an item without each event of a history, and the explanation that reports them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec.explain.reading import Reading, WithoutEach, count_preceding, items_before

BLOCK_ELEMENTS = 1 << 20  # scores computed at once
LEAST_ROWS, BLOCK_ROWS = 8, 256  # shortened histories scored at once: of similar distance, so that they need the same items


class Changed(NamedTuple):
    """Scores and ranks of an item without some events of a history, one at a time."""

    places: IntArray  # [n] which events
    scores: npt.NDArray[np.float64]  # [n]; not a number: no event would remain
    ranks: IntArray  # [n] as `recommend` ranks the shortened history; 0: the item is not a candidate
    ranks_unseen: IntArray  # [n] the same with the candidates of the full history


def changed_by_each(reading: Reading, without: WithoutEach | None, item: int) -> Changed:
    """Compute an item's score and rank without each event of a history; `without` is None if it has one event."""
    if without is None:
        return _without_the_only_event(reading, item)
    scores, ranks = np.empty(len(without.places)), np.empty((2, len(without.places)), dtype=np.int64)
    if reading.repeats_matter(item):
        size = max(1, BLOCK_ELEMENTS // len(reading.vectors))
        for first in range(0, len(scores), size):
            block = slice(first, first + size)
            some = WithoutEach(without.places[block], without.states[block], without.state)
            scores[block], ranks[:, block] = _with_own_fusion(reading, some, item)
        return Changed(without.places, scores, *ranks)
    near_end = without.places >= len(reading.items) - reading.reach_of_pairs
    only_one = (reading.items[without.places] == item) & (np.count_nonzero(reading.items == item) == 1)
    for chosen, measure in ((near_end | only_one, _with_own_fusion), (~(near_end | only_one), _with_shared_fusion)):
        if (rows := np.flatnonzero(chosen)).size:
            some = WithoutEach(without.places[rows], without.states[rows], without.state)
            scores[rows], ranks[:, rows] = measure(reading, some, item)
    return Changed(without.places, scores, *ranks)


def _with_own_fusion(reading: Reading, without: WithoutEach, item: int) -> tuple[npt.NDArray[np.float64], IntArray]:
    """Return scores [n] and both ranks [2, n], with co-occurrence, repeat bias and repeat logits of each shortened history."""
    rows, place = torch.arange(len(without.places), device=reading.vectors.device), item - 1
    left_out, alone = _left_out(reading, without.places)
    model, co_occurrence = without.states @ reading.vectors.T, reading.co_occurrence_without(without.places)
    plain = model + co_occurrence
    total = plain + reading.repeat_bias
    total[rows[alone], left_out[alone]] = plain[rows[alone], left_out[alone]]  # without an event it has no repeat bias
    logits = reading.repeat_logits_without(without) if reading.repeats_matter(item) else None
    if logits is not None:
        total += logits
    own, before = total[:, place], items_before(total, item, reading.excluded)
    is_candidate = torch.full_like(alone, fill_value=reading.is_candidate(item))
    ranks = torch.stack([before + 1, before + 1]) * is_candidate
    if reading.seen is not None:  # an item whose only event is left out becomes a candidate
        returns = alone & reading.trained[left_out] & reading.excluded[left_out]
        ahead = returns & (left_out != place) & _precedes(total[rows, left_out], own, left_out < place)
        ranks[0] = (before + ahead + 1) * (is_candidate | (returns & (left_out == place)))
    bias = reading.repeat_bias[place] * ~(alone & (left_out == place))
    bias = bias if logits is None else bias + logits[:, place]
    scores = model[:, place].double() + co_occurrence[:, place].double() + bias.double()
    return scores.cpu().numpy(), ranks.cpu().numpy()


def _left_out(reading: Reading, places: IntArray) -> tuple[Tensor, Tensor]:
    """Return the columns of the items of some events, [n], and whether no event of the item is left without this one, [n]."""
    columns = reading.tensor(reading.items) - 1
    events = torch.bincount(columns, minlength=len(reading.vectors))
    left_out = columns[reading.tensor(places)]
    return left_out, events[left_out] == 1


def _with_shared_fusion(reading: Reading, without: WithoutEach, item: int) -> tuple[npt.NDArray[np.float64], IntArray]:
    """Return scores [n] and both ranks [2, n]; for events that change neither co-occurrence nor the item's repeat bias."""
    states, parts, place = without.states, reading.parts, item - 1
    model = states @ reading.vectors[place]
    scores = model.double().cpu().numpy() + float(parts.co_occurrence[place]) + float(parts.repeat_bias[place])
    if not reading.is_candidate(item):
        return scores, np.zeros((2, len(states)), dtype=np.int64)
    own = model + parts.co_occurrence[place] + parts.repeat_bias[place]
    before = _count_before(reading, states, own, item)

    # an item whose only event is left out loses its repeat bias, and becomes a candidate if it was not one
    left_out, alone = _left_out(reading, without.places)
    alone &= (left_out != place) & reading.trained[left_out]
    plain = (states * reading.vectors[left_out]).sum(1) + parts.co_occurrence[left_out]
    without_bias = _precedes(plain, own, left_out < place)
    if reading.seen is not None:
        ranks = torch.stack([before + (alone & without_bias), before])
    else:
        with_bias = _precedes(plain + parts.repeat_bias[left_out], own, left_out < place)
        ranks = (before + alone * (without_bias.long() - with_bias.long())).expand(2, -1)
    return scores, (ranks + 1).cpu().numpy()


def _count_before(reading: Reading, states: Tensor, own: Tensor, item: int) -> Tensor:
    """Count the candidates that precede the item with each of some states, [n]; fusion is that of the full history.

    Only items that can change places with the item are scored: a state at some distance from the full history's moves the margin
    of two items by at most this distance times the length of the difference of their vectors.
    """
    vectors, parts, place = reading.vectors, reading.parts, item - 1
    total = parts.total.masked_fill(reading.excluded, -torch.inf)
    margin = total - total[place]
    indices = torch.arange(len(total), device=total.device)
    precedes = _precedes(total, total[place], indices < place)
    distance = torch.linalg.vector_norm(states - reading.state, dim=1)
    rounding = 32 * torch.finfo(total.dtype).eps * (own.abs().max() + reading.state.norm() * vectors[place].norm())
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    apart = (lengths**2 + lengths[place] ** 2 - 2 * (vectors @ vectors[place])).clamp(min=0).sqrt()
    apart += 1e-3 * (lengths + lengths[place]) + torch.finfo(total.dtype).tiny  # rounding: the square is a difference
    needed = (margin.abs() - rounding).clamp(min=0) / apart  # the distance from which on the two items can change places
    needed[place] = torch.inf
    before = precedes.sum().repeat(len(own))
    for rows, columns in _blocks(distance, needed):
        scores = states[rows] @ vectors[columns].T
        scores.add_(parts.co_occurrence[columns]).add_(parts.repeat_bias[columns])
        before[rows] += count_preceding(scores, own[rows, None], columns, place) - precedes[columns].sum()
    return before


def _blocks(distance: Tensor, needed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows of similar distance with the columns that need no larger one; rows without such columns are left out.

    Few rows have a large distance and need many columns: the blocks are small there, and double in size towards smaller ones.
    """
    near = (needed <= distance.max()).nonzero()[:, 0]
    needed = needed[near]
    falling = distance.argsort(descending=True)
    first, size = 0, LEAST_ROWS
    while first < len(falling):
        rows = falling[first : first + max(1, min(size, BLOCK_ELEMENTS // max(1, len(near))))]
        columns = needed <= distance[rows[0]]
        near, needed = near[columns], needed[columns]
        if not len(near):
            return  # nor for the rows that remain
        yield rows, near
        first, size = first + len(rows), min(2 * size, BLOCK_ROWS)


def _precedes(scores: Tensor, own: Tensor, smaller: Tensor) -> Tensor:
    """Whether items precede another one in a list: a larger score, or an equal score and a smaller index."""
    return (scores > own) | ((scores == own) & smaller)


def _without_the_only_event(reading: Reading, item: int) -> Changed:
    """Return the change from one event to none: the popular items are recommended then, without a score."""
    counts = torch.from_numpy(reading.artifact.training_counts[1:]).to(reading.vectors.device, torch.float64)[None]
    ranks = (
        0 if excluded[item - 1] else int(items_before(counts, item, excluded)) + 1
        for excluded in (~reading.trained, reading.excluded)
    )
    return Changed(np.zeros(1, dtype=np.int64), np.full(1, np.nan), *(np.array([rank]) for rank in ranks))
