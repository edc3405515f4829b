"""Read the event store of the service as a table of interactions, to train on it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from ssd4rec.data.interactions import Interactions, read_interactions
from ssd4rec.errors import BackendError, DataError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

PREFIXES = ("sqlite:///", "postgresql://", "postgresql+psycopg://")
ROWS_AT_ONCE = 100_000
SCHEMA = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "received": pl.Int64}
EVENTS = """
    SELECT u.user_id, e.item_id, e.timestamp, e.received FROM events AS e JOIN users AS u ON u.user_key = e.user_key
    ORDER BY e.user_key, e.position
"""
TITLES = "SELECT item_id, title FROM items WHERE title IS NOT NULL"


def is_store(address: str) -> bool:
    """Whether a text is the address of a store rather than the name of a file or data set."""
    return address.startswith(PREFIXES)


def read_store(address: str) -> tuple[Interactions, pl.DataFrame | None]:
    """Read all events of a store, and the titles of its items.

    The events are those of one moment, whatever a running service writes meanwhile. The source of the report names how many
    there were and when the newest one arrived, which tells a later training from this one.

    Args:
        address: sqlite:///… or postgresql://….

    Returns:
        The interactions, ids as text, events at the same time in the order of their arrival; and titles (id, title), or None.

    Raises:
        BackendError: SQLAlchemy or the driver is not installed.
        DataError: the store cannot be read, or has no events.
    """
    try:
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BackendError("reading a store needs SQLAlchemy; install it with pip install 'ssd4rec[serve]'") from error
    engine = _engine(address)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with engine.connect() as connection:
            events = _read(connection, EVENTS, SCHEMA)
            titles = _read(connection, TITLES, {"id": pl.String, "title": pl.String})
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise DataError(f"{shown} cannot be read as a store of events: {reason}; give the --store of ssd4rec serve") from error
    finally:
        engine.dispose()
    if not len(events):
        raise DataError(f"{shown} contains no events; import some: ssd4rec events import FILE --store URL")
    interactions = read_interactions(events.select("user_id", "item_id", pl.col("timestamp").cast(pl.Datetime("us"))))
    newest = datetime.fromtimestamp(int(events["received"].to_numpy().max()) / 1e6, UTC).isoformat(timespec="seconds")
    source = f"{shown} ({len(events):,} events, the newest received {newest})"
    return Interactions(interactions.table, replace(interactions.read, source=source)), titles if titles.height else None


def _engine(address: str) -> "Engine":
    from sqlalchemy import create_engine  # noqa: PLC0415 - an extra
    from sqlalchemy.engine import make_url  # noqa: PLC0415
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        url = make_url(address)
        if url.get_backend_name() == "sqlite":
            if not url.database or not Path(url.database).is_file():
                raise DataError(f"{address} cannot be read: the file does not exist; give the --store of ssd4rec serve")
            return create_engine(url)
        return create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="REPEATABLE READ")
    except ArgumentError as error:
        raise DataError(f"{address!r} is not the address of a store; expected sqlite:///… or postgresql://…") from error
    except ImportError as error:
        raise BackendError(f"this store needs the package {error.name}; install it with pip install 'ssd4rec[serve]'") from error


def _read(connection: "Connection", query: str, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    from sqlalchemy import text  # noqa: PLC0415 - an extra

    rows = connection.execution_options(stream_results=True).execute(text(query))
    parts = [pl.DataFrame(list(map(tuple, part)), schema, orient="row") for part in rows.partitions(ROWS_AT_ONCE)]
    return pl.concat([pl.DataFrame(schema=schema), *parts])
