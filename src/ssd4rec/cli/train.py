"""`train` and `demo`: train and evaluate a model."""

import shlex
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssd4rec.cli import _render, console, inputs, options
from ssd4rec.cli.devices import devices_settings
from ssd4rec.configs import DEFAULT_PRESET
from ssd4rec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ssd4rec.artifact import Artifact
    from ssd4rec.config import Config
    from ssd4rec.data.catalog import Catalog
    from ssd4rec.pipeline import Prepared
    from ssd4rec.serving.recommender import Recommender

DEMO = "ml-latest-small"
DEMO_USERS = 3
HISTORY_SHOWN = 10
DevicesOption = Annotated[
    int | None,
    typer.Option("--devices", min=1, help="Number of processes (one per GPU, if there are any) that train the model together."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue an interrupted training with the same --out.")]


@options.with_reading_options
def train(  # noqa: PLR0913 - each is an option of the command
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="A file or a named data set; optional if the --recbole file names one."),
    ] = None,
    *,
    config: options.ConfigByData = None,
    recbole: Annotated[Path | None, typer.Option("--recbole", help="A RecBole YAML file, instead of --config.")] = None,
    settings: options.Settings = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the model; an existing model is replaced.")] = Path(
        "artifacts/model"
    ),
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="MODEL", help="Continue the training of this model, with new users, items and events."),
    ] = None,
    resume: ResumeOption = False,
    titles: options.Titles = None,
    items: options.Items = None,
    train_file: Annotated[
        str | None, typer.Option("--train", metavar="FILE", help="With --validation and --test: separate files instead of DATA.")
    ] = None,
    validation_file: Annotated[str | None, typer.Option("--validation", metavar="FILE", help="Validation interactions.")] = None,
    test_file: Annotated[str | None, typer.Option("--test", metavar="FILE", help="Test interactions.")] = None,
    devices: DevicesOption = None,
    reading: list[str],
    as_json: options.Json = False,
) -> None:
    """Train a model on DATA, evaluate it next to baselines on held-out interactions, and save it to --out."""
    from ssd4rec.config import dump_config, load_config, parse_config

    distributed = devices_settings(devices, settings or [])
    overrides = [*(settings or []), *distributed, *reading]
    if recbole is not None and config is not None:
        raise ConfigError(f"--config {config} and --recbole {recbole} cannot be combined; remove one of them")
    artifact = None
    if start is not None:
        from ssd4rec.artifact import load_artifact

        artifact = load_artifact(start)
    if recbole is not None:
        run_config, data = _from_recbole(recbole, overrides, data)
    elif data is None and train_file is None:
        raise DataError("missing argument DATA: pass a file or a named data set (`ssd4rec data list` shows their names)")
    elif artifact is not None and config is None:
        run_config = parse_config(dump_config(artifact.config), overrides, source=str(start))
    else:
        run_config = load_config(config or DEFAULT_PRESET, overrides)
    base = None
    if artifact is not None:
        from ssd4rec.training.continuation import check_same_backbone

        check_same_backbone(run_config.backbone, artifact.config.backbone)
        base = artifact.catalog
    prepared = _prepare(data, (train_file, validation_file, test_file), overrides, run_config, titles, base)
    if config is None and recbole is None and artifact is None:
        from ssd4rec.pipeline import default_config

        run_config = default_config(prepared, overrides)
    if items is not None:
        prepared = inputs.add_features(prepared, items, run_config)
    elif data is not None and artifact is None:
        _mention_features(Path(data), run_config)
    report = _train(prepared, run_config, out, artifact, resume=resume)
    if as_json:
        console.print_json(report)
        return
    _render.show_metrics(console.out, report)
    console.say(f"model saved to {out}, its report to {out / 'report.html'}; next: ssd4rec recommend {out} --history ID,ID,…")
    if prepared.has_repeats:
        console.say("users of these data repeat items; --keep-seen recommends items of the history, too")


def _mention_features(data: Path, config: "Config") -> None:
    """Name the columns of the file of items next to the interactions, which are not used without --items."""
    from ssd4rec.data.item_table import read_item_table
    from ssd4rec.datasets.archives import titles_beside

    file = titles_beside(data)
    if file is not None:
        with suppress(DataError):  # nothing but titles, or not what --items reads
            columns = ", ".join(read_item_table(file, config.features).columns)
            option = f"--items {shlex.quote(str(file))}"
            console.say(f"{file} has item features that are not used ({columns}); {option} trains with them")


def _prepare(
    data: str | None,
    files: tuple[str | None, str | None, str | None],
    overrides: list[str],
    config: "Config",
    titles: Path | None,
    base: "Catalog | None",
) -> "Prepared":
    """Prepare DATA, or separate files for training, validation and test."""
    train_file, validation_file, test_file = files
    if data is not None and files == (None, None, None):
        inputs.check_columns(data, overrides)
        return inputs.prepare(data, config, titles, base)
    if data is not None or train_file is None or validation_file is None or test_file is None:
        raise ConfigError("--train, --validation and --test are used together, in place of DATA; pass all three, or only DATA")
    from ssd4rec.data.columns import columns_of, options_of
    from ssd4rec.data.interactions import read_interactions, read_titles

    columns, options = columns_of(config.data), options_of(config.data)
    parts = [read_interactions(file, columns, options) for file in (train_file, validation_file, test_file)]
    item_titles = None if titles is None else read_titles(titles)

    from ssd4rec import pipeline

    prepared = pipeline.prepare_parts(parts[0], parts[1], parts[2], item_titles, config, base)
    _render.show_data(console.err, prepared.description)
    return prepared


