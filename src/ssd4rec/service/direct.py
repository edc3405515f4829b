"""Answer in the event loop what takes less time than to hand it to another thread and back.

That is nearly every request of a user whose state is cached: one short read of the store, a few events at most, one product of
the state with the item vectors. Requests that arrived together are scored together. What takes longer (a history that is to be
read, a database that is reached over the network) goes to the scoring thread.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable

from sqlalchemy import Engine

from ssd4rec.service.answering import FEW_EVENTS, Answer, LoadedModel, Prepared, Query, answer_all, fail, finish, prepare
from ssd4rec.service.overload import Overload
from ssd4rec.service.scorer import Scorer
from ssd4rec.service.store.connect import Reader, StoreError

SLICE_SECONDS = 0.03  # for which states are read before the event loop looks at its sockets again

_Future = asyncio.Future[Answer | None]  # None: the scoring thread is to answer


class Direct:
    """The way from a query to its answer, for one event loop. Only SQLite is read in it.

    `overload` counts the requests that wait for a history; for the other arguments see `Scorer`.
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
