"""The histories of many users behind one interface: a state for the long ones in use, the others read again."""

from collections import OrderedDict
from collections.abc import Hashable

from ssd4rec.errors import ConfigError, DataError
from ssd4rec.serving.recommender import Ids, Recommendations, Recommender, UnknownItems, as_ids
from ssd4rec.serving.session import Session

KEEP_FROM = 50  # events: reading these again costs about two steps, and their ids are a hundredth of a state
KEPT = 1024  # states in memory


class Sessions:
    """Sequences that grow, of many users.

    All ids are kept: a list a user, eight bytes an event beside the ids themselves. Of the users with `keep_from` events and
    more, the `kept` last asked for also have a `Session`: sixteen bytes more an event, and a state that takes up each new event
    at a constant price. Any other history is read again when it is asked for. The answers are those of
    `Recommender.recommend` either way.

    It is for one thread at a time, asking included, which may make and drop states: hold a lock around it, or let each thread
    have `Sessions` of its own over a share of the users.

    Args:
        recommender: of a finished model.
        keep_from: events from which on a history gets a state.
        kept: states at most; the one that was not asked for the longest goes first.

    Raises:
        ConfigError: `keep_from` or `kept` is negative.
    """

    def __init__(self, recommender: Recommender, *, keep_from: int = KEEP_FROM, kept: int = KEPT) -> None:
        if keep_from < 0 or kept < 0:
            raise ConfigError(f"keep_from and kept are counts, 0 or more; found {keep_from} and {kept}")
        self._recommender = recommender
        self._keep_from = keep_from
        self._kept = kept
        self._histories: dict[Hashable, list[object]] = {}
        self._sessions: OrderedDict[Hashable, Session] = OrderedDict()  # the one last asked for at the end

    def __len__(self) -> int:
        """How many users."""
        return len(self._histories)

    @property
    def kept(self) -> tuple[Hashable, ...]:
        """The users who have a state, the one last asked for at the end."""
        return tuple(self._sessions)

    @property
    def bytes(self) -> int:
        """The size of all states, in bytes; ids and their numbers are not counted."""
        return sum(session.bytes for session in self._sessions.values())

    def history(self, user: Hashable) -> tuple[object, ...]:
        """A user's item ids so far, oldest first; none for a new user."""
        return tuple(self._histories.get(user, ()))

    def add(self, user: Hashable, *items: object) -> None:
        """More events of a user, oldest first.

        Raises:
            DataError: an item is no id.
        """
        more = as_ids(items)
        self._histories.setdefault(user, []).extend(more)
        if session := self._sessions.get(user):
            for item in more:
                session.add(item)

    def recommend(
        self,
        user: Hashable,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Ids | None = None,
        deny: Ids | None = None,
        unknown_items: UnknownItems = "skip",
    ) -> Recommendations:
        """What comes next for a user; arguments and errors are those of `Recommender.recommend`."""
        if self._has_state(user):
            return self._session(user).recommend(
                k, exclude_seen=exclude_seen, allow=allow, deny=deny, unknown_items=unknown_items
            )
        (found,) = self._recommender.recommend(
            [self._histories.get(user, [])],
            k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            unknown_items=unknown_items,
        )
        return found

    def put(self, user: Hashable, session: Session) -> None:
        """Take over a user's session, e.g. one that `Session.load` read; it takes the place of what was known of the user.

        Raises:
            DataError: it is a session of another recommender.
        """
        if session.recommender is not self._recommender:
            raise DataError("the session is of another recommender; load it with the one that these sessions were made with")
        self.forget(user)
        self._histories[user] = list(session.history)
        if self._has_state(user):
            self._sessions[user] = session.copy()
            self._drop()

    def forget(self, user: Hashable) -> None:
        """Drop all that is known of a user."""
        self._histories.pop(user, None)
        self._sessions.pop(user, None)

    def _has_state(self, user: Hashable) -> bool:
        long = len(self._histories.get(user, ())) >= self._keep_from
        return self._kept > 0 and long and self._recommender.supports_incremental

    def _session(self, user: Hashable) -> Session:
        session = self._sessions.pop(user, None) or Session(self._recommender, self._histories.get(user, []))
        self._sessions[user] = session
        self._drop()
        return session

    def _drop(self) -> None:
        while len(self._sessions) > self._kept:
            self._sessions.popitem(last=False)
