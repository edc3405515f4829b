"""The README and the guides are true."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import worlds
from packed import encode_each_prefix
from ssd4rec import load_artifact, load_config, make_model, pipeline, read_interactions, save_artifact, training_counts
from ssd4rec.cli import app
from ssd4rec.errors import ConfigError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGES = (ROOT / "docs" / "how-to" / "change-one-thing.md").read_text(encoding="utf-8")
SERVING = (ROOT / "docs" / "how-to" / "recommend-from-python.md").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_the_explicit_path_runs(tmp_path, monkeypatch):
    """The block of the README runs as printed, and gives the metrics and the protocol of `pipeline.train`."""
    *_, block = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    worlds.frame(worlds.cycle()).write_csv("plays.csv")
    names = {}
    exec(block, names)  # noqa: S102 - the README's own lines
    assert len(names["ranking"].ranks) == 60
    config = names["config"]
    report = pipeline.train(pipeline.prepare(read_interactions("plays.csv"), None, config), config, "model").report
    assert names["ranking"].as_dict() == report["test"]
    assert names["ranking"].protocol.as_dict() == report["protocol"]
    assert names["training"].best_ndcg == report["validation"]["ndcg@10"]
    weights = load_artifact("model").model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in names["model"].state_dict().items())


@pytest.mark.thorough
def test_the_three_lines_run(tmp_path, monkeypatch):
    """The first block of the README runs as printed."""
    block, *_ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    plays = worlds.frame(worlds.cycle()).with_columns(pl.format("id{}", "item_id").alias("item_id"))
    plays.write_parquet("plays.parquet")
    names = {}
    exec(block, names)  # noqa: S102 - the README's own lines
    assert load_artifact("model").catalog.ids.to_list() == names["model"].artifact.catalog.ids.to_list()


def test_the_guide_to_recommending_runs(tmp_path, monkeypatch):
    """Its blocks, one after the other, on a model of items with the ids that it writes; all that it names are known."""
    monkeypatch.chdir(tmp_path)
    plays = worlds.frame(worlds.cycle()).with_columns(pl.format("id{}", "item_id").alias("item_id"))
    plays.write_csv("plays.csv")
    config = worlds.config(max_epochs=1)
    pipeline.train(pipeline.prepare(read_interactions("plays.csv"), None, config), config, "model")
    blocks = re.findall(r"```python\n(.*?)```", SERVING, flags=re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - the guide's own lines
    assert names["result"].warnings == ()
    assert names["counts"] == {"users": 60, "rows": pl.read_parquet("recommendations.parquet").height} | {
        "unknown_interactions": 0,
        "popular_users": 0,
    }
    assert names["session"].history == ("id7", "id3", "id4") == names["store"].history("cleo")
    assert len(names["store"]) == 2


@pytest.mark.thorough
def test_the_guide_to_a_new_model_runs(tmp_path, monkeypatch):
    """Its network learns the next item of the cycle, and each state is that of its prefix; the settings that it names exist."""
    monkeypatch.chdir(tmp_path)
    worlds.frame(worlds.cycle()).write_csv("plays.csv")
    _, block = re.findall(r"```python\n(.*?)```", CHANGES, flags=re.DOTALL)
    names = {}
    exec(block, names)  # noqa: S102 - the guide's own lines
    assert names["ranking"].ndcg[10] > 0.9
    network = names["LastAndMean"](8).double()
    row, cu_seqlens = torch.randn(9, 8, dtype=torch.float64), torch.tensor([0, 4, 9])
    assert torch.allclose(network.encode_prefixes(row, cu_seqlens), encode_each_prefix(network.encode, row, cu_seqlens))
    keys = set(re.findall(r"`((?:data|backbone|training|evaluation)\.\w+)", CHANGES))
    all_settings = {f"{group}.{key}" for group, values in load_config("quick") for key in type(values).model_fields}
    assert keys - all_settings == set()
    assert len(keys) > 12


def test_the_guide_to_change_the_loss_runs():
    """Scores 0, 1 and 3 of items 1 to 3: the target 2 is 3 - 1 + 1 short of its margin, the target 3 is beyond it."""
    block, _ = re.findall(r"```python\n(.*?)```", CHANGES, flags=re.DOTALL)
    names = {}
    exec(block, names)  # noqa: S102 - the guide's own lines
    encoder = torch.nn.Module()
    encoder.width = 1
    model = names["HingeModel"](encoder, 3)
    model.table.weight.data = torch.tensor([[9.0], [0.0], [1.0], [3.0]])
    assert model.loss(torch.ones(2, 1), torch.tensor([2, 3])).item() == (3.0 + 0.0) / 2


def test_every_path_of_the_guides_to_the_code_exists():
    for text in (CHANGES, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        paths = re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", text)
        assert len(paths) > 10
        assert [path for path in paths if not any((root / path).exists() for root in (ROOT, ROOT / "src" / "ssd4rec"))] == []


def test_a_model_saved_without_metrics_can_be_evaluated(tmp_path, monkeypatch):
    """`evaluate` says what to do; with data it measures."""
    monkeypatch.chdir(tmp_path)
    world = worlds.world(worlds.cycle())
    worlds.frame(worlds.cycle()).write_csv("plays.csv")
    config, items = worlds.config(), len(world.catalog)
    model, counts = make_model(config, items), training_counts(world.histories, world.split.train, items)
    save_artifact("model", model, world.catalog, config, {}, counts)
    answer = CliRunner().invoke(app, ["evaluate", "model"])
    assert isinstance(answer.exception, ConfigError)
    assert str(answer.exception) == "model was saved without metrics; evaluate it on data: ssd4rec evaluate model DATA"
    answer = CliRunner().invoke(app, ["evaluate", "model", "plays.csv", "--json"])
    assert json.loads(answer.stdout)["notes"] == ["the model has no record of its data; test targets may be training targets"]
