"""`keys create|list|revoke`: who may use the service."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ssd4rec.cli import console, options
from ssd4rec.cli.serve import require_serve
from ssd4rec.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Engine


def create_key(
    name: Annotated[str, typer.Argument(help="Purpose of the key, e.g. the name of a program.")],
    *,
    store: options.Store,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="events, read or admin; repeatable. Default: read.")] = None,
    as_json: options.Json = False,
) -> None:
    """Create a key and print it, once: the store keeps its SHA-256 alone."""
    engine = _open(store)
    from ssd4rec.service.store.connect import writing
    from ssd4rec.service.store.keys import SCOPES
    from ssd4rec.service.store.keys import create_key as create

    scopes = tuple(dict.fromkeys(scope or ["read"]))
    if strange := [each for each in scopes if each not in SCOPES]:
        raise ConfigError(f"{strange[0]!r} is not a scope; choose from {', '.join(SCOPES)}")
    with writing(engine) as connection:
        key_id, token = create(connection, name, scopes)
    if as_json:
        console.print_json({"key_id": key_id, "key": token, "scopes": scopes})
        return
    console.out.print(token, soft_wrap=True)
    console.err.print(f"key {key_id} with the scopes {', '.join(scopes)}; it is not shown again")


def list_keys(*, store: options.Store, as_json: options.Json = False) -> None:
    """Show the keys of a store, without the keys themselves."""
    engine = _open(store)
    from ssd4rec.service.store.connect import reading
    from ssd4rec.service.store.keys import list_keys as rows_of

    with reading(engine) as connection:
        rows = rows_of(connection)
    if as_json:
        console.print_json([{"key_id": r.key_id, "name": r.name, "scopes": r.scopes.split(), "revoked": r.revoked} for r in rows])
        return
    table = console.table("", "key", "name", "scopes", "created", "revoked")
    for row in rows:
        table.add_row(row.key_id, row.name, row.scopes, _date(row.created), _date(row.revoked))
    console.out.print(table)


def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The short id that `keys list` shows.")], *, store: options.Store
) -> None:
    """Revoke a key; running services refuse it after a second."""
    engine = _open(store)
    from ssd4rec.service.store.connect import writing
    from ssd4rec.service.store.keys import revoke_key as revoke

    with writing(engine) as connection:
        revoked = revoke(connection, key_id)
    if not revoked:
        raise ConfigError(f"key {key_id!r} does not exist or is revoked; ssd4rec keys list shows all keys")
    console.out.print(f"revoked {key_id}")


def _open(store: str) -> "Engine":
    require_serve()
    from ssd4rec.service.store.connect import open_engine
    from ssd4rec.service.store.schema import migrate

    engine = open_engine(store)
    migrate(engine)
    return engine


def _date(microseconds: int | None) -> str:
    return "" if microseconds is None else datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(" ", "minutes")
