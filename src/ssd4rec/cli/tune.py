"""`tune`: hyperparameter search."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssd4rec.cli import _render, console, inputs, options
from ssd4rec.configs import DEFAULT_PRESET

if TYPE_CHECKING:
    from ssd4rec.pipeline import Prepared
    from ssd4rec.tuning.search import SearchReport


@options.with_reading_options
def tune(  # noqa: PLR0913 - each is an option of the command
    data: options.Data,
    *,
    config: options.ConfigByData = None,
    settings: options.Settings = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="GROUP.KEY=LOW:HIGH[:log]",
            help="Search between LOW and HIGH, or with =A|B|C among these values; repeatable.",
        ),
    ] = None,
    fix: Annotated[
        list[str] | None, typer.Option("--fix", metavar="GROUP.KEY", help="Do not search this setting; repeatable.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Total number of trials, including those of earlier runs.")] = 30,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.0, help="Stop this run after this many minutes.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed for choosing values.")] = 0,
    train: Annotated[
        bool,
        typer.Option("--train", help="At the end, train a model with the best settings, and evaluate it on the test set."),
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder of the search; an existing search is continued.")] = Path(
        "artifacts/search"
    ),
    items: options.Items = None,
    reading: list[str],
    as_json: options.Json = False,
) -> None:
    """Search for the settings with the best validation NDCG@10 on DATA, and write them to OUT/best.toml."""
    from ssd4rec.config import load_config

    inputs.check_optuna("tune")
    from ssd4rec.tuning.space import describe_space, make_space

    overrides = [*(settings or []), *reading]
    run_config = load_config(config or DEFAULT_PRESET, overrides)
    inputs.check_columns(data, overrides)
    set_by_hand = [each.partition("=")[0].strip() for each in settings or []]
    space = make_space(run_config, search or [], list(dict.fromkeys([*(fix or []), *set_by_hand])))
    prepared = inputs.prepare(data, run_config, None)
    if config is None:
        from ssd4rec.pipeline import default_config

        run_config = default_config(prepared, overrides)
    if items is not None:
        prepared = inputs.add_features(prepared, items, run_config)

    from ssd4rec.training.callbacks import TrainingProgress
    from ssd4rec.tuning import search as tuning

    console.say(f"searching {', '.join(describe_space(space))}")
    console.say("trials are compared on the validation set; the test set is not read")
    saved_in = f"{out}; run the same command again to continue"
    try:
        report = tuning.search(
            prepared,
            run_config,
            space,
            out,
            trials=trials,
            minutes=minutes,
            seed=seed,
            callbacks=[TrainingProgress(console.err)],
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the search is saved in {saved_in}") from None
    if report.stopped == "minutes":
        console.say(f"time limit reached; the search is saved in {saved_in}")
    if report.trials and all(trial.refused for trial in report.trials):
        console.say(
            f"all {len(report.trials)} trials failed, so no best settings exist ({report.trials[0].refused}); "
            f"search other values, with another --out"
        )
    trained = _train_best(prepared, report, out, run_config.training.teachers) if train else None
    _show(report, trained, _protocol(prepared), as_json=as_json)


def _train_best(
    prepared: "Prepared", report: "SearchReport", out: Path, teachers: "int | Literal['auto']"
) -> dict[str, Any] | None:
    from ssd4rec import pipeline
    from ssd4rec.artifact import load_artifact_or_none
    from ssd4rec.config import load_config
    from ssd4rec.training.callbacks import TrainingProgress

    if report.best_file is None or report.stopped != "trials":
        console.say(
            f"--train starts after {'all trials are' if report.best_file else 'a trial is'} finished; the test set was not read"
        )
        return None
    # the trials had no teachers
    best, model = load_config(report.best_file).replaced("training", teachers=teachers), out / "model"
    if (trained := load_artifact_or_none(model)) is not None and trained.config == best:
        console.say(f"{model} was already trained with these settings; showing its metrics")
        return dict(trained.report)
    with console.progress_bar() as bar:
        callbacks = [TrainingProgress(console.err)]
        artifact = pipeline.train(
            prepared, best, model, resume="auto", callbacks=callbacks, progress=console.reporter(bar, "fitting and evaluating")
        )
    return dict(artifact.report)


def _protocol(prepared: "Prepared") -> dict[str, Any]:
    """Return the protocol of the validation metric; evaluation.exclude_seen and fusion apply to the test set only."""
    from ssd4rec.evaluation.evaluate import make_protocol
    from ssd4rec.evaluation.metrics import MONITORED_METRIC

    split, items = prepared.split, len(prepared.catalog)
    return {
        "compared": f"validation {MONITORED_METRIC} of the best epoch",
        "data": prepared.description["read"]["source"],
        **make_protocol(prepared.histories, split.validation, items, split=split.protocol).as_dict(),
    }


def _show(report: "SearchReport", trained: dict[str, Any] | None, protocol: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        best = None if report.best_file is None else str(report.best_file)
        result = {"trials": [asdict(trial) for trial in report.trials], "importance": report.importance, "best": best}
        console.print_json({"protocol": protocol, **result, "stopped": report.stopped, "model": trained})
        return
    _render.show_trials(console.out, [asdict(trial) for trial in report.trials], report.importance, protocol)
    if trained is not None:
        _render.show_metrics(console.out, trained)
    if not report.trials:
        console.say("no trial has finished yet")
    if report.best_file is not None:
        console.say(f"best settings saved to {report.best_file}; next: ssd4rec train DATA --config {report.best_file}")
