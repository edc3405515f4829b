"""Explain why items are recommended after a history: one method for each level."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ssd4rec._csr import IntArray
from ssd4rec.artifact import Artifact
from ssd4rec.errors import DataError
from ssd4rec.explain.counterfactual import find_counterfactual
from ssd4rec.explain.effects import changed_by_each
from ssd4rec.explain.reading import Reading, WithoutEach
from ssd4rec.explain.results import (
    Counterfactual,
    Effects,
    Event,
    EventEffect,
    EventWeight,
    Explanation,
    Level,
    Parts,
    Weights,
)
from ssd4rec.explain.weights import EventRow, event_weights


class Explainer:
    """Explains items after one history.

    Args:
        artifact: the model and what belongs to it.
        ids: of the history, oldest first, as passed.
        numbers: int64 [n] their item indices; 0 = not in the catalog.
        times: of the request, see `Reading`.
        exclude_seen: items of the history are not candidates.
        last: how many shortened histories are read at most, see `Recommender.explain`.

    Raises:
        DataError: the history has no event that the model can read.
    """

    def __init__(
        self,
        artifact: Artifact,
        ids: Sequence[object],
        numbers: IntArray,
        times: IntArray | None = None,
        *,
        exclude_seen: bool,
        last: int,
    ) -> None:
        if not numbers.any():
            several = f"{len(numbers)} items that are not in the catalog"
            actual = ("an empty history", "one item that is not in the catalog", several)[min(len(numbers), 2)]
            raise DataError(
                f"an explanation needs a history with at least one item of the catalog, found {actual}; such a user gets the "
                f"popular items"
            )
        self._artifact, self._ids, self._last = artifact, ids, last
        self._positions = np.flatnonzero(numbers)  # of the events that the model can read
        known_indices = numbers[self._positions]
        self._reading = Reading(artifact, known_indices, known_indices if exclude_seen else None, times)
        self._unknown_items = tuple(ids[position] for position in np.flatnonzero(numbers == 0).tolist())
        titles = artifact.catalog.titles_of(known_indices)
        self._titles: dict[int, str | None] = {} if titles is None else dict(zip(self._positions.tolist(), titles, strict=True))

    def explain(self, items: Sequence[int], level: Level, k: int) -> list[Explanation]:
        """Explain items, given by their indices; a counterfactual takes an item out of the first k.

        Raises:
            ConfigError: the level is "weights" and the model has no SSD layer.
            DivergedError: a score is not a number.
        """
        levels: dict[Level, Callable[[int], Explanation]] = {
            "parts": self._parts,
            "weights": self._weights,
            "effects": self._effects,
            "counterfactual": lambda item: self._counterfactual(item, k),
        }
        with torch.inference_mode():
            return [levels[level](item) for item in items]

    def _parts(self, item: int) -> Parts:
        model, co_occurrence, repeat_bias = (float(part[item - 1]) for part in self._reading.parts)
        return Parts(**self._about(item), model=model, co_occurrence=co_occurrence, repeat_bias=repeat_bias)

    def _weights(self, item: int) -> Weights:
        layer, rows = event_weights(self._reading)
        by_position = dict(zip(self._positions[-len(rows) :].tolist(), rows, strict=True))
        events = tuple(
            EventWeight(**self._event(position), **by_position.get(position, EventRow())._asdict())
            for position in range(len(self._ids))
        )
        return Weights(**self._about(item), layer=layer, events=events)

    def _effects(self, item: int) -> Effects:
        without = self._without_each  # gives the state of the whole history too
        about, changed = self._about(item), changed_by_each(self._reading, without, item)
        rank, places = about["rank"], self._positions[changed.places].tolist()
        score_changes: dict[int, float | None] = {}
        rank_changes: dict[int, int | None] = {}
        for position, score, new in zip(places, changed.scores.tolist(), changed.ranks.tolist(), strict=True):
            score_changes[position] = None if math.isnan(score) else score - about["score"]
            rank_changes[position] = new - rank if new and rank else None
        omitted = set(self._positions.tolist()).difference(places)
        unchanged = None if rank is None else 0  # by an event that is not in the catalog
        events = tuple(
            EventEffect(
                **self._event(position),
                score_change=score_changes.get(position, 0.0),
                rank_change=rank_changes.get(position, unchanged),
            )
            for position in range(len(self._ids))
            if position not in omitted
        )
        return Effects(**about, method=self._reading.method, events=events, omitted=len(omitted))

    def _counterfactual(self, item: int, k: int) -> Counterfactual:
        result = find_counterfactual(self._reading, lambda: self._without_each, item, k, self._last)
        removed = np.sort(self._positions[result.places]).tolist()
        return Counterfactual(
            **self._about(item),
            k=k,
            success=result.rank is not None,
            removed=tuple(Event(**self._event(position)) for position in removed),
            score_without=result.score,
            rank_without=result.rank,
            method=self._reading.method,
            note=result.note,
        )

    @cached_property
    def _without_each(self) -> WithoutEach | None:
        """The states without each event, computed once for all items; the reading takes over their state of all events."""
        without = self._reading.without_each(self._last)
        if without is not None:
            self._reading = replace(self._reading, known_state=without.state)
        return without

    def _event(self, position: int) -> dict[str, Any]:
        """Return position, item and title of an event, for the dataclasses of the results."""
        return {"position": position, "item": self._ids[position], "title": self._titles.get(position)}

    def _about(self, item: int) -> dict[str, Any]:
        """Return what the explanations of all levels share."""
        catalog = self._artifact.catalog
        titles = catalog.titles_of([item])
        return {
            "item": catalog.ids_of([item])[0],
            "title": None if titles is None else titles[0],
            "score": self._reading.parts.of(item),
            "rank": self._reading.rank(item),
            "unknown_items": self._unknown_items,
        }
