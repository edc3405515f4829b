"""Answer queries: read the state of the user, apply the filters, take the best items."""

import asyncio
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection

from ssd4rec.service import metrics
from ssd4rec.service.ids import MICROSECONDS
from ssd4rec.service.item_filters import ItemFilters
from ssd4rec.service.problems import Problem, invalid, not_found
from ssd4rec.service.schemas import RecommendationsIn
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.states import CurrentState, States
from ssd4rec.service.store.connect import Reader
from ssd4rec.service.store.items import items_version
from ssd4rec.service.store.users import History, history_of, read_history
from ssd4rec.service.user_state import RequestMoment, ScoreJob, UserState
from ssd4rec.serving.topk import TopK

FEW_EVENTS = 4  # that a cached state has not read, for an answer that others need not wait for
LARGEST_KEPT, KEPT = 100, 3  # items of an answer that a state keeps, and answers of a state

AnyFuture = Future[Any] | asyncio.Future[Any]


@dataclass(eq=False)
class LoadedModel:
    """A model with what the process caches for it. Any thread may use it."""

    model: ServedModel
    states: States
    filters: ItemFilters
    unread: Sequence[str] = ()  # recently active users whose states are to be read in the background


@dataclass(frozen=True, slots=True)
class Query:
    """A request to the scorer."""

    body: RecommendationsIn
    now: int  # when the request arrived, in microseconds since 1970
    version: str | None = None  # of the model; None: the active one
    # of a next page
    user_key: int | None = None
    position: int | None = None
    earlier: tuple[str, ...] = ()

    @property
    def current_user(self) -> str | None:
        """The stored user whose newest state answers it; None: it is answered from another history."""
        return self.body.user_id if self.user_key is None and self.body.as_of is None else None


class ItemRow(NamedTuple):
    """One recommended item."""

    item_id: str
    title: str | None
    score: float


@dataclass(frozen=True)
class Prepared:
    """A query whose history is read."""

    job: ScoreJob
    user_key: int | None
    position: int
    moment: RequestMoment | None  # which the model has read; None: the time is not known, or the model does not read it
    ignored: int  # ids of `allow` that the catalog does not contain
    same: Hashable | None  # equal for queries with the same answer from a state; None: the answer is not kept


@dataclass(frozen=True)
class Answer:
    """The best items for a query."""

    model: ServedModel
    prepared: Prepared
    best: TopK
    rows: list[ItemRow]  # the best first

    @property
    def state(self) -> UserState:
        """The state of the history."""
        return self.prepared.job.state


def prepare(
    reader: Reader, loaded: LoadedModel, query: Query, *, few_events: int | None = None, longest: int | None = None
) -> Prepared | None:
    """Read the history of a query and find what may be recommended to it.

    Args:
        reader: of the store.
        loaded: the model that answers.
        query: the request.
        few_events: see `States.current`.
        longest: see `States.current`.

    Returns:
        None: more than `few_events` or `longest` are to be read.

    Raises:
        Problem: 404, no such user; 422, an item is unknown. Both where the query wants it so. 422, see `moment_of`.
    """
    began = time.perf_counter()
    model, body = loaded.model, query.body
    with reader.reading() as connection:
        if query.current_user is not None:
            current = loaded.states.current(connection, query.current_user, few_events, longest)
        else:
            current = _state_of(connection, model, query) if few_events is None else None
        if current is None:
            return None
        loaded.filters.refresh(connection, current.items_version)
    metrics.STATE_SECONDS.observe(time.perf_counter() - began)
    state = current.state
    if body.user_id is not None and current.user_key is None and body.unknown_items == "raise":
        raise not_found("user", body.user_id)
    if state.unknown and body.unknown_items == "raise":
        raise Problem(
            422,
            "unknown_items",
            f"{state.unknown} of {len(state.indices)} items of the history are not in the catalog of the model; "
            f'leave them out, or choose unknown_items="skip" or "popular"',
        )
    moment = moment_of(model, body.at, query.now if body.as_of is None else body.as_of, current.last_event)
    state = model.at(state, moment)
    began = time.perf_counter()
    # first: a change of the items meanwhile makes the answer newer than what it is kept as
    same = None if moment else _same(loaded, query)
    any_of, none_of = (body.categories.any, body.categories.none) if body.categories else (None, None)
    excluded = loaded.filters.excluded(body.allow, [*(body.deny or ()), *query.earlier], any_of, none_of)
    metrics.FILTER_SECONDS.observe(time.perf_counter() - began)
    ignored = 0 if body.allow is None else int((model.indices(body.allow) == 0).sum())
    job = ScoreJob(state, body.k, body.exclude_seen, excluded, body.unknown_items == "popular")
    return Prepared(job, current.user_key, current.position, moment, ignored, same)


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
    body, filters = query.body, loaded.filters
    if body.allow is not None or body.deny or query.earlier or body.categories is not None:
        return None
    if not loaded.states.keep_answers or filters.depends_on_time or body.k > LARGEST_KEPT:
        return None
    return body.k, body.exclude_seen, body.unknown_items == "popular", filters.version


def _state_of(connection: Connection, model: ServedModel, query: Query) -> CurrentState:
    """Read the history of a query that no cached state answers."""
    body, version = query.body, items_version(connection)
    key, position, history = query.user_key, query.position or 0, History(body.history or [], body.last_event)
    if key is not None:
        history = history_of(connection, key, body.as_of, query.position)
    elif body.user_id is not None:
        key, position, history = read_history(connection, body.user_id, body.as_of)
    return CurrentState(key, position, version, history.last_event, model.read(model.indices(history.items)))


def answer_all(loaded: LoadedModel, jobs: Sequence[tuple[AnyFuture, Prepared]]) -> None:
    """Give futures their answers, which are scored together, or the error that scoring ended with."""
    try:
        answers = _answers(loaded, [prepared for _, prepared in jobs])
    except Exception as error:  # noqa: BLE001 - such as scores that are not finite
        for future, _ in jobs:
            fail(future, error)
        return
    for (future, _), answer in zip(jobs, answers, strict=True):
        finish(future, answer)
    metrics.STATE_BYTES.set(loaded.states.bytes)


def finish(future: AnyFuture, result: Answer | None) -> None:
    """Give a future its result, unless the client has gone."""
    with suppress(InvalidStateError, asyncio.InvalidStateError):
        future.set_result(result)


def fail(future: AnyFuture, error: Exception) -> None:
    """Give a future its error, unless the client has gone."""
    with suppress(InvalidStateError, asyncio.InvalidStateError):
        future.set_exception(error)


def _answers(loaded: LoadedModel, prepared: Sequence[Prepared]) -> list[Answer]:
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
    return [
        Answer(loaded.model, each, best, _rows(loaded, best))
        for each, best in zip(prepared, results, strict=True)
        if best is not None
    ]


def _rows(loaded: LoadedModel, best: TopK) -> list[ItemRow]:
    ids, title = loaded.model.ids, loaded.filters.title
    rows = zip(best.items.tolist(), best.scores.tolist(), strict=True)
    return [ItemRow(ids[index - 1], title(index), score) for index, score in rows]


def _remember(prepared: Prepared, best: TopK) -> None:
    if prepared.same is not None:
        answered = prepared.job.state.best
        if len(answered) >= KEPT:
            answered.clear()
        answered[prepared.same] = best
