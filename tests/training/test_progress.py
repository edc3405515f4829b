"""The line of each epoch says what is true of this training."""

import io
import re
from contextlib import suppress

import pytest
from rich.console import Console

import worlds
from ssd4rec.models.next_item import make_model
from ssd4rec.training.callbacks import Callback, TrainingProgress
from ssd4rec.training.loop import fit

pytestmark = pytest.mark.thorough


class Stop(Callback):
    """A power cut before an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_start(self, loop):
        if loop.epoch == self.epoch:
            raise ConnectionAbortedError("power cut")


@pytest.fixture(scope="module")
def world():
    return worlds.world(worlds.cycle(users=30))


def lines(world, progress, console, **how):
    """The output of a training."""
    callbacks = [progress, *how.pop("more", [])]
    config = worlds.config(max_epochs=4, **how.pop("training", {}))
    before = len(console.file.getvalue())
    with suppress(ConnectionAbortedError):
        fit(make_model(config, len(world.catalog)), world.histories, world.split, config.training, callbacks=callbacks, **how)
    return console.file.getvalue()[before:].splitlines()


def expected_marks(scores):
    """By hand: the first of the highest scores so far."""
    best = [scores.index(max(scores[: place + 1])) for place in range(len(scores))]
    return ["best so far" if at == place else f"best {scores[at]:.4f} in epoch {at + 1}" for place, at in enumerate(best)]


def score_and_mark(line):
    match = re.fullmatch(r"epoch +\d+   loss [\d.]+   validation ndcg@10 ([\d.]+)   (.*)", line)
    return float(match[1]), match[2]


def test_a_second_training_has_its_own_best(world):
    """One progress serves all trials of a search; what an earlier one reached is not the best of a poor one."""
    console = Console(file=io.StringIO(), width=200)
    progress = TrainingProgress(console)
    first = [score_and_mark(line) for line in lines(world, progress, console)]
    second = [score_and_mark(line) for line in lines(world, progress, console, training={"learning_rate": 1e-5})]
    assert max(score for score, _ in second) < max(score for score, _ in first)
    for history in (first, second):
        assert [mark for _, mark in history] == expected_marks([score for score, _ in history])


def test_a_resumed_training_keeps_its_best(world, tmp_path):
    """The lines after a power cut are those of an unbroken training, whatever the progress saw in between."""
    console = Console(file=io.StringIO(), width=200)
    perfect = {"learning_rate": 2e-2}  # 1.0000 before the last epoch, which is not better
    whole = lines(world, TrainingProgress(console), console, training=perfect)
    progress = TrainingProgress(console)
    cut = lines(world, progress, console, training=perfect, directory=tmp_path, more=[Stop(3)])
    lines(world, progress, console)
    rest = lines(world, progress, console, training=perfect, directory=tmp_path, resume=True)
    assert cut + rest == whole
    assert "in epoch" in rest[0]
