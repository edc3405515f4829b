"""Two ways from a query to its answer; queries that wait together are scored together.

`Direct` answers in the event loop what takes less time than to hand it to another thread and back. That is nearly every request
of a user whose state is cached: one short read of the store, a few events at most, one product of the state with the item
vectors. What takes longer (a history that is to be read, a database that is reached over the network) goes to the thread of
`Scorer`. Histories of thousands of events have a thread of their own: others do not wait behind them.
"""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from ssd4rec.service import metrics
from ssd4rec.service.answering import FEW_EVENTS, Answer, LoadedModel, Prepared, Query, answer_all, fail, finish, prepare
from ssd4rec.service.overload import Overload
from ssd4rec.service.problems import unavailable
from ssd4rec.service.settings import ServiceSettings
from ssd4rec.service.store.connect import Reader, StoreError

log = logging.getLogger(__name__)

LONGEST = 1000  # events of a history that others wait for
SLOW_SECONDS = 0.005  # a batch that took so long to read is answered before the next history is read
SLICE_SECONDS = 0.03  # for which states are read before the event loop looks at its sockets again

_Future = asyncio.Future[Answer | None]  # None: the scoring thread is to answer


@dataclass(frozen=True, slots=True)
class _Job:
    query: Query
    future: "Future[Answer]" = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)


class Scorer:
    """Answers requests in batches.

    Args:
        engine: of the store.
        loaded: returns the loaded model of a version; None: the active one.
        settings: requests beyond `queue_requests` are refused with 503, and those that waited longer than `queue_seconds` too,
            unless their state is cached meanwhile. Up to `batch_size` are scored together.
        longest: events of a history that is read here; longer ones are read by another thread. None: all are read here.
    """

    def __init__(
        self,
        engine: Engine,
        loaded: Callable[[str | None], LoadedModel],
        settings: ServiceSettings,
        longest: int | None = LONGEST,
    ) -> None:
        self._loaded, self._settings, self._longest = loaded, settings, longest
        self._long = None if longest is None else Scorer(engine, loaded, settings, longest=None)
        self.reader = Reader(engine)  # for the thread alone
        self._jobs: deque[_Job] = deque()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="ssd4rec-scorer")

    @property
    def waiting(self) -> int:
        """The number of waiting requests."""
        return len(self._jobs) + (0 if self._long is None else self._long.waiting)

    def submit(self, query: Query) -> "Future[Answer]":
        """Queue a request.

        Raises:
            Problem: 503, too many requests wait.
        """
        return self._take(_Job(query))

    def call(self, work: Callable[[], Any]) -> "Future[Any]":
        """Run a function in the scoring thread, which owns the states, behind the requests that wait."""
        return self._executor.submit(work)

    def close(self) -> None:
        """Answer all waiting requests, then end the thread."""
        self._executor.shutdown()
        self.reader.close()
        if self._long is not None:
            self._long.close()

    def _take(self, job: _Job) -> "Future[Answer]":
        if len(self._jobs) >= self._settings.queue_requests:
            metrics.SHED.labels("scorer").inc()
            raise unavailable("queue_full", "too many requests wait for the model; send the request again")
        self._jobs.append(job)
        self._executor.submit(self._answer)
        return job.future

    def _answer(self) -> None:
        """Answer some of the jobs that wait: there are none if those before this one took it along."""
        batch = [self._jobs.popleft() for _ in range(min(len(self._jobs), self._settings.batch_size))]
        if len(batch) > 1 and self._longest is not None:
            self._read_together(batch, self._longest)
        prepared: defaultdict[LoadedModel, list[tuple[Future[Answer], Prepared]]] = defaultdict(list)
        began = time.monotonic()
        for job in batch:
            try:
                loaded = self._loaded(job.query.version)
                if (ready := self._prepare(loaded, job)) is not None:
                    prepared[loaded].append((job.future, ready))
            except Exception as error:  # noqa: BLE001 - each request has its own fate
                fail(job.future, error)
            if time.monotonic() - began >= SLOW_SECONDS or job is batch[-1]:
                for loaded, jobs in prepared.items():
                    answer_all(loaded, jobs)
                prepared.clear()
                began = time.monotonic()

    def _prepare(self, loaded: LoadedModel, job: _Job) -> Prepared | None:
        """Read the history of a job; None: another thread has taken it.

        Raises:
            Problem: the request is refused, or has waited for too long.
        """
        few_events = FEW_EVENTS if self._is_late(job) else None
        prepared = prepare(self.reader, loaded, job.query, few_events=few_events, longest=self._longest)
        if prepared is None and few_events is not None:
            metrics.SHED.labels("scorer").inc()
            waited = time.monotonic() - job.queued
            raise unavailable("queue_full", f"the request waited {waited:.1f} s for others; send it again")
        if prepared is None and self._long is not None:
            self._long._take(job)  # noqa: SLF001 - of the same class
        return prepared

    def _read_together(self, batch: list[_Job], longest: int) -> None:
        """Read the short histories of a batch."""
        users: defaultdict[LoadedModel, list[str]] = defaultdict(list)
        try:
            for job in batch:
                if (user_id := job.query.current_user) is not None and not self._is_late(job):
                    users[self._loaded(job.query.version)].append(user_id)
            with self.reader.reading() as connection:
                for loaded, user_ids in users.items():
                    loaded.states.read_together(connection, user_ids, longest)
        except Exception as error:  # noqa: BLE001 - it occurs again, with its own request
            log.debug("histories are read one by one: %s", error)

    def _is_late(self, job: _Job) -> bool:
        return time.monotonic() - job.queued > self._settings.queue_seconds


