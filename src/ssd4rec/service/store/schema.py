"""Schema versions: create the tables, bring an older store up to date, refuse a newer one."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from ssd4rec.service.store.connect import StoreError, translated, writing
from ssd4rec.service.store.tables import metadata

_LOCK = 7_304_195  # any number: two servers that start together migrate one after the other
_HISTORY = "alembic_version"


def schema_version(engine: Engine) -> str | None:
    """Return the version of the schema that a store has; None for an empty database."""
    with translated(engine), engine.connect() as connection:
        return _version(connection)


def newest_version() -> str:
    """Return the version of the schema that this program writes."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None  # noqa: S101 - there is a first migration
    return head


def migrate(engine: Engine) -> None:
    """Create the tables of a new store, or bring an older one to the newest schema, in one transaction.

    Raises:
        StoreError: the store is of a newer version, is something else's database, or cannot be written.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        current = _version(connection)
        if current == newest_version():
            return
        _check_known(connection, current)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check_schema(engine: Engine) -> None:
    """Refuse a store of another schema version.

    Raises:
        StoreError: it is empty, older or newer.
    """
    current, newest = schema_version(engine), newest_version()
    if current != newest:
        raise StoreError(
            "store_schema",
            f"the store has schema {current or 'none'}, this ssd4rec reads {newest}; ssd4rec serve updates an older one",
        )


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _check_known(connection: Connection, current: str | None) -> None:
    revisions = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if current is not None and current not in revisions:
        raise StoreError(
            "store_schema",
            f"the store has schema {current}, which this ssd4rec does not know (newest: {newest_version()}); "
            f"it was written by a newer version: update ssd4rec, or name another store",
        )
    strange = set(inspect(connection).get_table_names()) & set(metadata.tables)
    if current is None and strange:
        raise StoreError(
            "store_schema",
            f"the database has tables named {', '.join(sorted(strange))} that ssd4rec did not create; name another database",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    return config
