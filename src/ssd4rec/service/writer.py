"""The one thread of a process that writes to the store: many requests share a commit, and each is answered after it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from ssd4rec.service import metrics
from ssd4rec.service.problems import Problem, unavailable
from ssd4rec.service.schemas import Event
from ssd4rec.service.store.answers import RecommendationRecord, record_recommendations
from ssd4rec.service.store.append import Appended, append_events
from ssd4rec.service.store.connect import as_store_error, is_transient

GROUP_EVENTS = 256  # of one commit, unless one request has more
GROUP_WRITES = 256  # requests of one commit
RECORD_SECONDS = 0.1  # that records of answers wait for company
ATTEMPTS = 4

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Write:
    events: Sequence[Event] | None = None
    work: Callable[[Connection], Any] | None = None
    records: Sequence[RecommendationRecord] = ()  # nobody waits for them
    alone: bool = False  # in a transaction of its own
    after: Callable[[], None] | None = None  # run in this thread after the commit, before the answer
    future: "Future[Any]" = field(default_factory=Future)

    @property
    def size(self) -> int:
        return len(self.events) if self.events is not None else len(self.records) or 1


class Writer:
    """Writes to the store in groups.

    While one group is being committed the next one gathers: a lone write waits for nobody, and under load a commit serves up
    to 256 events. A future is resolved after its commit, thus what is acknowledged is on disk.

    Args:
        engine: of the store.
        capacity: events that may wait; more are refused with 503.
    """

    def __init__(self, engine: Engine, capacity: int) -> None:
        self._engine = engine
        self._capacity = capacity
        self.waiting = 0  # events that wait for a commit
        self._changed = threading.Condition()  # of what waits; holds its lock
        self._closed = False
        self._writes: deque[_Write] = deque()
        self._records: list[RecommendationRecord] = []
        self._thread = threading.Thread(target=self._run, name="ssd4rec-writer", daemon=True)
        self._thread.start()

    def append(self, events: Sequence[Event]) -> "Future[Appended]":
        """Store events; the future is resolved when they are on disk.

        Raises:
            Problem: 503, the queue is full or the service is stopping.
        """
        return self._put(_Write(events=events))

    def submit(
        self, work: Callable[[Connection], Any], *, alone: bool = False, after: Callable[[], None] | None = None
    ) -> "Future[Any]":
        """Run a function in a transaction; the future is resolved with its result after the commit.

        Args:
            work: called with the connection.
            alone: in a transaction of its own, for work that locks users.
            after: called after the commit, before the future is resolved.

        Raises:
            Problem: 503, the queue is full or the service is stopping.
        """
        return self._put(_Write(work=work, alone=alone, after=after))

    def record(self, record: RecommendationRecord) -> None:
        """Store an answer that was given, together with the next other write or after 100 ms; nobody waits for it.

        The thread is woken by the first record of a group only: to wake it for each costs more than to write them.

        Raises:
            Problem: 503, the queue is full or the service is stopping.
        """
        with self._changed:
            self._admit(1)
            self._records.append(record)
            if len(self._records) == 1:
                self._changed.notify()

    def flush(self) -> "Future[Any]":
        """Return a future that is resolved when everything before it is on disk."""
        return self.submit(lambda _: None)

    def close(self) -> None:
        """Write what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, write: _Write) -> "Future[Any]":
        with self._changed:
            self._admit(write.size)
            self._writes.append(write)
            self._changed.notify()
        return write.future

    def _admit(self, size: int) -> None:
        """Count what is about to wait; called with the lock."""
        if self._closed:
            raise unavailable("stopping", "the service is stopping; send the request again")
        if self.waiting + size > self._capacity and self.waiting:
            metrics.SHED.labels("writer").inc()
            raise unavailable("queue_full", f"{self.waiting} events wait to be written; send the request again")
        self.waiting += size

    def _run(self) -> None:
        while group := self._gather():
            try:
                self._write(group)
            except Exception as error:
                log.exception("the writer failed")
                _fail(group, error)
            with self._changed:
                self.waiting -= sum(write.size for write in group)

    def _gather(self) -> list[_Write]:
        """Wait for something to write, and take what one commit holds; nothing is left at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._writes or self._records or self._closed)
            if not self._writes:  # records wait for company
                self._changed.wait_for(lambda: self._writes or self._closed, RECORD_SECONDS)
            group: list[_Write] = []
            size = 0
            while self._writes and len(group) < GROUP_WRITES:
                write = self._writes[0]
                if group and (group[0].alone or write.alone or size + write.size > GROUP_EVENTS):
                    break
                group.append(self._writes.popleft())
                size += write.size
            if self._records and not (group and group[0].alone):
                group.append(_Write(records=self._records))
                self._records = []
            return group

    def _write(self, group: list[_Write]) -> None:
        began = time.perf_counter()
        for attempt in range(ATTEMPTS):
            committing = False
            try:
                with self._engine.connect() as connection:
                    transaction = connection.begin()
                    results = _apply(connection, group)
                    committing = True
                    transaction.commit()
            except Problem as error:  # a refusal by the work of one write
                _fail(group, error)
                return
            except SQLAlchemyError as error:
                last = attempt == ATTEMPTS - 1
                if not committing and not last and is_transient(error):  # nothing is written twice
                    time.sleep(0.01 * attempt)
                    continue
                if not committing and isinstance(error, DataError | IntegrityError) and len(parts := _parts(group)) > 1:
                    for write in parts:  # one of them is to blame; the others are written
                        self._write([write])
                    return
                _fail(group, as_store_error(error, self._engine))
                return
            break
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - began)
        for write, result in zip(group, results, strict=True):
            _finish(write, result)


def _apply(connection: Connection, group: list[_Write]) -> list[Any]:
    batches = [write.events for write in group if write.events is not None]
    appended = iter(append_events(connection, batches) if batches else [])
    record_recommendations(connection, [record for write in group for record in write.records])
    results: list[Any] = []
    for write in group:
        if write.events is not None:
            results.append(next(appended))
        else:
            results.append(write.work(connection) if write.work is not None else None)
    return results


def _parts(group: list[_Write]) -> list[_Write]:
    """Return the writes of a group one by one, each record by itself."""
    return [part for write in group for part in ([_Write(records=[each]) for each in write.records] or [write])]


def _finish(write: _Write, result: Any) -> None:
    if write.after:
        try:
            write.after()
        except Exception:
            log.exception("a task after a commit failed")
    if write.future.set_running_or_notify_cancel():
        write.future.set_result(result)


def _fail(group: list[_Write], error: BaseException) -> None:
    for write in group:
        if not write.future.done() and write.future.set_running_or_notify_cancel():
            write.future.set_exception(error)
