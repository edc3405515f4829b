"""`reproduce`: the paper's tables and figures."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ssd4rec.cli import _render
from ssd4rec.cli.shared import JsonOption, cache, err_console, out_console, print_json, refuse_columns, refuse_neither, say


def reproduce(  # noqa: PLR0913 - each is an option of the command
    study: Annotated[str, typer.Argument(metavar="STUDY", help="accuracy, efficiency, ablation, beta, rho, length, or all.")],
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="Files or named data sets.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs and the report.")] = Path("artifacts/reproduce"),
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            help="small (minutes), medium (hours), paper (its settings) or paper-one-pass (the same, each history read once).",
        ),
    ] = "small",
    models: Annotated[
        str | None, typer.Option("--models", help="Models for accuracy and efficiency, comma-separated; all by default.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Maximum number of epochs; overrides the budget.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Number of seeds.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Width of every model.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Number of runs at once; they share the processor's cores.")] = 1,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[MODEL:]GROUP.KEY=VALUE",
            help="Change a setting for all models that have it, or for one; repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the paper's tables and figures for DATA: OUT/report.html, report.md, results.json.

    Every run is kept under the hash of its settings: the same command continues where it was stopped, and other commands with
    the same --out reuse the runs they share. Other studies, data and protocols are added to the report; the same study on the
    same data, with other models or another budget, replaces its tables.

    accuracy    models side by side, published figures, paired tests
    efficiency  seconds and memory
    ablation    what each part is worth
    beta, rho, length    the paper's Figures 3 to 5
    """
    from ssd4rec._suggestions import find
    from ssd4rec.datasets.registry import is_known
    from ssd4rec.paper.budgets import make_budget
    from ssd4rec.paper.studies import STUDIES

    find(study, (*STUDIES, "all"), "study")
    chosen = make_budget(budget, epochs, seeds, width)
    from ssd4rec.paper.sweep import carry_out, plan

    names = [name.strip() for name in models.split(",")] if models else []
    for each in data:
        refuse_neither(each)
    if all(is_known(each) for each in data):  # of files beside them the columns may be named
        refuse_columns(data[0], settings or [])
    sweep = plan(study, data, chosen, out, cache(), models=names, settings=settings or [])
    try:
        with _render.progress_bar(err_console) as bar:
            task = bar.add_task("runs", total=len(sweep.runs))
            results = carry_out(
                sweep,
                say,
                lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
                jobs=jobs,
                threads=max(1, _threads() // jobs) if jobs > 1 else None,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on where this one stopped. So far: {out / 'report.html'}") from None
    if as_json:
        print_json(results.as_dict())
    else:
        out_console.print(f"The report: {out / 'report.html'} (and report.md, results.json)")
    failed = [title for key, (title, _) in sweep.runs.items() if not sweep.finished(key)]
    if failed:
        say(f"{len(failed)} {'run' if len(failed) == 1 else 'runs'} failed, the report says why: {'; '.join(failed)}")
        raise typer.Exit(1)


def _threads() -> int:
    """What this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else cores
