"""Prequential metrics: every incoming event is first ranked by the state before it, then read.

Each event is a test that nobody prepared: no impressions and no held-out set are needed. The process that stored an event
ranks it, after it was acknowledged, in the scoring thread and behind the requests that wait there. What this may cost is
bounded by a share of the time of that thread; events beyond it are counted and not ranked.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Connection

from ssd4rec.service import live, metrics
from ssd4rec.service.answering import LoadedModel
from ssd4rec.service.experiments import Pair
from ssd4rec.service.store.append import NewItems

if TYPE_CHECKING:
    from ssd4rec.service.core import Service

WAITING = 2000  # groups of events; the oldest go first
AT_ONCE = 16  # events of a user that are ranked together
SLICE_SECONDS = 0.004  # of the scoring thread in one piece
SAVED_SECONDS = 0.5  # of the thread that a quiet time may save for later

log = logging.getLogger(__name__)


class Budget:
    """Seconds that may be spent: a share of the time that passes.

    Args:
        share: of the time; 0: nothing.
        clock: seconds.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._clock = share, clock
        self._left, self._at = min(share, SAVED_SECONDS), clock()

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left now."""
        moment = self._clock()
        self._left = min(SAVED_SECONDS, self._left + (moment - self._at) * self._share)
        self._at = moment
        return self._left <= 0

    def spend(self, seconds: float) -> None:
        """Take time off."""
        self._left -= seconds


class Prequential:
    """Ranks the events that this process stores, by the active model and by those of an experiment.

    The work is done in the scoring thread of the service for the share `prequential_share` of its time, and the results are
    added to its sums.
    """

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._budget = Budget(service.settings.prequential_share)
        self._groups: deque[NewItems] = deque(maxlen=WAITING)
        self._items: deque[list[str]] = deque(maxlen=WAITING)  # of the events that are not counted yet
        self._scheduled = threading.Lock()

    def offer(self, groups: Sequence[NewItems]) -> None:
        """Let events be ranked when there is time. Returns at once."""
        if not self._service.settings.prequential_share or not groups:
            return
        self._groups.extend(groups)
        self._items.append([item for group in groups for item in group.items])
        self._schedule()

    def _schedule(self) -> None:
        if self._scheduled.acquire(blocking=False):
            self._service.scorer.call(self._work)

    def forget(self, user_keys: Collection[int]) -> None:
        """Drop what waits of users who were erased."""
        remaining = [group for group in self._groups if group.user_key not in user_keys]
        self._groups.clear()
        self._groups.extend(remaining)

    def _work(self) -> None:
        """Rank some events, in the scoring thread."""
        try:
            active, pair = self._service.models.active, self._service.experiments.pair()
            if active is None:
                self._groups.clear()
                self._items.clear()
            else:
                models = list(dict.fromkeys([active, *(pair[1:] if pair else ())]))
                self._count(models)
                self._rank_some(models, pair)
        except Exception as error:  # noqa: BLE001 - measuring must not stop answering
            log.warning("events were not ranked: %s", error)
        finally:
            self._scheduled.release()
        if self._groups or self._items:
            self._schedule()

    def _count(self, models: list[LoadedModel]) -> None:
        """Count what shows drift: items that the catalog lacks, and how popular the others were in training."""
        items: list[str] = []
        while self._items:
            items += self._items.popleft()
        for loaded in models if items else ():
            groups, _ = loaded.model.popularity
            indices = loaded.model.indices(items)
            counts = np.bincount(groups[indices[indices > 0]], minlength=live.GROUPS).tolist()
            sums = {live.EVENTS: float(len(items)), live.UNKNOWN: float((indices == 0).sum())}
            sums |= {live.group_name(group): float(count) for group, count in enumerate(counts) if count}
            self._service.sums.add(loaded.model.key, sums)

    def _rank_some(self, models: list[LoadedModel], pair: Pair | None) -> None:
        began = time.perf_counter()
        while self._groups and time.perf_counter() - began < SLICE_SECONDS:
            if self._budget.is_spent:
                skipped = 0
                while self._groups:
                    skipped += len(self._groups.popleft().items)
                metrics.PREQUENTIAL_EVENTS.labels("skipped").inc(skipped)
                return
            group = self._groups.popleft()
            if len(group.items) > AT_ONCE:  # the rest continues with the state that these leave behind
                group, rest = group.split(AT_ONCE)
                self._groups.appendleft(rest)
            start = time.perf_counter()
            with self._service.scorer.reader.reading() as connection:
                self._rank(connection, models, pair, group)
            self._budget.spend(time.perf_counter() - start)

    def _rank(self, connection: Connection, models: list[LoadedModel], pair: Pair | None, group: NewItems) -> None:
        gains = {loaded: loaded.states.rank_new(connection, group) for loaded in models}
        for loaded, each in gains.items():
            ranked = [gain for gain in each if gain is not None]
            if ranked:
                hits, ndcgs = zip(*ranked, strict=True)
                sums = {live.RANKED: float(len(ranked)), live.HITS: sum(hits), live.NDCG: sum(ndcgs)}
                self._service.sums.add(loaded.model.key, sums)
        if pair is not None:
            experiment, control, treatment = pair
            both = zip(gains[control], gains[treatment], strict=True)
            differences = [after[1] - before[1] for before, after in both if before is not None and after is not None]
            sums = {
                live.RANKED: float(len(differences)),
                live.DIFFERENCE: sum(differences),
                live.SQUARES: sum(each * each for each in differences),
            }
            self._service.sums.add(control.model.key, sums, experiment)
        metrics.PREQUENTIAL_EVENTS.labels("ranked").inc(len(group.items))
