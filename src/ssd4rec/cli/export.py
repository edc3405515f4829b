"""`export` and `add-items`: a model for other programs, and a model with new items."""

from pathlib import Path
from typing import Annotated

import typer

from ssd4rec.cli import console, inputs, options
from ssd4rec.errors import ConfigError


def export(
    directory: options.Directory,
    *,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Write the graph from a history to scores.")] = None,
    onnx_step: Annotated[Path | None, typer.Option("--onnx-step", help="Write the graph that reads one more event.")] = None,
    k: Annotated[int | None, typer.Option("-k", help="With --onnx: return the k best items, not all scores.", min=1)] = None,
    item_vectors: Annotated[
        Path | None, typer.Option("--item-vectors", metavar="FILE.parquet", help="Write ids and vectors of all items.")
    ] = None,
    without_fusion: Annotated[
        bool, typer.Option("--without-fusion", help="Graphs give the scores of the network alone, without score fusion.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Export a model: ONNX graphs, checked in onnxruntime, and item vectors as Parquet."""
    if onnx is None and onnx_step is None and item_vectors is None:
        raise ConfigError("nothing to export; add --onnx FILE, --onnx-step FILE or --item-vectors FILE.parquet")
    if k is not None and onnx is None:
        raise ConfigError("-k needs --onnx")

    from ssd4rec.artifact import load_artifact

    artifact = load_artifact(directory)
    report: dict[str, dict[str, object]] = {}
    if onnx is not None or onnx_step is not None:
        from ssd4rec.export.onnx import export_read_out, export_step

        with_fusion = not without_fusion
        if onnx is not None:
            difference = export_read_out(artifact, onnx, k, with_fusion=with_fusion)
            report["onnx"] = {"file": str(onnx), "largest_difference": difference}
        if onnx_step is not None:
            difference = export_step(artifact, onnx_step, with_fusion=with_fusion)
            report["onnx_step"] = {"file": str(onnx_step), "largest_difference": difference}
    if item_vectors is not None:
        from ssd4rec.export.vectors import export_item_vectors

        report["item_vectors"] = {"file": str(item_vectors), "items": export_item_vectors(artifact, item_vectors)}
    if as_json:
        console.print_json(report)
        return
    for name, each in report.items():
        is_vectors = name == "item_vectors"
        detail = f"{each['items']:,} items" if is_vectors else f"largest difference {each['largest_difference']:.1e}"
        console.out.print(f"{each['file']}: {detail}", soft_wrap=True)


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
