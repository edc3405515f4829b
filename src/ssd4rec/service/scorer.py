"""The threads of a process for long readings: requests that wait together are scored together.

Histories of thousands of events have a thread of their own: others do not wait behind them.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from ssd4rec.errors import SSD4RecError
from ssd4rec.service import metrics
from ssd4rec.service.answering import FEW_EVENTS, Answer, LoadedModel, Prepared, Query, answers, prepare
from ssd4rec.service.problems import Problem, unavailable
from ssd4rec.service.store.connect import Reader

log = logging.getLogger(__name__)

LONGEST = 1000  # events of a history that others wait for
SLOW_SECONDS = 0.005  # a batch that took so long to read is answered before the next history is read


@dataclass(slots=True)
class _Job:
    query: Query | None
    work: Callable[[], Any] | None = None
    later: Callable[[Reader], None] | None = None
    future: "Future[Any]" = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)


class Scorer:
    """Answers requests in batches.

    Args:
        engine: of the store.
        loaded: returns the loaded model of a version; None: the active one.
        capacity: requests that may wait; more are refused with 503.
        longest_wait: seconds; requests that waited longer are refused with 503, unless their state is cached meanwhile.
        batch_size: requests scored together; those that arrive during a batch form the next one.
        longest: events of a history that is read here; longer ones are read by another thread. None: all are read here.
    """

    def __init__(
        self,
        engine: Engine,
        loaded: Callable[[str | None], LoadedModel],
        capacity: int,
        longest_wait: float = 60.0,
        batch_size: int = 32,
        longest: int | None = LONGEST,
    ) -> None:
        self._longest = longest
        self._long = None if longest is None else Scorer(engine, loaded, capacity, longest_wait, batch_size, longest=None)
        self._reader, self._loaded = Reader(engine), loaded
        self._longest_wait, self._batch_size = longest_wait, batch_size
        self._queue: queue.Queue[_Job | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._run, name="ssd4rec-scorer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of waiting requests."""
        return self._queue.qsize() + (0 if self._long is None else self._long.waiting)

    def submit(self, query: Query) -> "Future[Answer]":
        """Queue a request.

        Raises:
            Problem: 503, too many requests wait.
        """
        return self.take(_Job(query))

    def call(self, work: Callable[[], Any]) -> "Future[Any]":
        """Run a function in the scoring thread, which owns the states."""
        return self.take(_Job(None, work))

    def call_later(self, work: Callable[[Reader], None]) -> None:
        """Run a function with the reader of the store in the scoring thread, behind the requests that wait; nobody waits for it.

        Raises:
            Problem: 503, too many requests wait.
        """
        self.take(_Job(None, later=work))

    def close(self) -> None:
        """Answer all waiting requests, then end the thread."""
        self._queue.put(None)
        self._thread.join()
        if self._long is not None:
            self._long.close()

    def take(self, job: _Job) -> "Future[Any]":
        """Queue a job.

        Raises:
            Problem: 503, too many requests wait.
        """
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            metrics.SHED.labels("scorer").inc()
            raise unavailable("queue_full", "too many requests wait for the model; send the request again") from None
        return job.future

    def _run(self) -> None:
        while (batch := self._gather()) is not None:
            try:
                self._answer(batch)
            except Exception as error:  # noqa: BLE001 - the thread must live
                for job in batch:
                    _fail(job, error)
        self._reader.close()

    def _gather(self) -> list[_Job] | None:
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < self._batch_size:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)
                break
            batch.append(job)
        return batch

    def _answer(self, batch: list[_Job]) -> None:
        by_model: dict[int, tuple[LoadedModel, list[tuple[_Job, Prepared]]]] = {}
        if len(batch) > 1 and self._longest is not None:
            self._read_together(batch, self._longest)
        began = time.monotonic()
        for job in batch:
            try:
                if job.work is not None:
                    _finish(job, job.work())
                elif job.query is not None:
                    loaded, late = self._loaded(job.query.version), self._is_late(job)
                    few_events = FEW_EVENTS if late else None
                    prepared = prepare(self._reader, loaded, job.query, few_events=few_events, longest=self._longest)
                    if prepared is not None:
                        by_model.setdefault(id(loaded), (loaded, []))[1].append((job, prepared))
                    elif late:
                        _refuse(job)
                    elif self._long is not None:
                        self._long.take(job)
            except Exception as error:  # noqa: BLE001 - each request has its own fate
                _fail(job, error)
            if time.monotonic() - began >= SLOW_SECONDS:
                self._score_all(by_model)
                began = time.monotonic()
        self._score_all(by_model)
        for job in batch:
            if job.later is not None:
                job.later(self._reader)

    def _read_together(self, batch: list[_Job], longest: int) -> None:
        """Read the short histories of a batch; whatever fails here fails again, with its own request."""
        users: dict[int, tuple[LoadedModel, list[str]]] = {}
        try:
            for job in batch:
                if job.query is not None and job.query.user_id is not None and job.query.as_of is None and not self._is_late(job):
                    loaded = self._loaded(job.query.version)
                    users.setdefault(id(loaded), (loaded, []))[1].append(job.query.user_id)
            with self._reader.reading() as connection:
                for loaded, user_ids in users.values():
                    loaded.states.read_together(connection, user_ids, longest)
        except (SSD4RecError, Problem) as error:
            log.debug("histories are read one by one: %s", error)

    def _score_all(self, by_model: "dict[int, tuple[LoadedModel, list[tuple[_Job, Prepared]]]]") -> None:
        for loaded, jobs in by_model.values():
            self._score(loaded, jobs)
        by_model.clear()

    def _is_late(self, job: _Job) -> bool:
        return time.monotonic() - job.queued > self._longest_wait

    def _score(self, loaded: LoadedModel, jobs: "list[tuple[_Job, Prepared]]") -> None:
        try:
            results = answers(loaded, [prepared for _, prepared in jobs])
        except Exception as error:  # noqa: BLE001 - such as scores that are not numbers
            for job, _ in jobs:
                _fail(job, error)
            return
        for (job, _), answer in zip(jobs, results, strict=True):
            _finish(job, answer)
        metrics.STATE_BYTES.set(loaded.states.bytes)


def _refuse(job: _Job) -> None:
    metrics.SHED.labels("scorer").inc()
    waited = time.monotonic() - job.queued
    raise unavailable("queue_full", f"the request waited {waited:.1f} s for others; send it again")


def _finish(job: _Job, result: Any) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_result(result)


def _fail(job: _Job, error: BaseException) -> None:
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