def demo(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the model.")] = Path("artifacts/demo"),
    resume: ResumeOption = False,
) -> None:
    """Train on the built-in MovieLens data and show recommendations for three users."""
    from ssd4rec.config import load_config
    from ssd4rec.datasets.registry import find_dataset
    from ssd4rec.serving.recommender import Recommender

    run_config = load_config(DEFAULT_PRESET, ["training.teachers=0"])
    console.say(f"data: {find_dataset(DEMO).license}")
    console.say("teachers: none, so that the demo takes minutes; on sparse data ssd4rec train has two (training.teachers)")
    prepared = inputs.prepare(DEMO, run_config, None)
    report = _train(prepared, run_config, out, resume=resume)
    _render.show_metrics(console.out, report)
    _show_examples(prepared, Recommender.load(out))
    console.out.print(
        f"Model saved to {out}, its report to {out / 'report.html'}. Your own data: ssd4rec train FILE --out DIR; "
        f"ssd4rec recommend DIR --history ID,ID,…"
    )
    _name_page(out)


def _name_page(out: Path) -> None:
    """Print the command that opens the page of the service with the users of the demo."""
    program, model = _program(), shlex.quote(str(out))
    store = shlex.quote(f"sqlite:///{out.with_name(f'{out.name}-events.db')}")
    console.out.print("Look at its users in a browser (with the extra serve), at http://127.0.0.1:8080/:")
    command = f"{program} events import {DEMO} --store {store} && {program} serve {model} --store {store}"
    console.out.print(command, soft_wrap=True, highlight=False, markup=False)


def _program() -> str:
    """How this program can be called again from the same shell."""
    if shutil.which("ssd4rec"):
        return "ssd4rec"
    script = Path(sys.argv[0])
    return shlex.quote(str(script)) if script.name == "ssd4rec" else f"{shlex.quote(sys.executable)} -m ssd4rec"


def _from_recbole(path: Path, overrides: list[str], data: str | None) -> "tuple[Config, str]":
    """Return the settings of a RecBole file, and its data set unless DATA is passed."""
    from ssd4rec.config.recbole import read_recbole
    from ssd4rec.datasets.registry import is_named_dataset

    run = read_recbole(path, overrides)
    for note in run.notes:
        console.say(f"warning: {path}: {note}")
    if data is not None:
        return run.config, data
    if run.dataset is None:
        raise DataError(f"{path} does not name a data set; use ssd4rec train DATA --recbole {path}")
    if run.file is not None:
        for file in (run.file, Path(f"{run.file}.gz")):
            if file.is_file():
                return run.config, str(file)
    name = run.dataset.lower().replace("_", "-")
    if is_named_dataset(name):
        return run.config, name
    raise DataError(
        f"{path} names the data set {run.dataset}, but {run.file} does not exist; use ssd4rec train DATA --recbole {path}"
    )


def _train(prepared: "Prepared", config: "Config", out: Path, start: "Artifact | None" = None, *, resume: bool) -> dict[str, Any]:
    from ssd4rec import pipeline
    from ssd4rec.artifact.folder import MANIFEST
    from ssd4rec.distributed import process_group
    from ssd4rec.training.callbacks import TrainingProgress
    from ssd4rec.training.checkpoint import LAST, training_folder

    if (out / MANIFEST).is_file():
        console.say(
            f"{out} contains a model, which will be replaced at the end; press Ctrl-C and choose another --out to keep it"
        )
    try:
        with process_group() as world, console.progress_bar() as bar:
            callbacks = [TrainingProgress(console.err)]
            artifact = pipeline.train(
                prepared,
                config,
                out,
                start=start,
                resume=resume,
                callbacks=callbacks,
                progress=console.reporter(bar, "fitting and evaluating"),
            )
        if world.is_first:
            _write_report(prepared, out)
        return dict(artifact.report)
    except KeyboardInterrupt:
        resumable = any(training_folder(out).rglob(LAST))  # also of teachers, which are trained first
        how = "add --resume to continue from the last checkpoint" if resumable else "there is no checkpoint yet"
        raise KeyboardInterrupt(f"{how} (checkpoints are written every epoch and every minute)") from None


def _write_report(prepared: "Prepared", out: Path) -> None:
    """Write report.html next to the files of the model."""
    from ssd4rec.artifact import REPORT_PAGE
    from ssd4rec.reports.examples import examine
    from ssd4rec.reports.model import write_model_report
    from ssd4rec.serving.recommender import Recommender

    console.say("writing the report with example users")
    recommender = Recommender.load(out)
    examined = examine(recommender, prepared.histories)
    try:
        write_model_report(out / REPORT_PAGE, recommender.report, recommender.artifact.config, examined)
    except OSError as error:
        console.say(f"warning: the report was not written: {error}")


def _show_examples(prepared: "Prepared", recommender: "Recommender") -> None:
    histories, catalog = prepared.histories, prepared.catalog
    users = len(histories.users)
    for user in range(0, users, max(users // DEMO_USERS, 1))[:DEMO_USERS]:
        indices = histories.items[histories.offsets[user] : histories.offsets[user + 1]].tolist()
        ids, titles = catalog.ids_of(indices).to_list(), catalog.titles_of(indices)
        names = [str(title or each) for each, title in zip(ids, titles if titles is not None else ids, strict=True)]
        rows = [asdict(each) for each in recommender.recommend(ids, 10).items]
        title = f"User {histories.users[user]}, {len(ids)} events"
        _render.show_recommendations(console.out, rows, names[-HISTORY_SHOWN:], title)
