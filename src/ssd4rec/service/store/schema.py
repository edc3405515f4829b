"""Schema versions: create the tables, upgrade an older store, refuse a newer one."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, insert, inspect, text

from ssd4rec.service.store.connect import StoreError, translated, writing
from ssd4rec.service.store.tables import counters, metadata

_LOCK = 7_304_195  # any number, but the same in every process: servers that start together migrate one after the other


def migrate(engine: Engine) -> None:
    """Create the tables of a new store, or upgrade an older one to the newest schema, in one transaction.

    Raises:
        StoreError: the store has a newer schema, is the database of another program, or cannot be written.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        current = _version(connection)
        if current == scripts.get_current_head():
            return
        _check_known(connection, current, scripts)
        config.attributes["connection"] = connection
        if current is not None:
            command.upgrade(config, "head")
            return
        metadata.create_all(connection)
        connection.execute(insert(counters), {"name": "items", "value": 0})
        command.stamp(config, "head")


def check_schema(engine: Engine) -> None:
    """Check that a store has the schema version of this program.

    Raises:
        StoreError: the store is empty, has an older or newer schema, or cannot be read.
    """
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    with translated(engine), engine.connect() as connection:
        current = _version(connection)
    if current != newest:
        raise StoreError(
            "store_schema",
            f"the store has schema {current or 'none'}, expected {newest}; `ssd4rec serve` upgrades an older store",
        )


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _check_known(connection: Connection, current: str | None, scripts: ScriptDirectory) -> None:
    revisions, newest = {script.revision for script in scripts.walk_revisions()}, scripts.get_current_head()
    if current is not None and current not in revisions:
        raise StoreError(
            "store_schema",
            f"the store has schema {current}, which this version of ssd4rec does not know (its newest is {newest}); "
            f"a newer version wrote it: update ssd4rec, or choose another store",
        )
    foreign = set(inspect(connection).get_table_names()) & set(metadata.tables)
    if current is None and foreign:
        raise StoreError(
            "store_schema",
            f"the database has tables named {', '.join(sorted(foreign))} that ssd4rec did not create; choose another database",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    return config
