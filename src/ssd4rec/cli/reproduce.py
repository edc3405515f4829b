"""`reproduce`: the paper's tables and figures."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd4rec.cli import console, inputs, options

if TYPE_CHECKING:
    from ssd4rec.paper.sweep import Sweep

STUDY_HELP = "accuracy, efficiency, ablation, beta, rho, length, or all; report: render the report of --out again."
BUDGET_HELP = (
    "small (minutes), medium (hours), default-preset (its settings for every model), paper (the paper's settings), or "
    "paper-one-pass (the same with all-positions training)."
)
MODELS_HELP = (
    "Models, comma-separated. By default accuracy and efficiency compare all, and beta, rho and length draw SSD4Rec; "
    "with more models they draw a line for each, and their seconds."
)
VALUES_HELP = "Points of beta, rho or length, comma-separated, e.g. 50,200,whole."
TRIALS_HELP = (
    "accuracy: first search learning rate, dropout and input dropout of each network, with this many trials on the validation "
    "part; the first trial has the settings of the budget."
)
SET_HELP = "Change a setting for all models that have it, or for one; repeatable."


def reproduce(  # noqa: PLR0913 - each is an option of the command
    study: Annotated[str, typer.Argument(metavar="STUDY", help=STUDY_HELP)],
    data: Annotated[list[str] | None, typer.Argument(metavar="DATA...", help="Files or named data sets.")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results and the report.")] = Path("artifacts/reproduce"),
    budget: Annotated[str, typer.Option("--budget", help=BUDGET_HELP)] = "small",
    models: Annotated[str | None, typer.Option("--models", help=MODELS_HELP)] = None,
    values: Annotated[str | None, typer.Option("--values", help=VALUES_HELP)] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Maximum number of epochs; overrides the budget.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Number of seeds.")] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, help="Width of every model.")] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=2, help=TRIALS_HELP)] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Number of runs at once; they share the processor's cores.")] = 1,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="[MODEL:]GROUP.KEY=VALUE", help=SET_HELP)] = None,
    as_json: options.Json = False,
) -> None:
    """Make the paper's tables and figures for DATA.

    Writes report.html, report.md, results.json and ranks.parquet (the rank of every user's test item) to OUT. The same command
    continues where it was stopped. Further commands with the same OUT extend the report by seeds, models, data sets, studies
    and protocols, and reuse all finished runs.

    accuracy    models compared with each other, with baselines and with published results; paired tests
    efficiency  seconds and memory
    ablation    the contribution of each part
    beta, rho, length    the paper's Figures 3 to 5, with a line for each of --models
    """
    from ssd4rec._suggestions import find
    from ssd4rec.errors import ConfigError, DataError
    from ssd4rec.paper.recipes import make_budget
    from ssd4rec.paper.studies import STUDIES

    find(study, (*STUDIES, "all", "report"), "study")
    if study == "report":
        from ssd4rec.paper.report import write_report
        from ssd4rec.paper.results import RESULTS, load_results

        if not (out / RESULTS).is_file():
            raise DataError(f"{out / RESULTS} not found; choose the folder of a finished study with --out")
        write_report(load_results(out), out)
        console.out.print(f"Report: {out / 'report.html'} (and report.md)")
        return
    if trials is not None:
        if study != "accuracy":
            raise ConfigError(f"--trials applies to accuracy; leave it out for {study}")
        inputs.check_optuna("reproduce --trials")
    limits = make_budget(budget, epochs, seeds, width, trials)
    if not data:
        raise ConfigError(f"{study} needs DATA: a file or a named data set, e.g. ssd4rec reproduce {study} ml-100k")
    from ssd4rec.datasets.registry import is_named_dataset
    from ssd4rec.datasets.sources import check_name

    for each in data:
        check_name(each)
    from ssd4rec.diagnostics import usable_threads
    from ssd4rec.paper.sweep import plan_sweep, run_sweep

    if all(is_named_dataset(each) for each in data):  # the columns of files may be named
        inputs.check_columns(data[0], settings or [])
    names, points = ([part.strip() for part in text.split(",")] if text else [] for text in (models, values))
    plan = partial(plan_sweep, study, data, limits, out, inputs.cache(), models=names, settings=settings or [], values=points)
    sweep = plan()
    if trials is not None:
        sweep = plan(found=_search_recipes(sweep, settings or [], out))
    try:
        with console.progress_bar() as bar:
            task = bar.add_task("runs", total=len(sweep.jobs))
            results = run_sweep(
                sweep,
                lambda done, total, text: bar.update(task, completed=done, total=total, description=text),
                jobs=jobs,
                threads=max(1, usable_threads() // jobs) if jobs > 1 else None,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command continues. Report so far: {out / 'report.html'}") from None
    if as_json:
        console.print_json(results.as_dict())
    else:
        console.out.print(f"Report: {out / 'report.html'} (and report.md, results.json, ranks.parquet)")
    finished = results.finished_runs()
    if failed := [job.title for key, job in sweep.jobs.items() if key not in finished]:
        console.say(f"{len(failed)} {'run' if len(failed) == 1 else 'runs'} failed, see the report: {'; '.join(failed)}")
        raise typer.Exit(1)


def _search_recipes(sweep: "Sweep", settings: list[str], out: Path) -> dict[str, list[str]]:
    from ssd4rec.paper.recipe_search import search_recipes
    from ssd4rec.training.callbacks import TrainingProgress

    try:
        return search_recipes(sweep, settings, callbacks=[TrainingProgress(console.err)], watch=console.say)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the search is saved in {out}; the same command continues") from None
