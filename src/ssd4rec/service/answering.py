"""Answer queries: read the state of the user, apply the filters, take the best items."""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from ssd4rec.service import metrics
from ssd4rec.service.ids import MICROSECONDS
from ssd4rec.service.item_filters import ItemFilters
from ssd4rec.service.problems import Problem, invalid, not_found
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.states import States
from ssd4rec.service.store.connect import Reader
from ssd4rec.service.store.items import items_version
from ssd4rec.service.store.users import History, history_of, read_history
from ssd4rec.service.user_state import Indices, RequestMoment, ScoreJob
from ssd4rec.serving.topk import TopK

FEW_EVENTS = 4  # that a cached state has not read, for an answer that others need not wait for
LARGEST_KEPT, KEPT = 100, 3  # items of an answer that a state keeps, and answers of a state


@dataclass
class LoadedModel:
    """A model with what the process caches for it. Any thread may use it."""

    model: ServedModel
    states: States
    filters: ItemFilters
    unread: Sequence[str] = ()  # recently active users whose states are to be read in the background


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
    now: int = field(kw_only=True)  # when the request arrived, in microseconds since 1970
    at: int | None = None  # when the items are wanted; None: as of then, or now
    last_event: int | None = None  # when the last event of `history` was; None: not known
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
    moment: RequestMoment | None  # which the model has read; None: the time is not known, or the model does not read it
    indices: Indices  # of the history, 0 for unknown items
    unknown: int  # events of items that the catalog does not contain
    ignored: int  # ids of `allow` that the catalog does not contain

    @cached_property
    def rows(self) -> list[ItemRow]:
        """The items, the best first."""
        ids = self.model.ids
        rows = zip(self.best.items.tolist(), self.titles, self.best.scores.tolist(), strict=True)
        return [ItemRow(ids[index - 1], title, score) for index, title, score in rows]


@dataclass(frozen=True)
class Prepared:
    """A query whose history is read."""

    job: ScoreJob
    user_key: int | None
    position: int
    moment: RequestMoment | None
    unknown: int
    ignored: int
    same: Hashable | None  # equal for queries with the same answer from a state; None: the answer is not kept


def prepare(
    reader: Reader, loaded: LoadedModel, query: Query, *, few_events: int | None = None, longest: int | None = None
) -> Prepared | None:
    """Read the history of a query and find what may be recommended to it.

    Args:
        reader: of the store.
        loaded: the model that answers.
        query: what is asked for.
        few_events: read at most so many events, after a cached state; None: as many as there are.
        longest: do not read whole histories of users with more events; None: read any.

    Returns:
        None: more than `few_events` or `longest` are to be read.

    Raises:
        Problem: 404, no such user; 422, an item is unknown. Both where the query wants it so. 422, see `moment_of`.
    """
    began = time.perf_counter()
    model = loaded.model
    with reader.reading() as connection:
        if query.user_id is not None and query.as_of is None:
            current = loaded.states.current(connection, query.user_id, few_events, longest)
            if current is None:
                return None
            version, key, position, state = current.items_version, current.user_key, current.position, current.state
            last_event = current.last_event
        elif few_events is not None:
            return None
        else:
            version = items_version(connection)
            key, position, history = _history_of(connection, query)
            state, last_event = model.read(model.indices(history.items)), history.last_event
        loaded.filters.refresh(connection, version)
    metrics.STATE_SECONDS.observe(time.perf_counter() - began)
    if query.user_id is not None and key is None and query.unknown_items == "raise":
        raise not_found("user", query.user_id)
    unknown = state.unknown
    if unknown and query.unknown_items == "raise":
        raise Problem(
            422,
            "unknown_items",
            f"{unknown} of {len(state.indices)} items of the history are not in the catalog of the model; "
            f'leave them out, or choose unknown_items="skip" or "popular"',
        )
    moment = moment_of(model, query.at, query.now if query.as_of is None else query.as_of, last_event)
    state = model.at(state, moment)
    began = time.perf_counter()
    # first: a change of the items meanwhile makes the answer newer than what it is kept as
    same = None if moment else _same(loaded, query)
    deny = [*(query.deny or ()), *query.earlier]
    excluded = loaded.filters.excluded(query.allow, deny, query.any_of, query.none_of)
    metrics.FILTER_SECONDS.observe(time.perf_counter() - began)
    ignored = 0 if query.allow is None else int((model.indices(query.allow) == 0).sum())
    job = ScoreJob(state, query.k, query.exclude_seen, excluded, query.unknown_items == "popular")
    return Prepared(job, key, position, moment, unknown, ignored, same)


