"""`add-items`: new items in a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from ssd4rec.cli import console, inputs, options


def add_items(
    directory: options.Directory,
    *,
    items: Annotated[Path, typer.Option("--items", help="A file with item ids and the features that the model has.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the model with these items; by default DIR.")] = None,
    as_json: options.Json = False,
) -> None:
    """Add the new items of a file to a model that was trained with `--items`, without training."""
    recommender = inputs.load_recommender(directory)
    extended = recommender.add_items(items)
    target = out or directory
    extended.save(target)
    report = {"items": len(extended.artifact.catalog), "new": len(extended.artifact.catalog) - len(recommender.artifact.catalog)}
    if as_json:
        console.print_json({**report, "artifact": str(target)})
        return
    console.say(f"added {report['new']:,} items; the catalog of {target} has {report['items']:,}")
