"""Events and answers as they happen, read from the store: those of every process, also of an import."""

import asyncio
import json
import signal
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, select
from starlette.concurrency import run_in_threadpool

from ssd4rec.service.ids import MICROSECONDS, now
from ssd4rec.service.problems import unavailable
from ssd4rec.service.store.connect import StoreError, reading
from ssd4rec.service.store.tables import events, recommendations, users

POLL_SECONDS = 0.5
OVERLAP = 5 * MICROSECONDS  # rows are committed later than they were dated; they are looked for again this long
LATE_POLLS = round(OVERLAP / MICROSECONDS / POLL_SECONDS)
MOST_ROWS = 200  # of a poll and kind, the newest
BUFFERED = 400  # messages that wait for one reader; older ones are dropped
MAX_READERS = 16
SHOWN_ITEMS = 5


@dataclass(frozen=True)
class Message:
    """A stored event or an answer; `key` is the same each time the row is read."""

    kind: str  # "interaction" or "answer"
    key: tuple[object, ...]
    received: int
    values: dict[str, Any]


@dataclass
class Feed:
    """What waits for one reader."""

    waiting: deque[Message] = field(default_factory=lambda: deque(maxlen=BUFFERED))
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: int = 0

    def put(self, messages: list[Message]) -> None:
        """Append messages; the oldest ones fall out."""
        self.dropped += max(0, len(self.waiting) + len(messages) - BUFFERED)
        self.waiting.extend(messages)
        self.ready.set()


class LiveFeed:
    """Polls the store while somebody reads, once for all readers of the process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._feeds: list[Feed] = []
        self._task: asyncio.Task[None] | None = None
        self._seen: OrderedDict[tuple[object, ...], int] = OrderedDict()
        self._closed = False

    def close(self) -> None:
        """Let all readers end: the service is stopping."""
        self._closed = True

    async def messages(self, seconds: float) -> AsyncIterator[tuple[list[Message], int]]:
        """Yield new messages with the number of dropped ones, at least every few seconds; it ends with the service.

        Args:
            seconds: how long to wait for messages before an empty list.

        Raises:
            Problem: 503, too many readers.
        """
        with self._reader() as feed:
            waited = 0.0
            while not self._closed:
                with suppress(TimeoutError):
                    await asyncio.wait_for(feed.ready.wait(), POLL_SECONDS)
                waited += POLL_SECONDS
                if feed.waiting or waited >= seconds:
                    messages, dropped, waited = list(feed.waiting), feed.dropped, 0.0
                    feed.waiting.clear()
                    feed.dropped = 0
                    yield messages, dropped
                feed.ready.clear()

    @contextmanager
    def _reader(self) -> Iterator[Feed]:
        if len(self._feeds) >= MAX_READERS:
            raise unavailable("too_many_readers", f"{MAX_READERS} pages follow the live view of this process already")
        feed = Feed()
        self._feeds.append(feed)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._poll())
        try:
            yield feed
        finally:
            self._feeds.remove(feed)

    async def _poll(self) -> None:
        began = latest = now()
        earlier, again = (latest, latest), 0  # the last moments of a clock that was set back, and how many polls look there too
        while self._feeds and not self._closed:
            before, latest = latest, now()
            if latest < before:  # it was set back: rows stored since then are dated before this poll
                earlier, again = (max(began, before - OVERLAP), before + OVERLAP), LATE_POLLS
                began = min(began, latest - OVERLAP)
            after = max(began, min(before, latest) - OVERLAP)  # it was set forward: rows of the moment before are read too
            with suppress(StoreError):  # the store is away: the next poll tries again
                rows = await run_in_threadpool(self._read, after, now() + OVERLAP)
                if again:
                    rows = [*await run_in_threadpool(self._read, *earlier), *rows]
                    again -= 1
                fresh = [each for each in rows if each.key not in self._seen]
                self._seen.update((each.key, each.received) for each in fresh)
                while self._seen and next(iter(self._seen.values())) < after - OVERLAP:
                    self._seen.popitem(last=False)
                if fresh:
                    for feed in self._feeds:
                        feed.put(fresh)
            await asyncio.sleep(POLL_SECONDS)

    def _read(self, first: int, last: int) -> list[Message]:
        with reading(self._engine) as connection:
            rows = [*_interactions(connection, first, last), *_answers(connection, first, last)]
            return sorted(rows, key=lambda each: each.received)


def _interactions(connection: Connection, first: int, last: int) -> Iterator[Message]:
    query = (
        select(users.c.user_id, events)
        .join(events, events.c.user_key == users.c.user_key)
        .where(users.c.last_received >= first, events.c.received.between(first, last))
        .order_by(events.c.received.desc())
        .limit(MOST_ROWS)
    )
    for row in connection.execute(query):
        yield Message("interaction", (row.user_key, row.position), row.received, row._asdict())


def _answers(connection: Connection, first: int, last: int) -> Iterator[Message]:
    query = (
        select(users.c.user_id, recommendations)
        .join_from(recommendations, users, recommendations.c.user_key == users.c.user_key, isouter=True)
        .where(recommendations.c.created.between(first, last))
        .order_by(recommendations.c.created.desc())
        .limit(MOST_ROWS)
    )
    for row in connection.execute(query):
        values = {**row._asdict(), "items": json.loads(row.items)[:SHOWN_ITEMS], "received": row.created}
        yield Message("answer", (row.recommendation_id,), row.created, values)


def close_on_signal(feed: LiveFeed) -> None:
    """Let readers end at SIGTERM and SIGINT: the server waits for open answers, and these would stay open.

    Without effect outside of the main thread, which alone receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if callable(before):

            def handle(received: int, frame: Any, before: Any = before) -> None:
                feed.close()
                before(received, frame)

            signal.signal(number, handle)