def moment_of(model: ServedModel, at: int | None, now: int, last_event: int | None) -> RequestMoment | None:
    """Return the time of a request as the model reads it; all times are in microseconds since 1970.

    Args:
        model: answers the request.
        at: when the items are wanted; None: now.
        now: by the clock of the service. An event may have a later time: the clock of a client is ahead.
        last_event: when the last event was; None: there is none, or its time is not known.

    Returns:
        None: the model does not read the time, or the last event is not known.

    Raises:
        Problem: 422, `at` is before the last event.
    """
    if last_event is None:
        return None
    if at is not None and at < last_event:
        seconds = (last_event - at) / MICROSECONDS
        raise invalid("/at", f"it is {seconds:,.0f} seconds before the last event of the history; name a later time")
    if not model.reads_request_time:
        return None
    return RequestMoment(max(now, last_event) if at is None else at, last_event)


def ignored_time(model: ServedModel, at: int | None) -> list[str]:
    """Return the warning that a model did not read the time which was named, if so."""
    if at is None or model.reads_request_time:
        return []
    return [f"at was not read: the model {model.version!r} does not read the time of a request"]


def _same(loaded: LoadedModel, query: Query) -> Hashable | None:
    """Return everything but the state that an answer depends on; None: it is the time, or lists of ids."""
    if query.allow is not None or query.deny or query.earlier or query.any_of is not None or query.none_of:
        return None
    if not loaded.states.keep_answers or loaded.filters.depends_on_time or query.k > LARGEST_KEPT:
        return None
    return query.k, query.exclude_seen, query.unknown_items == "popular", loaded.filters.version


def _history_of(connection: Any, query: Query) -> tuple[int | None, int, History]:
    if query.history is not None:
        return None, 0, History(query.history, query.last_event)
    if query.user_key is not None:
        return query.user_key, query.position or 0, history_of(connection, query.user_key, query.as_of, query.position)
    if query.user_id is not None:
        return read_history(connection, query.user_id, until_timestamp=query.as_of)
    return None, 0, History([], None)


def answers(loaded: LoadedModel, prepared: Sequence[Prepared]) -> list[Answer]:
    """Answer prepared queries; those whose state has answered the same query before are not scored again.

    Raises:
        DivergedError: a score is not finite.
    """
    began = time.perf_counter()
    results = [None if each.same is None else each.job.state.best.get(each.same) for each in prepared]
    places = [place for place, best in enumerate(results) if best is None]
    scored = loaded.model.score([prepared[place].job for place in places]) if places else []
    for place, best in zip(places, scored, strict=True):
        results[place] = best
        _remember(prepared[place], best)
    metrics.SCORE_SECONDS.observe(time.perf_counter() - began)
    return [_answer(loaded, each, best) for each, best in zip(prepared, results, strict=True) if best is not None]


def _remember(prepared: Prepared, best: TopK) -> None:
    if prepared.same is not None:
        answered = prepared.job.state.best
        if len(answered) >= KEPT:
            answered.clear()
        answered[prepared.same] = best


def _answer(loaded: LoadedModel, prepared: Prepared, best: TopK) -> Answer:
    return Answer(
        loaded.model,
        best,
        [loaded.filters.title(index) for index in best.items.tolist()],
        prepared.user_key,
        prepared.position,
        prepared.moment,
        prepared.job.state.indices,
        prepared.unknown,
        prepared.ignored,
    )
