"""`evaluate`: what a finished model is worth."""

from typing import Annotated, Any

import typer

from ssd4rec.cli import _render
from ssd4rec.cli.shared import (
    AcceleratorOption,
    DirArgument,
    ItemOption,
    JsonOption,
    SetOption,
    TimeOption,
    UserOption,
    columns_as_settings,
    err_console,
    open_data,
    out_console,
    print_json,
    refuse_columns,
    reporter,
    say,
)
from ssd4rec.errors import ConfigError

LEARNT = ("backbone", "training", "fusion")  # groups of settings that a finished model was made with


def evaluate(
    directory: DirArgument,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Data to measure on; omit to show the figures from training.")
    ] = None,
    *,
    settings: SetOption = None,
    accelerator: AcceleratorOption = "auto",
    user: UserOption = None,
    item: ItemOption = None,
    time: TimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the figures of a finished model, or measure it again on DATA, for example with --set evaluation.exclude_seen=true."""
    from ssd4rec import pipeline
    from ssd4rec.artifact import load_artifact
    from ssd4rec.config import dump_config, parse_config
    from ssd4rec.diagnostics import resolve_device

    overrides = [*(settings or []), *columns_as_settings(user, item, time)]
    if data is None and (overrides or accelerator != "auto"):
        given = "--set" if settings else "--user, --item or --time" if overrides else "--accelerator"
        raise ConfigError(f"{given} says how DATA is read or measured; give the data too: ssd4rec evaluate DIR DATA …")
    _refuse_what_is_learnt(settings or [])
    artifact = load_artifact(directory, "cpu" if data is None else resolve_device(accelerator))
    if data is None:
        report: dict[str, Any] = dict(artifact.report)
        if not {"test", "protocol"} <= report.keys():
            raise ConfigError(f"{directory} was saved without figures; measure it on data: ssd4rec evaluate {directory} DATA")
    else:
        chosen = parse_config(dump_config(artifact.config), overrides, source=str(directory))
        refuse_columns(data, overrides)
        interactions, _ = open_data(data, chosen, None)
        with _render.progress_bar(err_console) as bar:
            report = pipeline.evaluate_artifact(artifact, interactions, chosen, progress=reporter(bar, "ranking"))
        report["artifact"] = str(directory)
        for note in report["notes"]:
            say(f"note: {note}")
    if as_json:
        print_json(report)
    else:
        _render.show_figures(out_console, report)


def _refuse_what_is_learnt(settings: list[str]) -> None:
    """A finished model is measured as it is: only what is asked of it can be set."""
    for setting in settings:
        group = setting.partition("=")[0].strip().partition(".")[0]
        if group in LEARNT:
            raise ConfigError(
                f"--set {setting} has no effect on a finished model; evaluate takes settings of data and evaluation alone, "
                f"those of {group} are for ssd4rec train"
            )
