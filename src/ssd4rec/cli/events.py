"""`events import`: interactions of a file into a store."""

from typing import Annotated

import typer

from ssd4rec.cli import console, inputs, options
from ssd4rec.cli.reading import with_column_options
from ssd4rec.cli.serve import require_serve
from ssd4rec.configs import DEFAULT_PRESET


@with_column_options
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
    from dataclasses import asdict

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
