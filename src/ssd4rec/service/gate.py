"""The gate before an activation: checks that a version must pass before it answers."""

import json
import logging
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, select

from ssd4rec.errors import DivergedError, SSD4RecError
from ssd4rec.service.ids import MICROSECONDS
from ssd4rec.service.live import gain
from ssd4rec.service.schemas import Out
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.store.tables import events, recommendations, users
from ssd4rec.service.user_state import RequestMoment, ScoreJob

USERS = 300  # whose last events are ranked
LONGEST = 1000  # newest events of a history that are read
FEWEST = 20  # events; fewer decide nothing
REQUESTS = 100  # recorded ones that are answered again
HISTORIES = 16  # after which all scores are looked at

Event = tuple[str, int]  # item id, and time in microseconds since 1970

log = logging.getLogger(__name__)


class Check(Out):
    """One check of the gate before an activation."""

    name: str
    passed: bool
    detail: str


def check_version(
    candidate: ServedModel, champion: ServedModel | None, connection: Connection | None, margin: float
) -> list[Check]:
    """Check a version before it answers.

    Args:
        candidate: the version.
        champion: what answers now; None: nothing.
        connection: to read the store; None: there is none, and the checks that need it are left out.
        margin: by how much the NDCG@10 of the candidate may be lower.
    """
    checks = [check_scores(candidate)]
    if champion is not None:
        checks.append(_catalogs(candidate, champion))
    if checks[0].passed and connection is not None:
        if champion is not None:
            checks.append(_held_out(candidate, champion, connection, margin))
        checks.append(_recorded(candidate, connection))
    return checks


def check_scores(model: ServedModel) -> Check:
    """Check that all scores are finite, after each of some histories that begin all over the catalog."""
    size = len(model.ids)
    starts = np.unique(np.linspace(1, size, HISTORIES).astype(np.int64))
    states = model.read_many([np.arange(start, min(start + 3, size + 1), dtype=np.int64) for start in starts.tolist()])
    jobs = [ScoreJob(state, size, exclude_seen=False, excluded=None, only_known=False) for state in states]
    try:
        finite = all(np.isfinite(best.scores).all() for best in model.score(jobs))
    except DivergedError:
        finite = False
    detail = f"after {len(jobs)} histories" if finite else "some scores are not finite; train the model again"
    return Check(name="finite scores", passed=finite, detail=detail)


def _catalogs(candidate: ServedModel, champion: ServedModel) -> Check:
    new, old = set(candidate.ids), set(champion.ids)
    detail = f"{len(new):,} items: {len(new - old):,} were added and {len(old - new):,} removed since {champion.version}"
    shared = bool(new & old)
    return Check(name="catalog", passed=shared, detail=detail if shared else f"{detail}; no item is in both")


def _held_out(candidate: ServedModel, champion: ServedModel, connection: Connection, margin: float) -> Check:
    """Rank the newest event of recent users by both models."""
    saved = int(candidate.modified * MICROSECONDS)
    examples = _last_events(connection, after=saved)
    source = "that arrived after the version was saved"
    if len(examples) < FEWEST:
        examples, source = _last_events(connection), "that the training of the version may have read"
    if len(examples) < FEWEST:
        return Check(name="held-out NDCG@10", passed=True, detail=f"left out: only {len(examples)} users have two or more events")
    before, after = (_mean_ndcg(model, examples) for model in (champion, candidate))
    detail = (
        f"{after:.4f} against {before:.4f} of {champion.version} on the last events of {len(examples)} users {source}; "
        f"at most {margin:g} lower is allowed"
    )
    return Check(name="held-out NDCG@10", passed=after >= before - margin, detail=detail)


def _last_events(connection: Connection, after: int | None = None) -> list[list[Event]]:
    """Histories of recent users with at least two events; those whose newest event arrived after a time."""
    query = select(users.c.user_key).where(users.c.last_received.is_not(None), users.c.events > 1)
    if after is not None:
        query = query.where(users.c.last_received > after)
    keys = connection.scalars(query.order_by(users.c.last_received.desc()).limit(USERS)).all()
    histories = [_newest_events(connection, key) for key in keys]
    return [history for history in histories if len(history) > 1]  # a user may have been erased meanwhile


def _mean_ndcg(model: ServedModel, histories: Sequence[Sequence[Event]]) -> float:
    """A history of which the model knows nothing counts as a miss."""
    indices = [model.indices([item for item, _ in history]) for history in histories]
    moments = [RequestMoment(target, last) for *_, (_, last), (_, target) in histories]
    states = model.read_many([each[:-1] for each in indices])
    timed = [model.at(state, moment) for state, moment in zip(states, moments, strict=True)]
    ranks = model.rank_targets(timed, np.array([each[-1] for each in indices]))
    return sum(gain(rank)[1] for rank in ranks) / len(histories)


def _recorded(candidate: ServedModel, connection: Connection) -> Check:
    """Answer the newest recorded requests again."""
    query = select(recommendations.c.user_key, recommendations.c.request).order_by(recommendations.c.created.desc())
    rows = connection.execute(query.limit(REQUESTS)).all()
    bodies, histories = [json.loads(row.request)["body"] for row in rows], []
    for row, body in zip(rows, bodies, strict=True):
        items = body.get("history", [])
        if row.user_key is not None:
            items = [item for item, _ in _newest_events(connection, row.user_key)]
        histories.append(candidate.indices(items))
    jobs = []
    for state, body in zip(candidate.read_many(histories), bodies, strict=True):
        only_known = body.get("unknown_items") == "popular"
        jobs.append(ScoreJob(state, body.get("k", 10), body.get("exclude_seen", True), candidate.excluded, only_known=only_known))
    try:
        answers = candidate.score(jobs)
    except SSD4RecError as error:
        return Check(name="recorded requests", passed=False, detail=f"one of {len(jobs)} cannot be answered: {error}")
    for job, best in zip(jobs, answers, strict=True):
        if not len(best.items) and len(job.state.indices) < len(candidate.ids):
            return Check(name="recorded requests", passed=False, detail=f"one of {len(jobs)} is answered without any item")
    return Check(name="recorded requests", passed=True, detail=f"{len(jobs)} were answered")


def _newest_events(connection: Connection, user_key: int) -> list[Event]:
    query = select(events.c.item_id, events.c.timestamp).where(events.c.user_key == user_key)
    query = query.order_by(events.c.timestamp.desc(), events.c.position.desc()).limit(LONGEST)
    return [(row.item_id, row.timestamp) for row in connection.execute(query)][::-1]
