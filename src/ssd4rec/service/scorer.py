"""The one thread of a process that reads states and scores: requests that wait together are scored together."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Engine

from ssd4rec.service import metrics
from ssd4rec.service.item_filters import ItemFilters
from ssd4rec.service.problems import Problem, not_found, unavailable
from ssd4rec.service.served_model import Indices, ScoreJob, ServedModel
from ssd4rec.service.states import States
from ssd4rec.service.store.connect import Reader
from ssd4rec.service.store.items import items_version
from ssd4rec.service.store.users import history_of, read_history
from ssd4rec.serving.topk import TopK

log = logging.getLogger(__name__)


@dataclass
class LoadedModel:
    """A model with what the process caches for it. Used by the scoring thread alone once it serves."""

    model: ServedModel
    states: States
    filters: ItemFilters


@dataclass(frozen=True, slots=True)
class Query:
    """A request to the scorer."""

    k: int
    user_id: str | None = None
    history: list[str] | None = None
    exclude_seen: bool = True
    allow: list[str] | None = None
    deny: list[str] | None = None
    any_of: list[str] | None = None
    none_of: list[str] | None = None
    unknown_items: str = "skip"
    as_of: int | None = None
    # of a next page
    version: str | None = None
    user_key: int | None = None
    position: int | None = None
    earlier: tuple[str, ...] = ()


class ItemRow(NamedTuple):
    """One recommended item."""

    item_id: str
    title: str | None
    score: float


@dataclass(frozen=True)
class Answer:
    """The best items for a query."""

    model: ServedModel
    best: TopK
    titles: list[str | None]
    user_key: int | None
    position: int
    indices: Indices  # of the history, 0 for unknown items
    unknown: int  # events of items that the catalog does not contain
    ignored: int  # ids of `allow` that the catalog does not contain

    @cached_property
    def rows(self) -> list[ItemRow]:
        """The items, the best first."""
        ids = self.model.ids
        rows = zip(self.best.items.tolist(), self.titles, self.best.scores.tolist(), strict=True)
        return [ItemRow(ids[index - 1], title, score) for index, title, score in rows]


@dataclass(slots=True)
class _Job:
    query: Query | None
    work: Callable[[], Any] | None = None
    later: Callable[[Reader], None] | None = None
    future: "Future[Any]" = field(default_factory=Future)


class Scorer:
    """Answers requests in batches.

    Args:
        engine: of the store.
        loaded: returns the loaded model of a version; None: the active one.
        capacity: requests that may wait; more are refused with 503.
        batch_size: requests scored together.
        batch_wait: seconds to wait for others; requests that arrive during a batch form the next one anyway.
    """

    def __init__(
        self,
        engine: Engine,
        loaded: Callable[[str | None], LoadedModel],
        capacity: int,
        batch_size: int = 32,
        batch_wait: float = 0.0,
    ) -> None:
        self._reader, self._loaded = Reader(engine), loaded
        self._batch_size, self._batch_wait = batch_size, batch_wait
        self._queue: queue.Queue[_Job | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._run, name="ssd4rec-scorer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._queue.qsize()

    def submit(self, query: Query) -> "Future[Answer]":
        """Queue a request.

        Raises:
            Problem: 503, too many requests wait.
        """
        return self._put(_Job(query))

    def call(self, work: Callable[[], Any]) -> "Future[Any]":
        """Run a function in the scoring thread, which owns the states."""
        return self._put(_Job(None, work))

    def call_later(self, work: Callable[[Reader], None]) -> None:
        """Run a function with the reader of the store in the scoring thread, behind the requests that wait; nobody waits for it.

        Raises:
            Problem: 503, too many requests wait.
        """
        self._put(_Job(None, later=work))

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _put(self, job: _Job) -> "Future[Any]":
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
        batch, deadline = [first], time.monotonic() + self._batch_wait
        while len(batch) < self._batch_size:
            try:
                remaining = deadline - time.monotonic()
                job = self._queue.get(timeout=remaining) if remaining > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)
                break
            batch.append(job)
        return batch

    def _answer(self, batch: list[_Job]) -> None:
        by_model: dict[int, tuple[LoadedModel, list[tuple[_Job, _Prepared]]]] = {}
        for job in batch:
            try:
                if job.work is not None:
                    _finish(job, job.work())
                elif job.query is not None:
                    loaded = self._loaded(job.query.version)
                    prepared = self._prepare(loaded, job.query)
                    by_model.setdefault(id(loaded), (loaded, []))[1].append((job, prepared))
            except Exception as error:  # noqa: BLE001 - each request has its own fate
                _fail(job, error)
        for loaded, jobs in by_model.values():
            self._score(loaded, jobs)
        for job in batch:
            if job.later is not None:
                job.later(self._reader)

    def _prepare(self, loaded: LoadedModel, query: Query) -> "_Prepared":
        began = time.perf_counter()
        model = loaded.model
        with self._reader.reading() as connection:
            if query.user_id is not None and query.as_of is None:
                current = loaded.states.current(connection, query.user_id)
                version, key, position, state = current.items_version, current.user_key, current.position, current.state
            else:
                version = items_version(connection)
                key, position, items = _items_of(connection, query)
                state = model.read(model.indices(items))
            loaded.filters.refresh(connection, version)
        metrics.STAGE_SECONDS.labels("state").observe(time.perf_counter() - began)
        if query.user_id is not None and key is None and query.unknown_items == "raise":
            raise not_found("user", query.user_id)
        unknown = int(len(state.indices) - (state.indices > 0).sum())
        if unknown and query.unknown_items == "raise":
            raise Problem(
                422,
                "unknown_items",
                f"{unknown} of {len(state.indices)} items of the history are not in the catalog of the model; "
                f'leave them out, or choose unknown_items="skip" or "popular"',
            )
        began = time.perf_counter()
        deny = [*(query.deny or ()), *query.earlier]
        excluded = loaded.filters.excluded(query.allow, deny, query.any_of, query.none_of)
        metrics.STAGE_SECONDS.labels("filter").observe(time.perf_counter() - began)
        ignored = 0 if query.allow is None else int((model.indices(query.allow) == 0).sum())
        job = ScoreJob(state, query.k, query.exclude_seen, excluded, query.unknown_items == "popular")
        return _Prepared(job, key, position, unknown, ignored)

    def _score(self, loaded: LoadedModel, jobs: "list[tuple[_Job, _Prepared]]") -> None:
        began = time.perf_counter()
        try:
            results = loaded.model.score([prepared.job for _, prepared in jobs])
        except Exception as error:  # noqa: BLE001 - such as scores that are not numbers
            for job, _ in jobs:
                _fail(job, error)
            return
        metrics.STAGE_SECONDS.labels("score").observe(time.perf_counter() - began)
        for (job, prepared), best in zip(jobs, results, strict=True):
            titles = [loaded.filters.title(index) for index in best.items.tolist()]
            _finish(
                job,
                Answer(
                    loaded.model,
                    best,
                    titles,
                    prepared.user_key,
                    prepared.position,
                    prepared.job.state.indices,
                    prepared.unknown,
                    prepared.ignored,
                ),
            )
        metrics.STATE_BYTES.set(loaded.states.bytes)


@dataclass(frozen=True)
class _Prepared:
    job: ScoreJob
    user_key: int | None
    position: int
    unknown: int
    ignored: int


def _items_of(connection: Any, query: Query) -> tuple[int | None, int, list[str]]:
    if query.history is not None:
        return None, 0, query.history
    if query.user_key is not None:
        return query.user_key, query.position or 0, history_of(connection, query.user_key, query.as_of, query.position)
    if query.user_id is not None:
        return read_history(connection, query.user_id, until_timestamp=query.as_of)
    return None, 0, []


def _finish(job: _Job, result: Any) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_result(result)


def _fail(job: _Job, error: BaseException) -> None:
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
