"""Histories of many users: recurrent states for long histories in use, re-encoding for the others."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Unpack

from ssd4rec.errors import ConfigError, DataError
from ssd4rec.serving.arguments import as_ids
from ssd4rec.serving.recommender import Recommendations, Recommender, RecommendOptions
from ssd4rec.serving.session import Session

MIN_STATE_LENGTH = 50  # events: re-encoding fewer costs about two incremental steps, and a state is a hundred times their size
MAX_STATES = 1024  # states in memory


class SessionStore:
    """Growing histories of many users, in memory.

    All item ids are kept: one list per user. Of the users with at least `min_state_length` events, the `max_states` most recently
    used ones also have a `Session`, whose recurrent state is updated at constant cost per event. Any other history is encoded
    again on request. In both cases the results equal those of `Recommender.recommend`.

    Not thread-safe, not even for reading, because a request may create and evict states: use a lock, or one store per thread
    for a share of the users. For a service with durable storage and several workers use `ssd4rec serve`.

    Args:
        recommender: a trained model.
        min_state_length: minimum number of events for keeping a state.
        max_states: maximum number of states; the least recently used one is evicted first.

    Raises:
        ConfigError: `min_state_length` or `max_states` is negative.
    """

    def __init__(
        self, recommender: Recommender, *, min_state_length: int = MIN_STATE_LENGTH, max_states: int = MAX_STATES
    ) -> None:
        if min_state_length < 0 or max_states < 0:
            raise ConfigError(f"min_state_length and max_states must be 0 or more, found {min_state_length} and {max_states}")
        self._recommender = recommender
        self._min_state_length = min_state_length
        self._max_states = max_states
        self._histories: dict[Hashable, list[object]] = {}
        self._sessions: OrderedDict[Hashable, Session] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self._histories)

    @property
    def state_bytes(self) -> int:
        """The size of all states in bytes, without ids and item indices."""
        return sum(session.state_bytes for session in self._sessions.values())

    def history(self, user: Hashable) -> tuple[object, ...]:
        """Return the item ids of a user, oldest first; empty for a new user."""
        return tuple(self._histories.get(user, ()))

    def add(self, user: Hashable, *items: object) -> None:
        """Append events to the history of a user, oldest first.

        Raises:
            DataError: an item is not a valid id.
        """
        new_items = as_ids(items)
        self._histories.setdefault(user, []).extend(new_items)
        if session := self._sessions.get(user):
            for item in new_items:
                session.add(item)

    def recommend(
        self,
        user: Hashable,
        k: int = 10,
        **options: Unpack[RecommendOptions],
    ) -> Recommendations:
        """Recommend the next items for a user; options and errors are those of `Recommender.recommend`."""
        if self._should_keep_state(user):
            return self._session(user).recommend(k, **options)
        (result,) = self._recommender.recommend([self._histories.get(user, [])], k, **options)
        return result

    def put(self, user: Hashable, session: Session) -> None:
        """Replace the history of a user by a session, for example one returned by `Session.load`.

        Raises:
            DataError: the session belongs to another recommender.
        """
        if session.recommender is not self._recommender:
            raise DataError("the session belongs to another recommender; load it with the recommender of this store")
        self.delete(user)
        self._histories[user] = list(session.history)
        if self._should_keep_state(user):
            self._sessions[user] = session.copy()
            self._evict()

    def delete(self, user: Hashable) -> None:
        """Delete the history and the state of a user."""
        self._histories.pop(user, None)
        self._sessions.pop(user, None)

    def _should_keep_state(self, user: Hashable) -> bool:
        is_long = len(self._histories.get(user, ())) >= self._min_state_length
        return self._max_states > 0 and is_long and self._recommender.supports_incremental

    def _session(self, user: Hashable) -> Session:
        session = self._sessions.pop(user, None) or Session(self._recommender, self._histories.get(user, []))
        self._sessions[user] = session
        self._evict()
        return session

    def _evict(self) -> None:
        while len(self._sessions) > self._max_states:
            self._sessions.popitem(last=False)
