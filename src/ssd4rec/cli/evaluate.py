"""`evaluate`: what a finished model is worth."""

from typing import Annotated, Any

import typer

from ssd4rec import screen
from ssd4rec.cli.shared import (
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


def evaluate(
    directory: DirArgument,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="Data to measure on; none: what training found.")] = None,
    *,
    settings: SetOption = None,
    user: UserOption = None,
    item: ItemOption = None,
    time: TimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how good a finished model is, or measure it again on DATA; --set evaluation.seen=filtered and the like apply."""
    from ssd4rec import experiment
    from ssd4rec.artefact import load_artefact
    from ssd4rec.config import dump_config, parse_config

    artefact = load_artefact(directory)
    if data is None:
        if settings:
            raise ConfigError("--set changes how DATA is measured; give the data too: ssd4rec evaluate DIR DATA --set …")
        report: dict[str, Any] = dict(artefact.report)
    else:
        overrides = [*(settings or []), *columns_as_settings(user, item, time)]
        chosen = parse_config(dump_config(artefact.config), overrides, source=str(directory))
        refuse_columns(data, overrides)
        interactions, _ = open_data(data, chosen, None)
        with screen.progress_bar(err_console) as bar:
            report = experiment.measure_again(artefact, interactions, chosen, progress=reporter(bar, "ranking"))
        report["artefact"] = str(directory)
        for note in report["notes"]:
            say(f"note: {note}")
    if as_json:
        print_json(report)
    else:
        screen.show_figures(out_console, report)
