"""The whole path, and what it says on the way."""

import pytest

import worlds
from ssd4rec import experiment
from ssd4rec.config import settings


@pytest.fixture(scope="module")
def prepared():
    return worlds.world(worlds.cycle())


def said(prepared, tmp_path, **training):
    lines = []
    experiment.train(prepared, worlds.config(max_epochs=1, **training), tmp_path / "model", say=lines.append)
    return [line for line in lines if line.startswith("softmax")]


def test_a_sampled_softmax_is_announced(prepared, tmp_path, monkeypatch):
    """Where auto samples, a line says so, why, and what to set; on a small catalogue there is none."""
    assert said(prepared, tmp_path) == []
    items = len(prepared.catalogue)
    monkeypatch.setattr(settings, "FULL_SOFTMAX_UP_TO", items - 1)
    (line,) = said(prepared, tmp_path, negatives=4)
    assert line.startswith(
        f"softmax: sampled, 4 of {items} items a batch, drawn by training counts to the power 0.5 as there are"
    )
    assert "training.softmax=full scores all; ranking is over all items" in line


def test_a_sampled_softmax_that_was_asked_for_is_announced(prepared, tmp_path):
    """A sample above the catalogue's size is all of it."""
    (line,) = said(prepared, tmp_path, softmax="sampled", negative_power=0.0)
    items = len(prepared.catalogue)
    assert line == (
        f"softmax: sampled, {items} of {items} items a batch, drawn by training counts to the power 0; ranking is over all items"
    )
