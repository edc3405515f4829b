"""`models list|activate`: versions of the model that a service answers with."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ssd4rec.cli.serve import require_serve
from ssd4rec.cli.shared import JsonOption, out_console, print_json
from ssd4rec.errors import ArtifactError

ModelsArgument = Annotated[Path, typer.Argument(metavar="MODELS_DIR", help="Folder with one folder for each version.")]


def list_models(models: ModelsArgument, *, as_json: JsonOption = False) -> None:
    """Show the versions of a folder, and which one is active."""
    require_serve()
    from ssd4rec.service.lifecycle import Versions

    versions = Versions(models)
    names, active = versions.names(), versions.chosen()
    if as_json:
        print_json([{"version": name, "active": name == active} for name in names])
        return
    table = Table()
    for column in ("version", "active"):
        table.add_column(column)
    for name in names:
        table.add_row(name, "yes" if name == active else "")
    out_console.print(table)


def activate_model(models: ModelsArgument, version: Annotated[str, typer.Argument(help="Name of the version's folder.")]) -> None:
    """Check a version and make it the active one; running services follow within a second."""
    require_serve()
    from ssd4rec.artifact import load_artifact
    from ssd4rec.service.lifecycle import Versions

    versions = Versions(models)
    if version not in versions.names():
        raise ArtifactError(f"{models} has no version {version!r}; it has {', '.join(versions.names()) or 'none'}")
    load_artifact(versions.folder(version))
    versions.choose(version)
    out_console.print(f"{version} is active")
