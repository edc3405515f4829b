"""Synthetic data sets with a known answer."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ssd4rec.config import Config, DataConfig, SSD4RecConfig, TrainingConfig
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.sequences import Sequences, build_sequences
from ssd4rec.pipeline import Prepared, prepare

# a folder of NAME.inter.gz; tests of missing files are skipped
DATA = Path(os.environ.get("SSD4REC_DATA", Path(__file__).parents[2] / "shared" / "data"))
MARKER, END = 98, 99


def frame(histories: list[list[int]]) -> pl.DataFrame:
    """Return one row per interaction in the order of time; user j has the j-th history."""
    return pl.DataFrame(
        {
            "user_id": [user for user, items in enumerate(histories) for _ in items],
            "item_id": [item for items in histories for item in items],
            "timestamp": [time for items in histories for time, _ in enumerate(items)],
        }
    )


def config(**training: object) -> Config:
    """Return the settings of a small model that learns these data sets in seconds on one core."""
    settings = {"learning_rate": 1e-2, "max_epochs": 12, "token_budget": 256, "mask_ratio": 0.0, "seed": 7} | training
    return Config(
        data=DataConfig(min_interactions=1),
        backbone=SSD4RecConfig(width=32, state_dim=16, head_width=16, dropout=0.0),
        training=TrainingConfig.model_validate(settings),
    )


def world(histories: list[list[int]], settings: Config | None = None) -> Prepared:
    """Return sequences, catalog and split of a synthetic data set."""
    return prepare(read_interactions(frame(histories)), None, settings or config())


def real_file(name: str) -> Path:
    """Return a file of a real data set; the test is skipped if it is missing."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"there is no {path}; $SSD4REC_DATA names the folder")
    return path


def real(name: str) -> Sequences:
    """Return a real data set after 5-core filtering."""
    return build_sequences(read_interactions(real_file(f"{name}.inter.gz")), 5)[0]


def cycle(users: int = 60, items: int = 12) -> list[list[int]]:
    """Return sequences in which item i is followed by item i + 1, cyclically."""
    rng = np.random.default_rng(0)
    lengths, starts = rng.integers(5, 20, users).tolist(), rng.integers(0, items, users).tolist()
    return [[(start + step) % items for step in range(length)] for start, length in zip(starts, lengths, strict=True)]


def two_clans(users: int = 60, items: int = 20) -> list[list[int]]:
    """Return random sequences of even items for even users and odd items for odd users."""
    rng = np.random.default_rng(0)
    return [(2 * rng.integers(0, items // 2, 12) + user % 2).tolist() for user in range(users)]


def echo(users: int = 200, names: int = 6, noise: int = 6) -> list[list[int]]:
    """Return sequences of a name, noise, a marker, and the name again: predicting it needs long-range memory.

    The name is the validation target, which selects the best epoch.
    """
    rng = np.random.default_rng(0)
    histories = []
    for user in range(users):
        name = user % names
        rounds = [[name, *(10 + rng.integers(0, 10, rng.integers(2, noise))).tolist(), MARKER] for _ in range(2)]
        histories.append([*rounds[0], *rounds[1], name, END])
    return histories
