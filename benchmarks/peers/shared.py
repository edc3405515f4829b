"""Shared parts of the runners: the data, our definition of NDCG@10, the time limit, JSON lines.

A runner is started by `bench_peers.py` with the Python of the library that it runs, so this file needs NumPy alone.
"""

import argparse
import json
import resource
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SEED = 2024
WIDTH = 64  # D
LONGEST = 50  # events that the peers read of a history
ANOMALY_BATCHES = 4
PROTOCOLS = {"test_ndcg": False, "test_ndcg_excluded": True}  # of the last line: whether seen items are excluded


class Sequences(NamedTuple):
    """What `Sequences.save` of ssd4rec wrote: the events of user u, oldest first, are items[offsets[u]:offsets[u + 1]]."""

    items: np.ndarray  # [events] item numbers, 1 … V
    offsets: np.ndarray  # [users + 1]

    @property
    def users(self) -> int:
        """How many there are; each has one validation and one test target."""
        return len(self.offsets) - 1

    @property
    def user_of(self) -> np.ndarray:
        """[events] whose."""
        return np.repeat(np.arange(self.users), np.diff(self.offsets))

    @property
    def place_of(self) -> np.ndarray:
        """[events] 0 is a user's first."""
        return np.arange(len(self.items)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    @property
    def training_lengths(self) -> np.ndarray:
        """[users] events that are neither the validation nor the test target."""
        return np.diff(self.offsets) - 2

    def targets(self, back: int) -> np.ndarray:
        """[users] the last event (back = 1, the test) or the one before it (back = 2, the validation)."""
        return self.items[self.offsets[1:] - back]


def options() -> argparse.Namespace:
    """--histories, --threads, --epochs, --minutes, --model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--histories", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--model", default="SASRec")
    return parser.parse_args()


def read(folder: Path) -> Sequences:
    """The histories that every runner reads."""
    histories = Sequences(np.load(folder / "items.npy"), np.load(folder / "offsets.npy"))
    if histories.training_lengths.min() < 2:
        sys.exit("every history needs four events: two to train on, one to validate and one to test")
    return histories


def check_targets(histories: Sequences, part: str, back: int, user_to_target: dict[int, int]) -> int:
    """How many targets there are; ends the run unless they are ours, user by user."""
    ours = dict(enumerate(histories.targets(back).tolist()))
    if user_to_target != ours:
        wrong = [user for user in ours if user_to_target.get(user) != ours[user]]
        sys.exit(f"{part}: {len(wrong)} of {len(ours)} users have another target, the first is user {wrong[0]}")
    return len(ours)


def ndcg_at_10(ranks: np.ndarray) -> float:
    """As ssd4rec.evaluation.metrics: the mean of 1 / log2(rank + 1) where the 1-based rank is 10 or better, else 0."""
    return float(np.mean(np.where(ranks <= 10, 1.0 / np.log2(ranks + 1.0), 0.0)))


class Clock:
    """Says when to stop: after so many epochs, or when another one would not fit into the minutes of training."""

    def __init__(self, epochs: int, minutes: float) -> None:
        self.epochs, self.seconds = epochs, minutes * 60
        self.done, self.spent = 0, 0.0

    def epoch(self, seconds: float) -> bool:
        """Count an epoch; whether there is room for another."""
        self.done, self.spent = self.done + 1, self.spent + seconds
        return self.done < self.epochs and self.spent + self.spent / self.done <= self.seconds


def report(kind: str, **figures: Any) -> None:
    """One JSON line: "start", one "epoch" each, "anomaly" where it applies, "end"."""
    sys.__stdout__.write(json.dumps({"kind": kind, **figures}) + "\n")
    sys.__stdout__.flush()


def versions(*names: str) -> str:
    """Name and version of packages, for the notes."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in (*names, "torch", "numpy"))


def peak_bytes() -> int:
    """The most memory that this process has held; on Linux without what its parent held before it was started."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Until now."""
        return time.perf_counter() - self._began
