"""The user states of one model in one process: a cache, checked against the store at every request."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from ssd4rec.service import metrics
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.store.append import NewItems
from ssd4rec.service.store.users import NOTHING_READ, history_of, read_new_events
from ssd4rec.service.user_state import UserState

LONGEST_READ = 1000  # events of a history that is read for nothing but a metric


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
class Rank:
    """The place of an item among the candidates."""

    rank: int | None  # 1-based; None: it is not a candidate


@dataclass(frozen=True)
class CurrentState:
    """The state of a user, as new as the store."""

    user_key: int | None
    position: int
    items_version: int
    state: UserState


class States:
    """The states of users, the least recently used ones dropped.

    Another process may write events at any time. Each request therefore reads the user's generation and the events after the
    position that the cached state has read, in one statement: nothing new is a hit, new events are a step, a late event or an
    erasure is a re-read. Any thread may use them: histories are read without the lock, and two threads that read the same user
    at once both answer right.

    Args:
        model: whose states they are.
        limit: bytes.
        keep_answers: keep the last answers of each state.
    """

    def __init__(self, model: ServedModel, limit: int, *, keep_answers: bool = True) -> None:
        self.model, self.keep_answers = model, keep_answers
        self.bytes = 0
        self._limit = limit
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # the most recently used at the end
        self._owners: dict[int, str] = {}
        self._lock = threading.Lock()
        self._erasures = 0

    def __len__(self) -> int:
        """How many users have a state."""
        return len(self._entries)

    def current(self, connection: Connection, user_id: str, few_events: int | None = None) -> CurrentState | None:
        """Return the state of a user with every committed event.

        Args:
            connection: from `reading`.
            user_id: who.
            few_events: read at most so many events, after a cached state; None: as many as there are.

        Returns:
            None: more than `few_events` are to be read.
        """
        entry, erasures = self._find(user_id)
        if entry is None and few_events is not None:
            return None
        new = read_new_events(connection, user_id, NOTHING_READ if entry is None else entry.read)
        if new.user_key is None:
            self._forget_name(user_id)
            return CurrentState(None, 0, new.items_version, UserState(self.model.indices([])))
        if few_events is not None and (not new.continues or len(new.items) > few_events):
            return None
        if entry is None or not new.continues:
            metrics.REREADS.inc()
            state = self.model.read(self.model.indices(new.items))
            self._keep(user_id, Entry(new.user_key, new.generation, new.position, state), erasures)
        elif new.position == entry.position:
            metrics.HITS.inc()
            state = entry.state
        else:
            metrics.STEPS.inc()
            state = self._extended(entry.state, new.items)
            before = (entry.position, _without_cache(entry.state))
            self._keep(user_id, Entry(new.user_key, new.generation, new.position, state, before), erasures)
        return CurrentState(new.user_key, new.position, new.items_version, state)

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
            if (user_id := self._owners.get(user_key)) is not None:
                self._drop(user_id)

    def _forget_name(self, user_id: str) -> None:
        with self._lock:
            self._drop(user_id)

    def rank_new(self, connection: Connection, group: NewItems) -> list[Rank | None]:
        """Rank each new event of a user by the state before it, and read it.

        Args:
            connection: for the history of a user without a cached state.
            group: events that follow all events before them.

        Returns:
            A rank for each event; None: nothing known came before it, so no model would have answered.
        """
        (entry, erasures), last = self._find(group.user_id), group.position + len(group.items) - 1
        mine = (group.user_key, group.generation)
        is_read = entry is not None and (entry.user_key, entry.generation) == mine and entry.position >= last
        state = self._before(connection, group, entry)
        if state is None:
            return [None] * len(group.items)
        targets = self.model.indices(group.items)
        histories = [state]
        for index in targets[:-1]:
            histories.append(self.model.step(histories[-1], np.array([index])))
        ranks = self.model.rank_targets(histories, targets)
        if not is_read and (entry is None or (entry.user_key, entry.generation) <= mine):
            newest = self.model.step(histories[-1], targets[-1:])
            self._keep(group.user_id, Entry(*mine, last, newest, (last - 1, _without_cache(histories[-1]))), erasures)
        return [None if before.vector is None else Rank(rank) for before, rank in zip(histories, ranks, strict=True)]

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
        history = history_of(connection, group.user_key, None, position) if position else []
        if position and not history:
            return None
        return self.model.read(self.model.indices(history))

    def _extended(self, state: UserState, items: list[str]) -> UserState:
        return self.model.step(state, self.model.indices(items))

    def _keep(self, user_id: str, entry: Entry, erasures: int) -> None:
        """Put a state into the cache, unless somebody was erased since it was begun, or another thread has a newer one."""
        with self._lock:
            other = self._entries.get(user_id)
            if erasures != self._erasures or (other is not None and other.read > entry.read):
                return
            self._drop(user_id)
            self._entries[user_id] = entry
            self._owners[entry.user_key] = user_id
            self.bytes += entry.state.bytes
            while self.bytes > self._limit and len(self._entries) > 1:
                self._drop(next(iter(self._entries)))

    def _drop(self, user_id: str) -> None:
        if (entry := self._entries.pop(user_id, None)) is not None:
            self.bytes -= entry.state.bytes
            self._owners.pop(entry.user_key, None)


def _without_cache(state: UserState) -> UserState:
    return UserState(state.indices, None, state.vector)
