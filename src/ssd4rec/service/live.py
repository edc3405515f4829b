"""Live metrics: sums that the threads of a process add to, and what is computed from the sums of all processes."""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ssd4rec.service.intervals import Interval, wilson
from ssd4rec.service.schemas import Out
from ssd4rec.service.store.live import BUCKET_SECONDS, SumKey

CUTOFF = 10
GROUPS = 10  # of items with equal shares of the training interactions
EVENTS, UNKNOWN, ANSWERS, POPULAR = "events", "unknown", "answers", "popular"
RANKED, HITS, NDCG = "ranked", "hits", "ndcg"
DIFFERENCE, SQUARES = "difference", "squares"


class LiveSums:
    """Sums that wait to be added to those of the store. Any thread may add."""

    def __init__(self) -> None:
        self._sums: defaultdict[SumKey, float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, model: str, values: Mapping[str, float], experiment: str = "") -> None:
        """Add values to the sums of the current five minutes.

        Args:
            model: its key.
            values: by name.
            experiment: in which the model is the control, for sums that compare two models.
        """
        bucket = int(time.time()) // BUCKET_SECONDS * BUCKET_SECONDS
        with self._lock:
            for name, value in values.items():
                self._sums[SumKey(model, experiment, bucket, name)] += value

    def take(self) -> dict[SumKey, float]:
        """Return the sums, and begin again from nothing."""
        with self._lock:
            sums, self._sums = self._sums, defaultdict(float)
        return sums

    def put_back(self, sums: Mapping[SumKey, float]) -> None:
        """Add sums that could not be stored."""
        with self._lock:
            for key, value in sums.items():
                self._sums[key] += value


def gain(rank: int | None) -> tuple[float, float]:
    """Return hit and NDCG at the cutoff for the rank of the one relevant item; None: it is not among the candidates."""
    if rank is None or rank > CUTOFF:
        return 0.0, 0.0
    return 1.0, 1.0 / math.log2(rank + 1)


def equal_share_groups(training_counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], list[float]]:
    """Group items by their popularity in training, so that each group has about the same share of the interactions.

    Args:
        training_counts: [V + 1], by item index.

    Returns:
        The group of each item index [V + 1], and the share of the training interactions of each group.
    """
    order = np.argsort(-training_counts[1:], kind="stable") + 1
    sorted_counts = training_counts[order].astype(np.float64)
    total = max(1.0, float(sorted_counts.sum()))
    before = np.cumsum(sorted_counts) - sorted_counts
    groups = np.zeros(len(training_counts), dtype=np.int64)
    groups[order] = np.minimum((before / total * GROUPS).astype(np.int64), GROUPS - 1)
    shares = np.bincount(groups[1:], weights=training_counts[1:].astype(np.float64), minlength=GROUPS) / total
    return groups, shares.tolist()


def population_stability(expected: Sequence[float], counts: Sequence[float]) -> float | None:
    """Return the population stability index of counts against expected shares; None: all counts are 0.

    Half an event is added to each group, so that an empty one has a logarithm. Below 0.1 is usually called stable, above 0.25
    a shift.
    """
    total = sum(counts)
    if not total:
        return None
    size = total + 0.5 * len(counts)
    index = 0.0
    for share, count in zip(expected, counts, strict=True):
        before, after = (share * total + 0.5) / size, (count + 0.5) / size
        index += (after - before) * math.log(after / before)
    return index


class Live(Out):
    """What happened with a model in a window of time."""

    events: int = Field(description="that arrived while the model was loaded")
    ranked_events: int = Field(description="of them, ranked by the state before they were read")
    hit_rate: float | None = Field(description="HR@10 of the ranked events")
    hit_rate_interval: Interval | None
    ndcg: float | None = Field(description="NDCG@10 of the ranked events")
    unknown_share: float | None = Field(description="of events whose item is not in the catalog")
    popular_share: float | None = Field(description="of answers with popular items")
    popularity_shift: float | None = Field(description="population stability index of the items of events against training")


def live_metrics(sums: Mapping[str, float], expected: Sequence[float]) -> Live:
    """Compute the metrics of some sums.

    Args:
        sums: by name.
        expected: shares of the popularity groups in training.
    """
    events, ranked, hits, answers = (int(sums.get(name, 0)) for name in (EVENTS, RANKED, HITS, ANSWERS))
    return Live(
        events=events,
        ranked_events=ranked,
        hit_rate=hits / ranked if ranked else None,
        hit_rate_interval=wilson(hits, ranked) if ranked else None,
        ndcg=sums.get(NDCG, 0.0) / ranked if ranked else None,
        unknown_share=sums.get(UNKNOWN, 0.0) / events if events else None,
        popular_share=sums.get(POPULAR, 0.0) / answers if answers else None,
        popularity_shift=population_stability(expected, [sums.get(group_name(group), 0.0) for group in range(GROUPS)]),
    )


def group_name(group: int) -> str:
    """Return the name of the sum of events of a popularity group."""
    return f"group{group}"
