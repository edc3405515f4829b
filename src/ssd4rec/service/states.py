"""The user states of one model in one process: a cache, checked against the store at every request."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from ssd4rec.service import metrics
from ssd4rec.service.live import gain
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.settings import ServiceSettings
from ssd4rec.service.snapshots import unpack
from ssd4rec.service.store.append import NewItems
from ssd4rec.service.store.snapshots import find_snapshot
from ssd4rec.service.store.users import NOTHING_READ, NewHistory, history_of, read_new_events
from ssd4rec.service.user_state import RequestMoment, UserState

LONGEST_READ = 1000  # events of a history that is read for nothing but a metric
MOST_CHANGED = 2000  # states that wait to be stored; the oldest are left out
BEHIND_EVENTS = 8  # that a snapshot may lack of a busy user, or a share of the history
BEHIND_SHARE = 500
FULL_SHARE = 0.9  # of the memory that states fill before somebody asks for them


@dataclass(frozen=True)
class Entry:
    """A cached state and what of the store it stands for."""

    user_key: int
    generation: int
    position: int
    state: UserState
    before: tuple[int, UserState] | None = None  # the position and the state without its newest events; it has no cache

    @property
    def read(self) -> tuple[int, int, int]:
        """User key, generation and position, for `read_new_events`."""
        return self.user_key, self.generation, self.position


@dataclass(frozen=True)
class CurrentState:
    """The state of a user, as new as the store."""

    user_key: int | None
    position: int
    items_version: int
    last_event: int | None  # when it was, in microseconds since 1970
    state: UserState


class States:
    """The states of users, the least recently used ones dropped.

    Another process may write events at any time. Each request therefore reads the user's generation and the events after the
    position that the cached state has read, in one statement: nothing new is a hit, new events are a step, a late event or an
    erasure is a re-read. Any thread may use them: histories are read without the lock, and two threads that read the same user
    at once both answer right.

    Args:
        model: whose states they are.
        settings: of the service.
    """

    def __init__(self, model: ServedModel, settings: ServiceSettings) -> None:
        self.model, self.keep_answers = model, settings.keep_answers
        self._snapshot_events = settings.snapshot_events
        self._changed: OrderedDict[int, tuple[Entry, float]] = OrderedDict()  # states that snapshots lack, and since when
        self._saved: dict[int, tuple[int, int]] = {}  # generation and position of the snapshots of cached states
        self.bytes = 0
        self._limit = settings.state_memory_mb * 2**20
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # the most recently used at the end
        self._owners: dict[int, str] = {}
        self._lock = threading.Lock()
        self._erasures = 0

    def __len__(self) -> int:
        """How many users have a state."""
        return len(self._entries)

    def current(
        self, connection: Connection, user_id: str, few_events: int | None = None, longest: int | None = None
    ) -> CurrentState | None:
        """Return the state of a user with every committed event.

        Args:
            connection: from `reading`.
            user_id: of the store.
            few_events: read at most so many events, after a state that is cached or stored; None: as many as there are.
            longest: do not read whole histories of more events; None: read any.

        Returns:
            None: more than `few_events` or `longest` are to be read.
        """
        entry, erasures = self._find(user_id)
        stored = self._stored(connection, user_id) if entry is None else None
        base = entry or stored
        if base is None and few_events is not None:
            return None
        new = read_new_events(connection, user_id, NOTHING_READ if base is None else base.read)
        if new.user_key is None:
            with self._lock:
                self._drop(user_id)
            return CurrentState(None, 0, new.items_version, None, UserState(self.model.indices([])))
        if few_events is not None and (not new.continues or len(new.items) > few_events):
            return None
        if stored is not None and new.continues:
            self._keep(user_id, stored, erasures, is_saved=True)
        before = None
        if base is None or not new.continues:
            if longest is not None and len(new.items) > longest:
                return None
            metrics.REREADS.inc()
            state = self.model.read(self.model.indices(new.items))
        elif new.position == base.position:
            (metrics.HITS if stored is None else metrics.SNAPSHOTS_READ).inc()
            state = base.state
        else:
            metrics.STEPS.inc()
            state = self.model.step(base.state, self.model.indices(new.items))
            before = (base.position, _without_cache(base.state))
        if base is None or state is not base.state:
            self._keep(user_id, Entry(new.user_key, new.generation, new.position, state, before), erasures)
        return CurrentState(new.user_key, new.position, new.items_version, new.last_event, state)

    def read_together(self, connection: Connection, user_ids: Iterable[str], longest: int) -> None:
        """Cache the states of some users who have none, read in one packed batch; `current` takes them from the cache.

        Users with more than `longest` events are left out.
        """
        waiting: list[tuple[str, NewHistory, int]] = []
        for user_id in dict.fromkeys(user_ids):
            entry, erasures = self._find(user_id)
            if entry is not None:
                continue
            if (stored := self._stored(connection, user_id)) is not None:
                metrics.SNAPSHOTS_READ.inc()
                self._keep(user_id, stored, erasures, is_saved=True)
            else:
                new = read_new_events(connection, user_id, NOTHING_READ)
                if new.user_key is not None and len(new.items) <= longest:
                    waiting.append((user_id, new, erasures))
        states = self.model.read_together([self.model.indices(new.items) for _, new, _ in waiting])
        for (user_id, new, erasures), state in zip(waiting, states, strict=True):
            if new.user_key is not None:
                metrics.REREADS.inc()
                self._keep(user_id, Entry(new.user_key, new.generation, new.position, state), erasures)

    def _stored(self, connection: Connection, user_id: str) -> Entry | None:
        """Return the snapshot of a user; like a cached state, it may lack the newest events."""
        if self._snapshot_events is None:
            return None
        snapshot = find_snapshot(connection, user_id, self.model.identity)
        if snapshot is None or (state := unpack(snapshot.state, self.model)) is None:
            return None
        return Entry(*snapshot[:3], state)

    def read_aside(self, connection: Connection, user_id: str) -> Entry | None:
        """Read the whole history of a user for a snapshot; the cache does not change. None: no such user."""
        new = read_new_events(connection, user_id, NOTHING_READ)
        if new.user_key is None:
            return None
        return Entry(new.user_key, new.generation, new.position, self.model.read(self.model.indices(new.items)))

    @property
    def is_full(self) -> bool:
        """Whether states fill as much of the memory as they may before somebody asks for them."""
        return self.bytes > FULL_SHARE * self._limit

    def is_cached(self, user_id: str) -> bool:
        """Whether there is a state of a user, however old."""
        return user_id in self._entries

    def recent(self) -> list[str]:
        """Return the users with a cached state, the most recently used first."""
        with self._lock:
            return list(reversed(self._entries))

    def take_changed(self, idle_seconds: float, limit: int) -> list[Entry]:
        """Take states whose snapshot is due: it lacks many events, or nothing has changed for a time."""
        taken, moment = [], time.monotonic()
        with self._lock:
            for key, (entry, since) in list(self._changed.items()):
                if moment - since >= idle_seconds or self._is_behind(entry):
                    taken.append(entry)
                    del self._changed[key]
                    if len(taken) == limit:
                        break
        return taken

    def _is_behind(self, entry: Entry) -> bool:
        generation, position = self._saved.get(entry.user_key, (-1, 0))
        most = max(BEHIND_EVENTS, len(entry.state.indices) // BEHIND_SHARE)
        return generation != entry.generation or entry.position - position >= most

    def mark_saved(self, entries: Iterable[Entry]) -> None:
        """Remember that snapshots of these states were stored."""
        with self._lock:
            for entry in entries:
                if entry.user_key in self._owners:
                    self._saved[entry.user_key] = entry.generation, entry.position

    def _find(self, user_id: str) -> tuple[Entry | None, int]:
        """Return the entry of a user, now the most recently used one, and how many erasures there were."""
        with self._lock:
            entry = self._entries.get(user_id)
            if entry is not None:
                self._entries.move_to_end(user_id)
            return entry, self._erasures

    def forget(self, user_key: int) -> None:
        """Drop the state of a user who was erased; what another thread read of users before is not kept either."""
        with self._lock:
            self._erasures += 1
            self._changed.pop(user_key, None)
            if (user_id := self._owners.get(user_key)) is not None:
                self._drop(user_id)

    def rank_new(self, connection: Connection, group: NewItems) -> list[tuple[float, float] | None]:
        """Rank each new event of a user by the state before it, and read it.

        Args:
            connection: for the history of a user without a cached state.
            group: events that follow all events before them.

        Returns:
            The `gain` of each event; None: nothing known came before it, so no model would have answered.
        """
        entry, erasures = self._find(group.user_id)
        state = self._before(connection, group, entry)
        if state is None:
            return [None] * len(group.items)
        targets = self.model.indices(group.items)
        histories = [state]
        for index in targets[:-1]:
            histories.append(self.model.step(histories[-1], np.array([index])))
        timed, before = [], group.before
        for each, at in zip(histories, group.timestamps, strict=True):
            timed.append(self.model.at(each, None if before is None else RequestMoment(at, before)))
            before = at
        ranks = self.model.rank_targets(timed, targets)
        read = (group.user_key, group.generation, group.position + len(group.items) - 1)
        if entry is None or entry.read < read:
            newest, before_newest = self.model.step(histories[-1], targets[-1:]), _without_cache(histories[-1])
            self._keep(group.user_id, Entry(*read, newest, (read[2] - 1, before_newest)), erasures)
        return [None if each.vector is None else gain(rank) for each, rank in zip(histories, ranks, strict=True)]

    def _before(self, connection: Connection, group: NewItems, entry: Entry | None) -> UserState | None:
        """The state that has read everything before some new events.

        None: the user was erased meanwhile, or has no cached state and a history that takes too long to read.
        """
        position = group.position - 1
        if entry is not None and (entry.user_key, entry.generation) == (group.user_key, group.generation):
            if entry.position == position:
                return entry.state
            if entry.before is not None and entry.before[0] == position and len(group.items) == 1:
                return entry.before[1]
        if position > LONGEST_READ:
            return None
        history = history_of(connection, group.user_key, until_position=position).items if position else []
        if position and not history:
            return None
        return self.model.read(self.model.indices(history))

    def _keep(self, user_id: str, entry: Entry, erasures: int, *, is_saved: bool = False) -> None:
        """Put a state into the cache, unless somebody was erased since it was begun, or another thread has a newer one."""
        with self._lock:
            other = self._entries.get(user_id)
            if erasures != self._erasures or (other is not None and other.read > entry.read):
                return
            saved = (entry.generation, entry.position) if is_saved else self._saved.get(entry.user_key)
            self._drop(user_id)
            self._entries[user_id] = entry
            self._owners[entry.user_key] = user_id
            if saved is not None:
                self._saved[entry.user_key] = saved
            if not is_saved and self._snapshot_events is not None and len(entry.state.indices) >= self._snapshot_events:
                self._changed[entry.user_key] = entry, time.monotonic()
                if len(self._changed) > MOST_CHANGED:
                    self._changed.popitem(last=False)
            self.bytes += entry.state.bytes
            while self.bytes > self._limit and len(self._entries) > 1:
                self._drop(next(iter(self._entries)))

    def _drop(self, user_id: str) -> None:
        if (entry := self._entries.pop(user_id, None)) is not None:
            self.bytes -= entry.state.bytes
            self._owners.pop(entry.user_key, None)
            self._saved.pop(entry.user_key, None)


def _without_cache(state: UserState) -> UserState:
    return UserState(state.indices, None, state.vector)
