"""Experiments and the outcomes of their answers."""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, and_, func, insert, select, update

from ssd4rec.service.ids import now
from ssd4rec.service.store.tables import counters, events, experiments, recommendations


class Experiment(NamedTuple):
    """Two versions of the model that are compared: a row of the table, in the order of its columns."""

    name: str
    kind: str
    control: str
    treatment: str
    share: float
    started: int
    ended: int | None = None


def start_experiment(connection: Connection, experiment: Experiment) -> Experiment | None:
    """Store a new experiment, unless one is running; return the running one or None."""
    connection.execute(select(counters).where(counters.c.name == "items").with_for_update())  # processes take turns on PostgreSQL
    if (running := running_experiment(connection)) is not None:
        return running
    connection.execute(insert(experiments), experiment._asdict())
    return None


def running_experiment(connection: Connection) -> Experiment | None:
    """Return the experiment that has not ended."""
    row = connection.execute(select(experiments).where(experiments.c.ended.is_(None))).first()
    return None if row is None else Experiment(*row)


def find_experiment(connection: Connection, name: str) -> Experiment | None:
    """Return an experiment by its name."""
    row = connection.execute(select(experiments).where(experiments.c.name == name)).first()
    return None if row is None else Experiment(*row)


def list_experiments(connection: Connection) -> list[Experiment]:
    """Return all experiments, the newest first."""
    return [Experiment(*row) for row in connection.execute(select(experiments).order_by(experiments.c.started.desc()))]


def end_experiment(connection: Connection, name: str) -> None:
    """End an experiment, if it is running."""
    query = update(experiments).where(experiments.c.name == name, experiments.c.ended.is_(None))
    connection.execute(query.values(ended=now()))


def exposures(connection: Connection, variants: list[str]) -> dict[str, tuple[int, int]]:
    """Return for each variant how many answers were given, and to how many users."""
    columns = (recommendations.c.variant, func.count(), func.count(recommendations.c.user_key.distinct()))
    query = select(*columns).where(recommendations.c.variant.in_(variants)).group_by(recommendations.c.variant)
    return {variant: (answers, users) for variant, answers, users in connection.execute(query)}


def clicks(connection: Connection, variants: list[str]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (recommendation id, variant, request, items, item of the event) for each event that names its recommendation."""
    shown = recommendations.c
    query = (
        select(shown.recommendation_id, shown.variant, shown.request, shown["items"], events.c.item_id)
        .join(events, and_(events.c.recommendation_id == shown.recommendation_id, events.c.user_key == shown.user_key))
        .where(shown.variant.in_(variants))
    )
    yield from (tuple(row) for row in connection.execute(query))


def next_events(connection: Connection, variants: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (variant, items, item of the user's next event) for each answer that an event of its user followed."""
    shown = recommendations.c
    query = (
        select(shown.variant, shown["items"], events.c.item_id)
        .join(events, and_(events.c.user_key == shown.user_key, events.c.position == shown.position + 1))
        .where(shown.variant.in_(variants))
    )
    yield from (tuple(row) for row in connection.execute(query))
