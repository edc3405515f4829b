"""Answer in the event loop what takes less time than to hand it to another thread and back.

That is nearly every request of a user whose state is cached: one short read of the store, a few events at most, one product of
the state with the item vectors. Requests that arrived together are scored together. What takes longer (a history that is to be
read, a database that is reached over the network) goes to the scoring thread.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from sqlalchemy import Engine

from ssd4rec.service import metrics
from ssd4rec.service.answering import FEW_EVENTS, Answer, LoadedModel, Prepared, Query, answers, prepare
from ssd4rec.service.overload import Overload
from ssd4rec.service.scorer import Scorer
from ssd4rec.service.store.connect import Reader, StoreError

SLICE_SECONDS = 0.03  # for which states are read before the event loop looks at its sockets again

log = logging.getLogger(__name__)

_Waiting = tuple[Query, "asyncio.Future[Answer | None]"]


class Direct:
    """The way from a query to its answer. Used in one event loop.

    Args:
        engine: of the store; only SQLite is read in the event loop.
        scorer: answers what takes longer.
        loaded: returns the loaded model of a version; None: the active one.
        overload: counts the requests that wait for a history.
        batch_size: requests scored together.
    """

    def __init__(
        self,
        engine: Engine,
        scorer: Scorer,
        loaded: Callable[[str | None], LoadedModel],
        overload: Overload,
        batch_size: int = 32,
    ) -> None:
        self._scorer, self._loaded, self._overload, self._batch_size = scorer, loaded, overload, batch_size
        self._reader = Reader(engine, patient=False) if engine.dialect.name == "sqlite" else None
        self._waiting: deque[_Waiting] = deque()

    async def answer(self, query: Query) -> Answer:
        """Answer a query.

        Raises:
            Problem: the query is refused, or too many wait.
        """
        if self._reader is not None and query.user_id is not None and query.as_of is None:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[Answer | None] = loop.create_future()
            self._waiting.append((query, future))
            if len(self._waiting) == 1:
                loop.call_soon(self._drain, loop)
            if (answer := await future) is not None:
                return answer
            with self._overload.aside():
                return await asyncio.wrap_future(self._scorer.submit(query))
        return await asyncio.wrap_future(self._scorer.submit(query))

    def close(self) -> None:
        """Close the connection."""
        if self._reader is not None:
            self._reader.close()

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the first of those that wait, for some milliseconds: who is to be refused does not wait for all of them."""
        deadline = time.monotonic() + SLICE_SECONDS
        by_model: dict[int, tuple[LoadedModel, list[tuple[asyncio.Future[Answer | None], Prepared]]]] = {}
        while self._waiting and time.monotonic() < deadline:
            query, future = self._waiting.popleft()
            try:
                loaded = self._loaded(query.version)
                prepared = self._prepare(loaded, query)
            except Exception as error:  # noqa: BLE001 - each request has its own fate
                _fail(future, error)
                continue
            if prepared is None:
                _finish(future, None)
            else:
                by_model.setdefault(id(loaded), (loaded, []))[1].append((future, prepared))
        if self._waiting:
            loop.call_soon(self._drain, loop)
        for loaded, jobs in by_model.values():
            for first in range(0, len(jobs), self._batch_size):
                _score(loaded, jobs[first : first + self._batch_size])

    def _prepare(self, loaded: LoadedModel, query: Query) -> Prepared | None:
        assert self._reader is not None  # noqa: S101 - nothing waits without it
        try:
            return prepare(self._reader, loaded, query, few_events=FEW_EVENTS)
        except StoreError:  # the scoring thread has the time to wait for a lock
            return None


def _score(loaded: LoadedModel, jobs: "list[tuple[asyncio.Future[Answer | None], Prepared]]") -> None:
    try:
        results = answers(loaded, [prepared for _, prepared in jobs])
    except Exception as error:  # noqa: BLE001 - such as scores that are not numbers
        for future, _ in jobs:
            _fail(future, error)
        return
    for (future, _), answer in zip(jobs, results, strict=True):
        _finish(future, answer)
    metrics.STATE_BYTES.set(loaded.states.bytes)


def _finish(future: "asyncio.Future[Answer | None]", answer: Answer | None) -> None:
    if not future.done():  # the client may have gone
        future.set_result(answer)


def _fail(future: "asyncio.Future[Answer | None]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
