"""One history as the model reads it: the scores of all items by part, the rank of an item, the states without each event."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec.artifact import Artifact
from ssd4rec.errors import DivergedError
from ssd4rec.explain.leave_one_out import logits_without_each, reads_in_one_pass, states_by_rereading, states_in_one_pass
from ssd4rec.explain.results import Method
from ssd4rec.ops.repeats import sequence_items

MOST_READ = 200_000  # events of all shortened histories that are read for one explanation: a few seconds on one core


class ScoreParts(NamedTuple):
    """The three parts of the scores of all items, each [V]."""

    model: Tensor
    co_occurrence: Tensor
    repeat_bias: Tensor

    @property
    def total(self) -> Tensor:
        """[V]: the sum, in the order in which `recommend` adds the parts."""
        return self.model + self.co_occurrence + self.repeat_bias

    def of(self, item: int) -> float:
        """Return the score of an item: the sum of its parts in double precision."""
        return sum(float(part[item - 1]) for part in self)


class WithoutEach(NamedTuple):
    """The states of a history without some of its events, one at a time."""

    places: IntArray  # [n] which events, of those of the history
    states: Tensor  # [n, D]
    state: Tensor  # [D]: of the whole history


@dataclass(frozen=True, eq=False)
class Reading:
    """A history of known items, and what the model makes of it.

    Args:
        artifact: model, score fusion and settings.
        items: int64 [T] item indices, 1 or more, oldest first; T is 1 or more.
        seen: item indices that are not candidates; None: seen items are.
        times: int64 [1, 2] gap and moment of the request in seconds, see `NextItemModel.at`; None: not known. The time stays the
            same when events are left out.
        known_state: [D] the state at the end of the history; None: the history is read for it.
    """

    artifact: Artifact
    items: IntArray
    seen: IntArray | None
    times: IntArray | None = None
    known_state: Tensor | None = None

    @property
    def vectors(self) -> Tensor:
        """[V, D]: the item vectors."""
        return self.artifact.model.item_vectors

    @property
    def read(self) -> IntArray:
        """The last events, those that the model reads."""
        longest = self.artifact.config.data.max_length
        return self.items if longest is None else self.items[-longest:]

    @cached_property
    def state(self) -> Tensor:
        """[D]: the state at the end of the history."""
        if self.known_state is not None:
            return self.known_state
        return self._timed(self.artifact.model.encode(self.tensor(self.read), torch.tensor([0, len(self.read)])))[0]

    def _timed(self, states: Tensor) -> Tensor:
        """Return states at the time of the request. [n, D] -> [n, D]."""
        return self.artifact.model.at(states, None if self.times is None else self.tensor(self.times).expand(len(states), 2))

    @cached_property
    def parts(self) -> ScoreParts:
        """The scores of all items.

        Raises:
            DivergedError: a score is not a number.
        """
        model = self.vectors @ self.state
        if not torch.isfinite(model).all():
            raise DivergedError(
                "the model gave scores that are not numbers; it has diverged: lower training.learning_rate and train it again"
            )
        return ScoreParts(model, self.co_occurrence, self.repeat_bias + self.repeat_logits)

    @cached_property
    def co_occurrence(self) -> Tensor:
        """[V]: what co-occurrence with the last events adds to the scores."""
        return self._co_occurrence(self.read[None])[0]

    def co_occurrence_without(self, places: IntArray) -> Tensor:
        """Return the same without each of some events, [n, V]."""
        reach, longest = self._most_events_of_pairs, self.artifact.config.data.max_length
        last = self.items[-1 - min(reach, longest or reach) :]  # with the event that moves up
        columns = np.arange(len(last) - 1)
        shifted = places - (len(self.items) - len(last))
        return self._co_occurrence(last[columns + (columns >= shifted[:, None])])

    def _co_occurrence(self, histories: IntArray) -> Tensor:
        fusion, (rows, events) = self.artifact.fusion, histories.shape
        added = self.vectors.new_zeros(rows, len(self.vectors))
        if fusion and events:
            cu_seqlens = torch.arange(0, histories.size + 1, events)
            counted, by = fusion.pairs.raises(self.tensor(histories.ravel()), cu_seqlens, slice(0, rows))
            added.view(-1)[counted.to(added.device)] = fusion.weight * by.to(added)
        return added

    @cached_property
    def repeat_bias(self) -> Tensor:
        """[V]: what is added to the scores of the items of the history."""
        fusion, added = self.artifact.fusion, self.vectors.new_zeros(len(self.vectors))
        if fusion:
            added[self.tensor(self.items) - 1] = fusion.repeat_bias
        return added

    @cached_property
    def repeat_logits(self) -> Tensor:
        """[V]: the learned logits of the items of the history; zero for a model without them."""
        logits, added = self.artifact.model.repeat_logits, self.vectors.new_zeros(1, len(self.vectors))
        if logits is not None:
            items = self.tensor(self.items)
            logits.added(self.state[None], sequence_items(items, torch.tensor([0, len(items)]))).add_to(added, slice(0, 1))
        return added[0]

    def repeat_logits_without(self, without: WithoutEach) -> Tensor | None:
        """Return the same without each of some events, [n, V]; None for a model without repeat logits."""
        layer = self.artifact.model.repeat_logits
        if layer is None:
            return None
        items, places = self.tensor(self.items), self.tensor(without.places)
        return logits_without_each(layer, without.states, items, places, len(self.vectors))

    def repeats_matter(self, item: int) -> bool:
        """Whether learned repeat logits enter the item's score or rank: those of seen items do not, when these are excluded."""
        return self.artifact.model.repeat_logits is not None and (self.seen is None or item in self.items)

    @property
    def reach_of_pairs(self) -> int:
        """How many of the last events co-occurrence depends on."""
        return min(self._most_events_of_pairs, len(self.read))

    @property
    def _most_events_of_pairs(self) -> int:
        return self.artifact.fusion.pairs.window if self.artifact.fusion else 0

    @cached_property
    def trained(self) -> Tensor:
        """[V]: which items have training events, or features only; `recommend` leaves out the others."""
        return torch.from_numpy(self.artifact.candidates[1:]).to(self.vectors.device)

    @cached_property
    def excluded(self) -> Tensor:
        """[V]: which items are not candidates."""
        excluded = ~self.trained
        if self.seen is not None:
            excluded[self.tensor(self.seen) - 1] = True
        return excluded

    def is_candidate(self, item: int) -> bool:
        """Whether an item can be recommended."""
        return not self.excluded[item - 1]

    def rank(self, item: int) -> int | None:
        """Return the rank of an item among the candidates; None: it is not one."""
        return int(items_before(self.parts.total[None], item, self.excluded)) + 1 if self.is_candidate(item) else None

    @property
    def method(self) -> Method:
        """How the states without each event are computed."""
        return "one-pass" if reads_in_one_pass(self.artifact.model) else "re-reading"

    def without_each(self, last: int, among: IntArray | None = None) -> WithoutEach | None:
        """Return the states without each event; where shortened histories are read, without each of the last ones only.

        Where the model reads the last events only, leaving out one of them lets it read one event more.

        Args:
            last: how many shortened histories are read at most; of long histories fewer are, `MOST_READ` events in all.
            among: where shortened histories are read, which of these events to leave out; None: each.

        Returns:
            None: there is one event, and no state without it.
        """
        if len(self.items) == 1:
            return None
        model, longest = self.artifact.model, self.artifact.config.data.max_length
        reach = self.tensor(self.items if longest is None else self.items[-longest - 1 :])
        first, not_read = len(self.items) - len(reach), len(self.items) - len(self.read)
        if self.method == "one-pass":
            places, states = np.arange(len(self.items)), self._timed(states_in_one_pass(model, reach))
            state = states[0 if not_read > first else -1]  # without the event before those that are read, or without none
            return WithoutEach(places, torch.cat([state.expand(not_read, -1), states[not_read - first : -1]]), state)
        begins = max(not_read, len(self.items) - min(last, max(1, MOST_READ // len(reach))))
        places = np.concatenate([np.arange(not_read), np.arange(begins, len(self.items))])
        places = places if among is None else np.intersect1d(places, among)
        visible = places[places >= not_read]
        states = self.state.expand(len(places) - len(visible), -1)  # without an event that the model does not read
        if len(visible):
            states = torch.cat([states, self._timed(states_by_rereading(model, reach, self.tensor(visible - first)))])
        return WithoutEach(places, states, self.state)

    def tensor(self, items: IntArray) -> Tensor:
        """Return item indices as a tensor on the model's device."""
        return torch.from_numpy(np.ascontiguousarray(items)).to(self.vectors.device)


def items_before(scores: Tensor, item: int, excluded: Tensor) -> Tensor:
    """Count the items that precede an item in a list: larger scores, or equal scores and smaller indices.

    Args:
        scores: [rows, V].
        item: an item index.
        excluded: [V] items that are not in the list.

    Returns:
        int64 [rows].
    """
    candidates = scores + torch.zeros_like(scores[0]).masked_fill_(excluded, -torch.inf)  # faster than filling all rows
    columns = torch.arange(scores.shape[1], device=scores.device)
    return count_preceding(candidates, scores[:, item - 1 : item], columns, item - 1)


def count_preceding(scores: Tensor, own: Tensor, columns: Tensor, place: int) -> Tensor:
    """Count the scores of each row that are larger, or equal and of a smaller column than `place`.

    Args:
        scores: [rows, n].
        own: [rows, 1].
        columns: [n] rising: which columns these are.
        place: column of `own`.

    Returns:
        int64 [rows].
    """
    cut = int(torch.searchsorted(columns, place))
    smaller, others = (scores[:, :cut] >= own), (scores[:, cut:] > own)
    # sums of flags as int32 are three times as fast as those as int64
    return smaller.sum(1, dtype=torch.int32).long() + others.sum(1, dtype=torch.int32)
