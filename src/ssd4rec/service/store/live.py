"""Sums of live metrics: added by every process, read as totals of a window or as a series."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, delete, func, select

from ssd4rec.service.store.bulk import upsert
from ssd4rec.service.store.tables import live_sums

BUCKET_SECONDS = 300


class SumKey(NamedTuple):
    """The place of a sum: the primary key of its row."""

    model: str
    against: str  # the experiment in which two models were compared; "": the sum is of one model alone
    bucket: int  # seconds since 1970, a multiple of BUCKET_SECONDS
    name: str


def add_sums(connection: Connection, sums: Mapping[SumKey, float]) -> None:
    """Add values to the stored sums."""
    rows = [{**key._asdict(), "value": value} for key, value in sorted(sums.items())]
    if not rows:
        return
    new = upsert(connection, live_sums)
    added = {"value": live_sums.c.value + new.excluded.value}
    connection.execute(new.on_conflict_do_update(index_elements=SumKey._fields, set_=added), rows)


def totals(connection: Connection, since: int) -> dict[str, dict[str, float]]:
    """Return for each model the sums by name since a time in seconds."""
    query = (
        select(live_sums.c.model, live_sums.c.name, func.sum(live_sums.c.value))
        .where(live_sums.c.bucket >= since, live_sums.c.against == "")
        .group_by(live_sums.c.model, live_sums.c.name)
    )
    result: dict[str, dict[str, float]] = {}
    for model, name, value in connection.execute(query):
        result.setdefault(model, {})[name] = value
    return result


def experiment_sums(connection: Connection, experiment: str) -> dict[str, float]:
    """Return the sums of an experiment by name, whenever they were added: the clock may have been set back meanwhile."""
    query = select(live_sums.c.name, func.sum(live_sums.c.value)).where(live_sums.c.against == experiment)
    return {row[0]: row[1] for row in connection.execute(query.group_by(live_sums.c.name))}


def series(connection: Connection, model: str, since: int) -> dict[int, dict[str, float]]:
    """Return the sums of a model by bucket, the oldest first."""
    columns = (live_sums.c.bucket, live_sums.c.name, live_sums.c.value)
    query = select(*columns).where(live_sums.c.model == model, live_sums.c.against == "", live_sums.c.bucket >= since)
    result: dict[int, dict[str, float]] = {}
    for bucket, name, value in connection.execute(query.order_by(live_sums.c.bucket)):
        result.setdefault(bucket, {})[name] = value
    return result


def remove_old_sums(connection: Connection, before: int) -> int:
    """Remove the sums before a time in seconds; return how many."""
    return connection.execute(delete(live_sums).where(live_sums.c.bucket < before)).rowcount