class Direct:
    """The way from a query to its answer, for one event loop. Only SQLite is read in it.

    `overload` counts the requests that wait for a history; for the other arguments see `Scorer`.
    """

    def __init__(
        self, engine: Engine, scorer: Scorer, loaded: Callable[[str | None], LoadedModel], overload: Overload, batch_size: int
    ) -> None:
        self._scorer, self._loaded, self._overload, self._batch_size = scorer, loaded, overload, batch_size
        self._reader = Reader(engine, patient=False)
        self._is_direct = engine.dialect.name == "sqlite"
        self._waiting: deque[tuple[Query, _Future]] = deque()

    async def answer(self, query: Query) -> Answer:
        """Answer a query.

        Raises:
            Problem: the query is refused, or too many wait.
        """
        if not self._is_direct or query.current_user is None:
            return await asyncio.wrap_future(self._scorer.submit(query))
        loop = asyncio.get_running_loop()
        future: _Future = loop.create_future()
        self._waiting.append((query, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._drain, loop)
        if (answer := await future) is not None:
            return answer
        with self._overload.aside():
            return await asyncio.wrap_future(self._scorer.submit(query))

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the first of those that wait, for some milliseconds: who is to be refused does not wait for all of them."""
        deadline = time.monotonic() + SLICE_SECONDS
        jobs: defaultdict[LoadedModel, list[tuple[_Future, Prepared]]] = defaultdict(list)
        while self._waiting and time.monotonic() < deadline:
            query, future = self._waiting.popleft()
            try:
                loaded = self._loaded(query.version)
                prepared = prepare(self._reader, loaded, query, few_events=FEW_EVENTS)
            except StoreError:  # the scoring thread has the time to wait for a lock
                finish(future, None)
            except Exception as error:  # noqa: BLE001 - each request has its own fate
                fail(future, error)
            else:
                if prepared is None:
                    finish(future, None)
                else:
                    jobs[loaded].append((future, prepared))
        if self._waiting:
            loop.call_soon(self._drain, loop)
        for loaded, prepared_jobs in jobs.items():
            for first in range(0, len(prepared_jobs), self._batch_size):
                answer_all(loaded, prepared_jobs[first : first + self._batch_size])
