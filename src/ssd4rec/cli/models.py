"""`models list|activate`: versions of the model that a service answers with."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd4rec.cli import console, options
from ssd4rec.cli.serve import require_serve
from ssd4rec.errors import ArtifactError

if TYPE_CHECKING:
    from ssd4rec.service.gate import Gate
    from ssd4rec.service.versions import Versions

ModelsArgument = Annotated[Path, typer.Argument(metavar="MODELS_DIR", help="Folder with one folder for each version.")]


def list_models(models: ModelsArgument, *, as_json: options.Json = False) -> None:
    """Show the versions of a folder, and which one is active."""
    require_serve()
    from ssd4rec.service.versions import Versions

    versions = Versions(models)
    names, active = versions.names(), versions.chosen()
    if as_json:
        console.print_json([{"version": name, "active": name == active} for name in names])
        return
    table = console.table("", "version", "active")
    for name in names:
        table.add_row(name, "yes" if name == active else "")
    console.out.print(table)


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
    gate = _gate(versions, version, store, margin)
    if as_json:
        console.print_json(
            {"version": version, "activated": gate.passed or force, "checks": [asdict(check) for check in gate.checks]}
        )
    else:
        for check in gate.checks:
            (console.out if check.passed else console.err).print(f"{check.name}: {check.detail}", soft_wrap=True)
    if gate.failures and not force:
        raise ArtifactError(f"{version} did not pass the gate; the active version stays; use --force to activate it anyway")
    versions.choose(version, FORCED if gate.failures else PASSED)
    if not as_json:
        console.out.print(f"{version} is active" + (", although it did not pass the gate" if gate.failures else ""))


def _gate(versions: "Versions", version: str, store: str | None, margin: float) -> "Gate":
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
