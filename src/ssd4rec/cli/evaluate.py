"""`evaluate`: the metrics of a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssd4rec.cli import _render, console, inputs, options
from ssd4rec.errors import ConfigError

if TYPE_CHECKING:
    from ssd4rec.artifact import Artifact
    from ssd4rec.data.interactions import Interactions

TRAINING_GROUPS = ("backbone", "training", "fusion")  # groups of settings that are fixed after training


@options.with_reading_options
def evaluate(
    directory: options.Directory,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Data to evaluate on; omit to show the metrics from training.")
    ] = None,
    *,
    settings: options.Settings = None,
    accelerator: options.Accelerator = "auto",
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write an HTML page; with DATA also example users."),
    ] = None,
    reading: list[str],
    as_json: options.Json = False,
) -> None:
    """Show the metrics of a trained model, or evaluate it on DATA, for example with --set evaluation.exclude_seen=true."""
    from ssd4rec import pipeline
    from ssd4rec.artifact import load_artifact
    from ssd4rec.config import dump_config, parse_config
    from ssd4rec.datasets.sources import open_source
    from ssd4rec.diagnostics import resolve_device

    overrides = [*(settings or []), *reading]
    if data is None and (overrides or accelerator != "auto"):
        option = "--set" if settings else "--user, --item or --time" if overrides else "--accelerator"
        raise ConfigError(f"{option} needs data to evaluate on: ssd4rec evaluate DIR DATA …")
    _check_settings(settings or [])
    artifact = load_artifact(directory, "cpu" if data is None else resolve_device(accelerator))
    if data is None:
        report: dict[str, Any] = dict(artifact.report)
        if not {"test", "protocol"} <= report.keys():
            raise ConfigError(f"{directory} was saved without metrics; evaluate it on data: ssd4rec evaluate {directory} DATA")
        interactions = None
    else:
        run_config = parse_config(dump_config(artifact.config), overrides, source=str(directory))
        inputs.check_columns(data, overrides)
        interactions, _ = open_source(data, run_config.data)
        with console.progress_bar() as bar:
            report = pipeline.evaluate_artifact(artifact, interactions, run_config, progress=console.reporter(bar, "evaluating"))
        report["artifact"] = str(directory)
        for note in report["notes"]:
            console.say(f"warning: {note}")
    if report_file is not None:
        _write_report(report_file, report, artifact, interactions)
    if as_json:
        console.print_json(report)
    else:
        _render.show_metrics(console.out, report)


def _write_report(path: Path, report: dict[str, Any], artifact: "Artifact", interactions: "Interactions | None") -> None:
    from ssd4rec.data.sequences import build_sequences
    from ssd4rec.reports.examples import examine
    from ssd4rec.reports.model import write_model_report
    from ssd4rec.serving.recommender import Recommender

    examined = None
    if interactions is not None:
        console.say("writing the report with example users")
        sequences, _ = build_sequences(interactions, tie_order=artifact.config.data.tie_order, catalog=artifact.catalog)
        examined = examine(Recommender(artifact), sequences)
    try:
        write_model_report(path, report, artifact.config, examined)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; choose another --report") from error
    console.say(f"report written to {path}")


def _check_settings(settings: list[str]) -> None:
    """Reject settings that are fixed after training."""
    for setting in settings:
        group = setting.partition("=")[0].strip().partition(".")[0]
        if group in TRAINING_GROUPS:
            raise ConfigError(
                f"--set {setting} has no effect on a trained model; evaluate takes settings of data and evaluation, "
                f"and those of {group} are for ssd4rec train"
            )
