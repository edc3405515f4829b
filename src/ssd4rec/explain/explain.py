"""Explain why items are recommended after a history: one function for each level."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ssd4rec._csr import IntArray
from ssd4rec.artifact import Artifact
from ssd4rec.explain.counterfactual import find_counterfactual
from ssd4rec.explain.effects import changed_by_each
from ssd4rec.explain.results import (
    Counterfactual,
    Effects,
    EventEffect,
    EventWeight,
    Explanation,
    Level,
    Parts,
    RemovedEvent,
    Weights,
)
from ssd4rec.explain.subject import Subject
from ssd4rec.explain.weights import EventRow, event_weights


def explain_items(  # noqa: PLR0913 - what `Recommender.explain` takes
    artifact: Artifact,
    ids: Sequence[object],
    numbers: IntArray,
    items: Sequence[int],
    level: Level,
    *,
    k: int,
    exclude_seen: bool,
    last: int,
    times: IntArray | None = None,
) -> list[Explanation]:
    """Explain items after one history; for the arguments see `Subject` and `Recommender.explain`.

    Raises:
        DataError: the history has no event that the model can read.
        ConfigError: the level is "weights" and the model has no SSD layer.
        DivergedError: a score is not a number.
    """
    with torch.inference_mode():
        subject = Subject(artifact, ids, numbers, exclude_seen=exclude_seen, times=times)
        levels: dict[Level, Callable[[int], Explanation]] = {
            "parts": lambda item: _parts(subject, item),
            "weights": lambda item: _weights(subject, item),
            "effects": lambda item: _effects(subject, item, last),
            "counterfactual": lambda item: _counterfactual(subject, item, k, last),
        }
        return [levels[level](item) for item in items]


def _parts(subject: Subject, item: int) -> Parts:
    model, co_occurrence, repeat_bias = (float(part[item - 1]) for part in subject.reading.parts)
    return Parts(**subject.about(item), model=model, co_occurrence=co_occurrence, repeat_bias=repeat_bias)


def _weights(subject: Subject, item: int) -> Weights:
    layer, rows = event_weights(subject.reading)
    by_position = dict(zip(subject.positions[-len(rows) :].tolist(), rows, strict=True))
    events = tuple(
        EventWeight(**subject.event(position), **by_position.get(position, EventRow())._asdict())
        for position in range(len(subject.ids))
    )
    return Weights(**subject.about(item), layer=layer, events=events)


def _effects(subject: Subject, item: int, last: int) -> Effects:
    without = subject.without_each(last)  # gives the state of the whole history too
    about, changed = subject.about(item), changed_by_each(subject.reading, without, item)
    rank, places = about["rank"], subject.positions[changed.places].tolist()
    ids, titles = subject.ids, subject.titles
    score_changes: list[float | None] = [0.0] * len(ids)  # an event that is not in the catalog changes nothing
    rank_changes: list[int | None] = [None if rank is None else 0] * len(ids)
    for position, score, new in zip(places, changed.scores.tolist(), changed.ranks.tolist(), strict=True):
        score_changes[position] = None if math.isnan(score) else score - about["score"]
        rank_changes[position] = new - rank if new and rank else None
    omitted = set(subject.positions.tolist()).difference(places)
    events = tuple(
        EventEffect(position, ids[position], titles.get(position), score_changes[position], rank_changes[position])
        for position in range(len(ids))
        if position not in omitted
    )
    return Effects(**about, method=subject.reading.method, events=events, omitted=len(omitted))


def _counterfactual(subject: Subject, item: int, k: int, last: int) -> Counterfactual:
    result = find_counterfactual(subject.reading, subject.without_each, item, k, last)
    removed = tuple(RemovedEvent(**subject.event(position)) for position in np.sort(subject.positions[result.places]).tolist())
    return Counterfactual(
        **subject.about(item),
        k=k,
        success=result.rank is not None,
        removed=removed,
        score_without=result.score,
        rank_without=result.rank,
        method=subject.reading.method,
        note=result.note,
    )
