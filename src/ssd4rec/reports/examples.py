"""Recommendations to users of a data set: to many of them in numbers, to a few with reasons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssd4rec._csr import IntArray, evenly_spaced
from ssd4rec.data.sequences import Sequences
from ssd4rec.errors import SSD4RecError
from ssd4rec.evaluation.concentration import Concentration, PopularityGroup, compare_groups, measure_concentration
from ssd4rec.explain.results import Effects, EventEffect
from ssd4rec.serving.recommender import Recommendations, Recommender

USERS, SAMPLE_EVENTS = 1_000, 500_000  # of the sample at most
K = 10
EXAMPLES, SHOWN, RECOMMENDED, REASONS = 10, 5, 5, 3
LONGEST = 300  # last events of a history that is explained


@dataclass(frozen=True)
class Example:
    """A user with the last events, the first recommendations, and the reasons of the first one."""

    user: str
    events: int
    last: tuple[str, ...]
    best: Recommendations
    reasons: tuple[EventEffect, ...]  # events without which the score of the first recommendation falls most


@dataclass(frozen=True)
class Examined:
    """A sample of users."""

    users: int
    consumed: Concentration
    recommended: Concentration
    groups: list[PopularityGroup]
    examples: tuple[Example, ...]


def examine(recommender: Recommender, sequences: Sequences) -> Examined:
    """Recommend to users of a data set, evenly spaced in its order of users.

    Args:
        recommender: its catalog is that of the sequences.
        sequences: whole histories; events of unknown items have the index 0.
    """
    artifact = recommender.artifact
    places = evenly_spaced(len(sequences.users), USERS).tolist()
    histories = [_history(sequences, place) for place in places]
    fit = np.cumsum([len(each) for each in histories]) <= SAMPLE_EVENTS
    histories = histories[: max(1, int(fit.sum()))]
    exclude_seen = artifact.fusion is None or artifact.fusion.repeat_bias <= 0  # else users repeat items
    request = recommender.request(K, exclude_seen=exclude_seen, allow=None, deny=None, unknown_items="skip")
    recommended = np.zeros(len(artifact.catalog) + 1, dtype=np.int64)
    for best in recommender.top_items(histories, request):
        recommended[best.items] += 1
    counts = artifact.training_counts[1:]
    spaced = evenly_spaced(len(sequences.users), EXAMPLES).tolist()
    examples = [_example(recommender, sequences, place, exclude_seen=exclude_seen) for place in spaced]
    return Examined(
        len(histories),
        measure_concentration(counts),
        measure_concentration(recommended[1:]),
        compare_groups(counts, recommended[1:]),
        tuple(examples),
    )


def _history(sequences: Sequences, place: int) -> IntArray:
    history: IntArray = np.asarray(sequences.items[sequences.offsets[place] : sequences.offsets[place + 1]], dtype=np.int64)
    return history


def _example(recommender: Recommender, sequences: Sequences, place: int, *, exclude_seen: bool) -> Example:
    catalog = recommender.artifact.catalog
    history = _history(sequences, place)
    known = history[history > 0]
    ids = catalog.ids_of(known).to_list()
    titles = catalog.titles_of(known)
    names = [str(title or each) for each, title in zip(ids, titles if titles is not None else ids, strict=True)]
    best = recommender.recommend(ids, RECOMMENDED, exclude_seen=exclude_seen)
    return Example(
        user=str(sequences.users[place]),
        events=len(history),
        last=tuple(names[: -SHOWN - 1 : -1]),
        best=best,
        reasons=_reasons(recommender, ids[-LONGEST:], best, exclude_seen=exclude_seen),
    )


def _reasons(
    recommender: Recommender, ids: Sequence[object], best: Recommendations, *, exclude_seen: bool
) -> tuple[EventEffect, ...]:
    if best.source == "popular" or not best.items:
        return ()
    try:
        effects = recommender.explain(list(ids), best.items[0].item, "effects", exclude_seen=exclude_seen)
    except SSD4RecError:  # a model without explanations
        return ()
    events = effects.events if isinstance(effects, Effects) else ()
    carrying = [event for event in events if event.score_change is not None and event.score_change < 0]
    return tuple(sorted(carrying, key=lambda event: event.score_change or 0.0)[:REASONS])
