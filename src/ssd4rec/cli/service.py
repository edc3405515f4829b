"""`serve`, `events`, `keys` and `models`: a trained model as an HTTP service, and its store, keys and versions."""

from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd4rec.cli import console, inputs, options
from ssd4rec.configs import DEFAULT_PRESET
from ssd4rec.errors import ArtifactError, BackendError, ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ssd4rec.service.gate import Check
    from ssd4rec.service.versions import Versions

ModelsArgument = Annotated[Path, typer.Argument(metavar="MODELS_DIR", help="Folder with one folder for each version.")]


def serve(
    models: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL_OR_MODELS_DIR]", help="Folder of a model, or of version folders with an active.json."),
    ] = None,
    *,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="Where events are stored; sqlite:///events.db unless configured."),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1 unless configured.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on; 8080 unless configured.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Number of processes.")] = None,
    settings: Annotated[Path | None, typer.Option("--settings", help="A TOML file with settings of the service.")] = None,
) -> None:
    """Serve a model over HTTP: it receives events and answers with recommendations.

    Settings come from a TOML file, from environment variables that start with SSD4REC_, and from these options.
    """
    require_serve()
    from ssd4rec.service.run import serve as run
    from ssd4rec.service.settings import load_settings

    flags = {"models": models, "store": store, "host": host, "port": port, "workers": workers}
    run(load_settings(settings, flags=flags))


def require_serve() -> None:
    """Check that the packages of the service are installed.

    Raises:
        BackendError: one is missing; the message says how to install them.
    """
    for package in ("alembic", "fastapi", "prometheus_client", "psycopg", "uvicorn"):
        try:
            import_module(package)
        except ImportError as error:
            message = f"the service needs the package {error.name}; install it with pip install 'ssd4rec[serve]'"
            raise BackendError(message) from error


@options.with_column_options
def import_events(
    data: options.Data,
    *,
    store: options.Store,
    event_type: Annotated[str, typer.Option("--type", help="Type of all events.")] = "view",
    reading: list[str],
    as_json: options.Json = False,
) -> None:
    """Append the interactions of DATA to a store; the same command after an interruption continues."""
    require_serve()
    from ssd4rec.config import load_config
    from ssd4rec.datasets.sources import open_source
    from ssd4rec.service.importing import import_events as run
    from ssd4rec.service.store.connect import open_engine
    from ssd4rec.service.store.schema import migrate

    inputs.check_columns(data, reading)
    interactions, _ = open_source(data, load_config(DEFAULT_PRESET, reading).data)
    engine = open_engine(store, timeout=30.0)
    try:
        migrate(engine)
        with console.progress_bar() as bar:
            imported = run(engine, interactions, event_type=event_type, progress=console.reporter(bar, "importing"))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues where it stopped") from None
    finally:
        engine.dispose()
    if as_json:
        console.print_json(asdict(imported))
        return
    if imported.resumed_at:
        console.out.print(f"{imported.resumed_at:,} events had been imported before")
    console.out.print(f"imported {imported.events:,} events of {imported.users:,} users")


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
    cells = [(row.key_id, row.name, row.scopes, _date(row.created), _date(row.revoked)) for row in rows]
    console.out.print(console.table("", ("key", "name", "scopes", "created", "revoked"), cells))


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


def list_models(models: ModelsArgument, *, as_json: options.Json = False) -> None:
    """Show the versions of a folder, and which one is active."""
    require_serve()
    from ssd4rec.service.versions import Versions

    versions = Versions(models)
    names, active = versions.names(), versions.chosen()
    if as_json:
        console.print_json([{"version": name, "active": name == active} for name in names])
        return
    cells = [(name, "yes" if name == active else "") for name in names]
    console.out.print(console.table("", ("version", "active"), cells))


def activate_model(
    models: ModelsArgument,
    version: Annotated[str, typer.Argument(help="Name of the version's folder.")],
    *,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", envvar="SSD4REC_STORE", help="Store whose events and requests the gate uses."),
    ] = None,
    margin: Annotated[float, typer.Option("--margin", min=0.0, help="How much lower the NDCG@10 may be.")] = 0.01,
    force: Annotated[bool, typer.Option("--force", help="Activate the version whatever the gate says.")] = False,
    as_json: options.Json = False,
) -> None:
    """Check a version and make it the active one; running services follow within a second.

    The gate checks that scores are finite and which items were added or removed. With a store it also ranks the last events
    of recent users by both versions, and answers recorded requests again.
    """
    require_serve()
    from ssd4rec.service.versions import FORCED, PASSED, Versions

    versions = Versions(models)
    if version not in versions.names():
        raise ArtifactError(f"{models} has no version {version!r}; it has {', '.join(versions.names()) or 'none'}")
    checks = _checks(versions, version, store, margin)
    has_passed = all(check.passed for check in checks)
    if as_json:
        console.print_json(
            {"version": version, "activated": has_passed or force, "checks": [check.model_dump() for check in checks]}
        )
    else:
        for check in checks:
            (console.out if check.passed else console.err).print(f"{check.name}: {check.detail}", soft_wrap=True)
    if not (has_passed or force):
        raise ArtifactError(f"{version} did not pass the gate; the active version stays; use --force to activate it anyway")
    versions.choose(version, PASSED if has_passed else FORCED)
    if not as_json:
        console.out.print(f"{version} is active" + ("" if has_passed else ", although it did not pass the gate"))


def _checks(versions: "Versions", version: str, store: str | None, margin: float) -> "list[Check]":
    from ssd4rec.service.gate import check_version
    from ssd4rec.service.store.connect import open_engine, reading
    from ssd4rec.service.store.schema import check_schema

    active = versions.chosen()
    candidate = versions.load(version)
    champion = None if active in {None, version} else versions.load(str(active))
    if store is None:
        return check_version(candidate, champion, None, margin)
    engine = open_engine(store)
    try:
        check_schema(engine)
        with reading(engine) as connection:
            return check_version(candidate, champion, connection, margin)
    finally:
        engine.dispose()
