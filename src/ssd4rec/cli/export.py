"""`export`: a model for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from ssd4rec.cli import console, options
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
    report: dict[str, object] = {}
    if onnx is not None or onnx_step is not None:
        from ssd4rec.export.onnx import export_read_out, export_step

        if onnx is not None:
            report["onnx"] = {
                "file": str(onnx),
                "largest_difference": export_read_out(artifact, onnx, k, with_fusion=not without_fusion),
            }
        if onnx_step is not None:
            report["onnx_step"] = {
                "file": str(onnx_step),
                "largest_difference": export_step(artifact, onnx_step, with_fusion=not without_fusion),
            }
    if item_vectors is not None:
        from ssd4rec.export.vectors import export_item_vectors

        report["item_vectors"] = {"file": str(item_vectors), "items": export_item_vectors(artifact, item_vectors)}
    if as_json:
        console.print_json(report)
        return
    for name, each in report.items():
        if isinstance(each, dict):
            detail = (
                f"{each['items']:,} items" if name == "item_vectors" else f"largest difference {each['largest_difference']:.1e}"
            )
            console.out.print(f"{each['file']}: {detail}", soft_wrap=True)
