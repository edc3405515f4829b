"""Training and loading in one call."""

import json

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import ssd4rec
import worlds
from ssd4rec import cli
from ssd4rec.errors import ArtifactError, ConfigError, DataError
from ssd4rec.pipeline import preparation

SETTINGS = {
    "data.min_interactions": 1,
    "backbone.width": 16,
    "backbone.state_dim": 8,
    "training.token_budget": 256,
    "training.max_epochs": 2,
}


@pytest.fixture(scope="module")
def frame():
    return worlds.frame(worlds.cycle())


@pytest.fixture(scope="module")
def model(frame):
    return ssd4rec.train(frame, settings=SETTINGS)


@pytest.mark.thorough
def test_training_equals_the_command_line(frame, model, tmp_path):
    """The same data and settings give the same weights, bit for bit, and the same metrics."""
    frame.write_csv(tmp_path / "log.csv")
    options = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(
        cli.app,
        ["train", str(tmp_path / "log.csv"), "--out", str(tmp_path / "model"), "--json", *options],
        catch_exceptions=False,
    )
    report = json.loads(result.stdout)
    assert report["test"] == dict(model.report["test"])
    weights = ssd4rec.load(tmp_path / "model").artifact.model.state_dict()
    for name, tensor in model.artifact.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.thorough
def test_dense_data_have_the_wide_preset(frame, tmp_path, monkeypatch):
    """Unless a preset is named or a training continues, also on the command line."""
    monkeypatch.setattr(preparation, "DENSE", 1.0)
    settings = {name: value for name, value in SETTINGS.items() if name != "backbone.width"}
    wide = ssd4rec.train(frame, settings=settings)
    usual = ssd4rec.train(frame, config="regularized", settings=settings)
    continued = ssd4rec.train(frame, start_from=usual, settings={"training.max_epochs": 1})
    assert [each.artifact.config.backbone.width for each in (wide, usual, continued)] == [128, 64, 64]
    frame.write_csv(tmp_path / "log.csv")
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = ["train", str(tmp_path / "log.csv"), "--out", str(tmp_path / "model"), *options]
    CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert ssd4rec.load(tmp_path / "model").fingerprint() == wide.fingerprint()


def test_pandas_and_polars_frames_give_the_same_model(frame, model):
    """A pandas frame is read like a polars frame."""
    other = ssd4rec.train(pd.DataFrame(frame.to_dict(as_series=False)), settings=SETTINGS)
    assert other.fingerprint() == model.fingerprint()


def test_a_saved_model_gives_the_same_recommendations(model, tmp_path):
    """`save` and `load` keep weights, catalog, fusion and report."""
    model.save(tmp_path / "model")
    loaded = ssd4rec.load(tmp_path / "model")
    assert loaded.recommend([3, 4, 5]) == model.recommend([3, 4, 5])
    assert loaded.report["test"] == model.report["test"]


def test_out_saves_the_model(frame, tmp_path):
    """With `out` the folder holds the model that is returned."""
    model = ssd4rec.train(frame, settings=SETTINGS, out=tmp_path / "model")
    assert ssd4rec.load(tmp_path / "model").fingerprint() == model.fingerprint()


def test_columns_can_be_named(frame, model):
    """Columns with unusual names are passed by name."""
    renamed = frame.rename({"user_id": "who", "item_id": "what", "timestamp": "when"})
    other = ssd4rec.train(renamed, user="who", item="what", time="when", settings=SETTINGS)
    assert other.fingerprint() == model.fingerprint()


def test_invalid_arguments_raise_before_training(frame, tmp_path):
    """Unknown settings, missing folders and unreadable input are errors of the library."""
    with pytest.raises(ConfigError, match="unknown setting"):
        ssd4rec.train(frame, settings={"training.epochs": 3})
    with pytest.raises(ConfigError, match="resume=True needs the folder"):
        ssd4rec.train(frame, resume=True)
    with pytest.raises(DataError):
        ssd4rec.train(frame.head(0), settings=SETTINGS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot write"):
        ssd4rec.train(frame, settings=SETTINGS, out=tmp_path / "file" / "model")
    with pytest.raises(ArtifactError, match="no model at"):
        ssd4rec.load(tmp_path / "nothing")
