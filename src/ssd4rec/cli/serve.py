"""`serve`: a trained model as an HTTP service."""

from pathlib import Path
from typing import Annotated

import typer

from ssd4rec.errors import BackendError

EXTRA = "pip install 'ssd4rec[serve]'"


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
    try:
        import alembic
        import fastapi
        import prometheus_client
        import psycopg
        import uvicorn
    except ImportError as error:
        raise BackendError(f"the service needs the package {error.name}; install it with {EXTRA}") from error
    del alembic, fastapi, prometheus_client, psycopg, uvicorn
