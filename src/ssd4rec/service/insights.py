"""Views over the whole catalog and over many users, computed in a thread of their own and kept for each model version."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sqlalchemy import Engine

from ssd4rec._csr import IntArray
from ssd4rec.service.answering import LoadedModel, moment_of
from ssd4rec.service.ids import now
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.items import items_version
from ssd4rec.service.store.users import history_of, search_users
from ssd4rec.service.user_state import ScoreJob

SAMPLE_USERS, SAMPLE_EVENTS = 500, 200_000  # of the sample at most
SAMPLE_SECONDS = 300.0  # after which a sample of users is drawn again
JOBS_AT_ONCE = 32
TOP = 10  # items of a list that count as recommended
MAP_SIZE = 65_535  # the larger side of the map, in its integer coordinates


class ItemMap(NamedTuple):
    """The item vectors on their first two principal components, as integers of one scale."""

    x: IntArray  # [V] 0 … MAP_SIZE
    y: IntArray
    explained: tuple[float, float]  # share of the variance of each component


def project_items(vectors: npt.NDArray[np.float32]) -> ItemMap:
    """Project item vectors on their first two principal components.

    Args:
        vectors: [V, D]; D is 2 or more.
    """
    centered = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centered.T @ centered)
    flat = centered @ directions[:, [-1, -2]]
    flat *= np.where(flat[np.abs(flat).argmax(0), [0, 1]] < 0, -1.0, 1.0)  # a sign that every machine agrees on
    low, high = flat.min(0), flat.max(0)
    scale = MAP_SIZE / (float((high - low).max()) or 1.0)
    x, y = ((flat - (low + high) / 2) * scale + MAP_SIZE / 2).round().astype(np.int64).T
    total = float(variances.sum()) or 1.0
    return ItemMap(x, y, (float(variances[-1]) / total, float(variances[-2]) / total))


@dataclass(frozen=True)
class Sample:
    """Users of the store, and what a model recommends to each."""

    model: ServedModel
    users: list[Any]  # rows of the store
    jobs: list[ScoreJob]
    created: int  # microseconds since 1970

    @cached_property
    def recommended(self) -> IntArray:
        """[V]: in how many of the lists each item is."""
        counts = np.zeros(len(self.model.ids) + 1, dtype=np.int64)
        for first in range(0, len(self.jobs), JOBS_AT_ONCE):
            for best in self.model.score(self.jobs[first : first + JOBS_AT_ONCE]):
                counts[best.items] += 1
        return counts[1:]

    def audience(self, index: int, k: int) -> tuple[list[tuple[Any, int]], int]:
        """Return the users for whom an item has the best ranks, each with the rank, and how many have it in the top.

        Args:
            index: of the item.
            k: number of users at most.
        """
        ranks: list[int | None] = []
        for first in range(0, len(self.jobs), JOBS_AT_ONCE):
            ranks += self.model.ranks(self.jobs[first : first + JOBS_AT_ONCE], index)
        candidates = [(user, rank) for user, rank in zip(self.users, ranks, strict=True) if rank is not None]
        candidates.sort(key=itemgetter(1))
        return candidates[:k], sum(rank <= TOP for _, rank in candidates)


class Insights:
    """Results that take longer than an answer may wait for, computed one after the other next to the scoring thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="ssd4rec-insights")
        self._results: dict[tuple[str, str], Future[Any]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the thread; what waits is not computed any more."""
        self._executor.shutdown(cancel_futures=True)

    def item_map(self, loaded: LoadedModel) -> "Future[ItemMap]":
        """Return the map of a model's items."""
        model = loaded.model.recommender.artifact.model
        with torch.inference_mode():
            vectors = model.item_vectors.float().cpu().numpy()
        return self._once("map", loaded, lambda: project_items(vectors))

    def sample(self, loaded: LoadedModel) -> "Future[Sample]":
        """Return a sample of users with what is recommended to them; it is drawn again after some minutes."""
        return self._once("sample", loaded, lambda: self._draw(loaded))

    def forget(self) -> None:
        """Drop samples of users: one of them was erased, or they are old."""
        with self._lock:
            self._results = {key: value for key, value in self._results.items() if key[0] != "sample"}

    def run(self, work: Callable[[], Any]) -> "Future[Any]":
        """Run a function in the thread."""
        return self._executor.submit(work)

    def _once(self, name: str, loaded: LoadedModel, work: Callable[[], Any]) -> "Future[Any]":
        key = (name, loaded.model.fingerprint)
        with self._lock:
            future = self._results.get(key)
            if future is None or (future.done() and future.exception() is not None):
                future = self._executor.submit(work)
                others = {each: value for each, value in self._results.items() if each[1] == key[1]}  # of this model alone
                self._results = {**others, key: future}
                if name == "sample":  # dropped also if nobody asks again: users that another process erases are not kept
                    timer = threading.Timer(SAMPLE_SECONDS, self.forget)
                    timer.daemon = True
                    timer.start()
            return future

    def _draw(self, loaded: LoadedModel) -> Sample:
        model = loaded.model
        with reading(self._engine) as connection:
            loaded.filters.refresh(connection, items_version(connection))
            rows = search_users(connection, "", SAMPLE_USERS)
            totals = accumulate(row.events for row in rows)
            users = [row for row, total in zip(rows, totals, strict=True) if total <= SAMPLE_EVENTS] or rows[:1]
            histories = [history_of(connection, row.user_key) for row in users]
        created, jobs, mask = now(), [], loaded.filters.excluded()
        states = model.read_many([model.indices(history.items) for history in histories])
        for state, history in zip(states, histories, strict=True):
            timed = model.at(state, moment_of(model, None, created, history.last_event))
            jobs.append(ScoreJob(timed, TOP, exclude_seen=True, excluded=mask, only_known=False))
        sample = Sample(model, users, jobs, created)
        _ = sample.recommended  # here, not in the thread of the caller
        return sample
