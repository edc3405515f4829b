"""Train and load a model in one call; the same path as `ssd4rec train`, with the same weights and metrics."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ssd4rec import pipeline
from ssd4rec.artifact import Artifact, check_writable, load_artifact
from ssd4rec.config import Config, dump_config, load_config, parse_config
from ssd4rec.configs import DEFAULT_PRESET
from ssd4rec.data.interactions import Interactions, read_titles
from ssd4rec.datasets.sources import open_source
from ssd4rec.errors import ConfigError
from ssd4rec.serving.recommender import Recommender
from ssd4rec.training.callbacks import Callback, TrainingProgress


def train(  # noqa: PLR0913 - each argument is a documented option
    interactions: Any,
    *,
    config: str | Path | Config | None = None,
    settings: Mapping[str, object] | None = None,
    start_from: Recommender | str | Path | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    titles: Any = None,
    final_fit: bool | None = None,
    items: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    callbacks: Sequence[Callback] = (),
) -> Recommender:
    """Train a model on user-item interactions and evaluate it on held-out interactions.

    Weights and metrics equal those of `ssd4rec train` with the same data and settings.

    Args:
        interactions: a pandas or polars data frame, the path of a file (CSV, TSV, JSON Lines, Parquet or RecBole .inter), the
            name of a public data set (`ssd4rec data list`), or the result of `read_interactions`.
        config: the name of a preset, the path of a TOML file, or a `Config`; by default the settings of `start_from`, or
            the preset "regularized", on data with many interactions an item "wide".
        settings: changes to single settings, for example {"training.max_epochs": 10}.
        start_from: a model, or its folder, whose training continues: its items and weights are kept, new items are added, and
            the report has the metrics before and after (`continued`).
        user: name of the user column; by default a usual name such as user_id or userId is chosen.
        item: name of the item column.
        time: name of the time column; without one, the order of the rows is used.
        titles: a data frame or a file with item ids and titles.
        final_fit: after model selection, train a new model on all interactions for as many steps as were best, and return it;
            the metrics of the report are those of the selection run. By default as the setting training.final_fit.
        items: a data frame or a file with item ids and features, categories or vectors; items without interactions can be
            recommended too.
        out: save the model in this folder too. During training, checkpoints are kept in `OUT.training`.
        resume: continue an interrupted training with the same `out`.
        progress: show progress on standard error; by default only if that is a terminal.
        callbacks: called along the way, e.g. a `ssd4rec.training.tracking.Tracking`.

    Returns:
        A recommender with the trained model: `recommend(history)`, `report`, `save(path)`.

    Raises:
        ConfigError: an unknown setting, a value out of range, another backbone than that of `start_from`, or `resume` without
            `out`.
        DataError: the interactions cannot be read, too few are left to train on, or no item is known to `start_from`.
        ArtifactError: `out` cannot be written, or there is nothing to resume.
    """
    if resume and out is None:
        raise ConfigError("resume=True needs the folder of the interrupted training; pass out=FOLDER as well")
    if out is not None:
        check_writable(out)
    options = {"data.user": user, "data.item": item, "data.time": time, "training.final_fit": final_fit}
    changes = {name: value for name, value in options.items() if value is not None} | dict(settings or {})
    overrides = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    start = _artifact_of(start_from)
    by_the_data = config is None and start is None
    if config is None:
        config = DEFAULT_PRESET if start is None else start.config
    run_config = _config(config, overrides)
    if isinstance(interactions, Interactions):
        table, item_titles = interactions, None if titles is None else read_titles(titles)
    else:
        table, item_titles = open_source(interactions, run_config.data, titles)
    prepared = pipeline.prepare(table, item_titles, run_config, None if start is None else start.catalog)
    if by_the_data:
        run_config = pipeline.default_config(prepared, overrides)
    if items is not None:
        prepared = pipeline.add_features(prepared, items, run_config)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    show_progress = sys.stderr.isatty() if progress is None else progress
    callbacks = [*callbacks, TrainingProgress(console)] if show_progress else callbacks
    artifact = pipeline.train(prepared, run_config, out, start=start, resume=resume, callbacks=callbacks)
    artifact.model.cpu().eval()
    return Recommender(artifact)


def load(directory: str | Path, device: str = "cpu") -> Recommender:
    """Load a model saved by `ssd4rec train --out`, `ssd4rec.train(out=...)` or `Recommender.save`.

    Args:
        directory: the folder of the model.
        device: a torch device, "cpu" or "cuda".

    Raises:
        ArtifactError: the folder is missing, damaged, or was written by an incompatible version.
        BackendError: the device is not available.
    """
    return Recommender.load(directory, device)


def _artifact_of(model: Recommender | str | Path | None) -> Artifact | None:
    if isinstance(model, Recommender):
        return model.artifact
    if model is None:
        return None
    if not isinstance(model, str | Path):
        raise ConfigError(f"start_from is a model of ssd4rec.train or ssd4rec.load, or its folder; found {type(model).__name__}")
    return load_artifact(model)


def _config(config: str | Path | Config, overrides: Sequence[str]) -> Config:
    if isinstance(config, Config):
        return parse_config(dump_config(config), overrides, source="config")
    return load_config(config, overrides)
