"""Cases of the fuzz campaign: damaged model folders and sessions, and arguments of Python functions."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import ssd4rec
import worlds
from fuzz.inputs import Rng, damaged, pick
from ssd4rec.artifact import load_artifact, save_artifact
from ssd4rec.data.split import training_counts
from ssd4rec.models.next_item import make_model
from ssd4rec.serving.session import Session

MANIFEST = "manifest.json"
HISTORIES: tuple[Any, ...] = (
    [1, 2, 3],
    [],
    (4,),
    np.array([1, 2]),
    np.array(3),
    pl.Series([1, 2]),
    "1",
    b"1",
    None,
    3,
    [None],
    [[1], [2, 3]],
    [[1], 2],
    [{}],
    [np.nan],
    [float("inf")],
    [2**70],
    ["\0", "\ud800"],
    [[[1]]],
    {1, 2},
    {1: 2},
    [np.array([1])],
    [True],
    range(3),
)
NUMBERS: tuple[Any, ...] = (1, 3, 5, 10**6, 0, -1, True, 2.5, None, "3", np.int64(2), np.array(2), [], float("nan"))
OTHERS: tuple[Any, ...] = (True, False, None, 1, "x", "skip", "raise", "popular", [], {}, np.bool_(1), "effects", "parts")


class ModelCases:
    """A small model, whose files are damaged and whose methods are called.

    Args:
        folder: where its files are.
    """

    def __init__(self, folder: Path) -> None:
        data, config = worlds.world(worlds.cycle(users=8, items=6)), worlds.config()
        model = make_model(config, len(data.catalog)).eval()
        counts = training_counts(data.histories, data.split.train, len(data.catalog))
        self.model, self.session = folder / "model", folder / "session"
        save_artifact(self.model, model, data.catalog, config, {}, counts)
        self.recommender = ssd4rec.load(self.model)
        Session(self.recommender, [1, 2, 3]).save(self.session)
        self.files = {path: path.read_bytes() for path in sorted(self.model.iterdir())}
        self.saved = self.session.read_bytes()

    def model_case(self, rng: Rng, folder: Path) -> None:
        """Load a model with a damaged file; only an unchanged one may be accepted."""
        del folder
        path = pick(rng, list(self.files))
        data = damaged(rng, self.files[path])
        path.write_bytes(data)
        try:
            load_artifact(self.model)
        finally:
            path.write_bytes(self.files[path])
        assert data == self.files[path] or path.name == MANIFEST, f"accepted with a damaged {path.name}"

    def session_case(self, rng: Rng, folder: Path) -> None:
        """Load a damaged session; only an unchanged one may be accepted."""
        del folder
        data = damaged(rng, self.saved)
        self.session.write_bytes(data)
        Session.load(self.session, self.recommender)
        assert data == self.saved, "accepted a damaged session"

    def arguments_case(self, rng: Rng, folder: Path) -> None:
        """Call a function with arguments of any type."""
        history, k = pick(rng, HISTORIES), pick(rng, NUMBERS) if rng.random() < 0.5 else 3
        method = int(rng.integers(5))
        if method == 0:
            options = {
                name: pick(rng, values)
                for name, values in (
                    ("exclude_seen", OTHERS),
                    ("allow", HISTORIES),
                    ("deny", HISTORIES),
                    ("unknown_items", OTHERS),
                )
                if rng.random() < 0.2
            }
            self.recommender.recommend(history, k, **options)
        elif method == 1:
            level = pick(rng, OTHERS) if rng.random() < 0.3 else "parts"
            self.recommender.explain(history, pick(rng, [1, 2, [1, 2], *HISTORIES]), level, k=k)
        elif method == 2:
            session = Session(self.recommender, history)
            session.add(pick(rng, [1, *HISTORIES]))
            session.recommend(k)
        elif method == 3:
            self.recommender.similar_items(pick(rng, [1, *HISTORIES]), k)
        else:
            ssd4rec.load(pick(rng, [self.model, *HISTORIES, folder, "\0", "", "x" * 5000]))
