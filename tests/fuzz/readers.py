"""Cases of the fuzz campaign: files, frames, settings and RecBole files."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from fuzz.inputs import HEADERS, JSON_VALUES, Rng, damaged, file_content, pick
from ssd4rec.config import Config, dump_config, load_config, parse_config, presets
from ssd4rec.config.recbole import read_recbole
from ssd4rec.data.columns import Columns
from ssd4rec.data.interactions import ReadOptions, read_interactions, read_titles
from ssd4rec.data.sequences import build_sequences
from ssd4rec.data.split import leave_last_out, split_by_time
from ssd4rec.errors import SSD4RecError

FRAME_VALUES = (*JSON_VALUES, b"x", 3 + 4j, ("a", 1), np.int64(3), np.nan, np.datetime64("2016-01-31"), object)
SETTINGS = (
    "backbone.width",
    "backbone.name",
    "backbone.layers",
    "training.max_epochs",
    "training.seed",
    "data.max_length",
    "data.split",
    "data.test_from",
    "data.columns",
    "evaluation.cutoffs",
    "fusion.cooccurrence",
    "nothing",
    "a.b.c",
)
VALUES = (
    "1",
    "16",
    "-1",
    "0",
    "1e400",
    "nan",
    "9" * 5000,
    "true",
    "[]",
    "[1, 2]",
    '"x"',
    "x",
    "",
    "{a = 1}",
    "2016-01-31",
    "[" * 999,
)
RECBOLE = (
    "model: SASRec\ndataset: ml-100k\nhidden_size: 64\nn_layers: 2\n",
    "model: SSD4Rec\nd_state: 32\nlearning_rate: 0.001\ntopk: [10, 20]\n",
    "train_neg_sample_args: ~\nMAX_ITEM_LIST_LENGTH: 50\nstopping_step: 10\n",
    "eval_args: {split: {LS: valid_and_test}, order: TO, mode: full}\n",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
)


def read_options(rng: Rng) -> ReadOptions:
    if rng.random() < 0.8:
        return ReadOptions()
    return ReadOptions(
        names=pick(rng, [(), (), (), ("user", "item", "time"), ("user", "item", "_")]),
        separator=pick(rng, [None, None, None, ",", "::", "space", '"', "", "\n"]),
        layout=pick(rng, ["auto", "auto", "sequences", "interactions"]),
        where=pick(rng, [None, None, None, "user_id = 'u1'", "timestamp > 5", "1 =", "item LIKE '%'", "user_id IN (SELECT 1)"]),
        min_rating=pick(rng, [None, None, None, 3.0]),
        time_format=pick(rng, [None, None, None, "%Y", "%d/%m/%Y", "%%", "%"]),
        constant_user=pick(rng, [None, None, None, "me"]),
        drop_missing=bool(rng.random() < 0.5),
        duplicates=pick(rng, ["keep", "drop"]),
    )


def frame_case(rng: Rng, folder: Path) -> None:
    """Read a frame of Python objects."""
    del folder
    header, odd = pick(rng, HEADERS[:3]), float(pick(rng, [0.0, 0.0, 0.1, 0.3]))
    columns = {name: [pick(rng, FRAME_VALUES) if rng.random() < odd else _usual(rng, name) for _ in range(8)] for name in header}
    source: Any
    if rng.random() < 0.5:
        source = pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()})
    else:
        source = pl.DataFrame({name: pl.Series(column, dtype=pl.Object) for name, column in columns.items()})
    follow(read_interactions(source, Columns(), read_options(rng)))


def _usual(rng: Rng, name: str) -> object:
    return int(rng.integers(1_400_000_000, 1_500_000_000)) if name.startswith("time") else f"{name[:1]}{int(rng.integers(5))}"


def file_case(rng: Rng, folder: Path) -> None:
    """Read a file."""
    name, data = file_content(rng)
    path = folder / name
    path.write_bytes(data)
    if rng.random() < 0.05:
        read_titles(path)
    else:
        follow(read_interactions(path, Columns(), read_options(rng)))


def follow(interactions: Any) -> None:
    """Use what was read: every accepted input must give sequences and splits."""
    sequences, _ = build_sequences(interactions, 1)
    for split in (leave_last_out, split_by_time):
        with suppress(SSD4RecError):  # too few events for a split
            split(sequences, learned=False)


def settings_case(rng: Rng, folder: Path) -> None:
    """Parse settings with overrides."""
    overrides = [f"{pick(rng, SETTINGS)}={pick(rng, VALUES)}" for _ in range(int(rng.integers(0, 3)))]
    if rng.random() < 0.3:
        load_config(str(pick(rng, [*presets(), "none", "", "\0", str(folder)])), overrides)
        return
    text = dump_config(Config())
    if rng.random() < 0.6:
        text = damaged(rng, text.encode()).decode(errors="replace")
    parse_config(text, overrides)


def recbole_case(rng: Rng, folder: Path) -> None:
    """Read a RecBole file."""
    path = folder / "recbole.yaml"
    text = "".join(str(pick(rng, RECBOLE)) for _ in range(int(rng.integers(1, 3)))).encode()
    path.write_bytes(damaged(rng, text) if rng.random() < 0.6 else text)
    read_recbole(path, [f"{pick(rng, SETTINGS)}={pick(rng, VALUES)}"] if rng.random() < 0.2 else [])
