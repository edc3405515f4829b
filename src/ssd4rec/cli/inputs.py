"""The data that a command reads."""

import gc
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ssd4rec.cli import _render, console, options
from ssd4rec.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from ssd4rec.config import Config
    from ssd4rec.data.catalog import Catalog
    from ssd4rec.pipeline import Prepared
    from ssd4rec.serving.recommender import Recommender


def prepare(data: str, config: "Config", titles: Path | None, base: "Catalog | None" = None) -> "Prepared":
    """Read the input as sequences and a split, and print a summary."""
    prepared = open_prepared(data, config, titles, base)
    _render.show_data(console.err, prepared.description)
    return prepared


def add_features(prepared: "Prepared", items: Path, config: "Config") -> "Prepared":
    """Add item features from a file to prepared data, and print a summary."""
    from ssd4rec import pipeline

    prepared = pipeline.add_features(prepared, items, config)
    about = prepared.description["features"]
    columns = ", ".join(f"{name} ({kind})" for name, kind in about["columns"].items())
    console.say(f"item features: {columns}; {about['categories']:,} categories, {about['new_items']:,} new items")
    return prepared


def open_prepared(data: str, config: "Config", titles: Path | None, base: "Catalog | None" = None) -> "Prepared":
    """Read a file, a named data set or a folder of `data build` as sequences and a split; `base` as in `pipeline.prepare`."""
    if is_sequence_folder(Path(data)):
        if base is not None:
            raise ConfigError(f"--from needs interactions, but {data} contains sequences with indices of its own; pass the files")
        from ssd4rec.data.interactions import read_titles
        from ssd4rec.pipeline import prepare_folder

        return prepare_folder(data, None if titles is None else read_titles(titles), config)
    from ssd4rec.datasets.sources import open_source

    interactions, item_titles = open_source(data, config.data, titles)  # before torch is imported, so that errors appear at once

    from ssd4rec import pipeline

    return pipeline.prepare(interactions, item_titles, config, base)


def load_recommender(directory: Path, accelerator: str = "cpu") -> "Recommender":
    """Load a model, and import what that takes.

    The garbage collector rests meanwhile: torch makes half a million objects when it is imported, none of them garbage, and
    looking through them again and again takes 0.3 s of CPU time.
    """
    gc.disable()
    try:
        from ssd4rec.diagnostics import resolve_device
        from ssd4rec.serving.recommender import Recommender

        return Recommender.load(directory, resolve_device(accelerator))
    finally:
        gc.enable()


def is_sequence_folder(path: Path) -> bool:
    """Whether a path is a folder that `data build` wrote."""
    try:
        return (path / "read.json").is_file()
    except (OSError, ValueError):  # not a valid path; reading it will give the reason
        return False


def check_optuna(command: str) -> None:
    """Refuse a command that searches settings if Optuna is not installed.

    Raises:
        BackendError: it is not; the message says what to install.
    """
    if find_spec("optuna") is None:
        raise BackendError(
            f"{command} needs the package optuna, which is not installed; pip install 'optuna>=5.0' 'sqlalchemy>=2'"
        )


def check_columns(data: str, overrides: Sequence[str]) -> None:
    """Reject reading options for a named data set, whose format is known; a TOML or RecBole file may contain them.

    Raises:
        ConfigError: an override is a reading option.
    """
    from ssd4rec.datasets.registry import is_named_dataset

    for override in overrides if is_named_dataset(data) else ():
        group, _, role = override.partition("=")[0].strip().partition(".")
        if group == "data" and role in options.READING:
            raise ConfigError(
                f"{override} is for files, but {data} is a named data set, whose format is known; remove "
                f"--{role.replace('_', '-')} (or --set data.{role})"
            )


def cache() -> Path:
    """Return the folder in which data sets are cached."""
    from ssd4rec.datasets.registry import cache_folder

    return cache_folder(os.environ)
