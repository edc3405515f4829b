"""Training goes on with new users and new items."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import ssd4rec
import worlds
from ssd4rec import cli, pipeline
from ssd4rec.artifact import load_artifact
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.sequences import build_sequences
from ssd4rec.errors import ArtifactError, ConfigError, DataError
from ssd4rec.models.next_item import fingerprint
from ssd4rec.training import checkpoint
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.continuation import grow

CONFIG = worlds.config(max_epochs=2, token_budget=128)
ITEMS = 12


@pytest.fixture(scope="module")
def start():
    return pipeline.train(worlds.world(worlds.cycle(users=20, items=ITEMS)), CONFIG)


@pytest.fixture(scope="module")
def new_log():
    """New users, whose cycle has three more items; item 99 is a test target alone."""
    histories = worlds.cycle(users=12, items=ITEMS + 3)
    log = worlds.frame([[*histories[0], 99], *histories[1:]])
    return log.with_columns(user_id=log["user_id"] + 1000)


@pytest.fixture(scope="module")
def data(start, new_log):
    return pipeline.prepare(read_interactions(new_log), None, CONFIG, start.catalog)


def test_known_items_keep_their_indices_and_new_ones_follow(start, data, new_log):
    """The sequences are those of the ids."""
    assert data.catalog.ids.head(ITEMS).equals(start.catalog.ids)
    assert set(data.catalog.ids.tail(4)) == {12, 13, 14, 99}
    expected = [group["item_id"].to_list() for _, group in new_log.group_by("user_id", maintain_order=True)]
    offsets = data.histories.offsets
    sequences = [data.catalog.ids_of(data.histories.items[first:stop]).to_list() for first, stop in pairwise(offsets)]
    assert sequences == expected


def test_known_items_are_never_filtered():
    """New items need as many interactions as ever; the base item 1 occurs once."""
    base = Catalog(pl.Series("id", [5, 1]))
    log = worlds.frame([[1, 7, 7, 8], [5, 7, 5, 5]])
    sequences, catalog = build_sequences(read_interactions(log), 3, base=base)
    assert catalog.ids.to_list() == [5, 1, 7]
    assert sequences.items.tolist() == [2, 3, 3, 1, 3, 1, 1]
    assert sequences.filtering.removed.items == 1


def test_rows_before_training(start, data):
    """Old rows and all other weights are those of the model; a new row is the weighted mean of its known neighbors."""
    rules = pipeline.count_sequential_rules(data)
    grown, without_neighbors = grow(start.model, CONFIG, len(data.catalog), rules)
    old, new = start.model.state_dict(), grown.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old if name != "table.weight")
    assert torch.equal(new["table.weight"][: ITEMS + 1], old["table.weight"])
    assert without_neighbors == 1
    for index in range(ITEMS + 1, len(data.catalog) + 1):
        weights = np.zeros(ITEMS)
        for column, weight in zip(
            rules.columns[rules.edges[index - 1] : rules.edges[index]],
            rules.weights[rules.edges[index - 1] : rules.edges[index]],
            strict=True,
        ):
            if column < ITEMS:
                weights[column] = weight
        if not weights.any():  # item 99
            weights[:] = 1
        expected = weights @ old["table.weight"][1:].double().numpy() / weights.sum()
        assert new["table.weight"][index].numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_scores_of_known_items_are_unchanged_without_training(start):
    """With no training interaction of the new items, and none of training, scores are equal bit for bit."""
    grown = grow(start.model, CONFIG, ITEMS + 2, SequentialRules.nothing(ITEMS + 2))[0].eval()
    items, offsets = torch.tensor([3, 4, 5, 7, 8]), torch.tensor([0, 3, 5])
    with torch.inference_mode():
        before = start.model.eval().score(start.model.encode(items, offsets))
        after = grown.score(grown.encode(items, offsets))
    assert torch.allclose(after[:, :ITEMS], before, rtol=0, atol=1e-6)
    assert torch.allclose(after[:, ITEMS:], before.mean(1, keepdim=True).expand(-1, 2), atol=1e-5)


def test_the_report_has_metrics_before_and_after(start, data, tmp_path):
    """Before: those of the old model, which cannot rank new items. After: those of the saved one."""
    model = pipeline.train(data, CONFIG, tmp_path / "model", start=start)
    continued = model.report["continued"]
    assert continued["from"] == fingerprint(start.model)
    assert continued["items"] == {"before": ITEMS, "new": 4, "without_neighbors": 1}
    assert continued["test"]["after"] == model.report["test"]
    targets = data.catalog.ids_of(data.histories.items[data.split.test.first_target])
    new_targets = int((targets >= ITEMS).sum())
    assert continued["unknown_targets"] == new_targets > 0
    part = pipeline.evaluate_artifact(start, read_interactions(_as_log(data)), CONFIG)
    assert continued["test"]["before"] == part["test"]
    assert fingerprint(load_artifact(tmp_path / "model").model) == fingerprint(model.model) != fingerprint(start.model)
    # items that only the old model has seen stay recommendable
    assert (model.training_counts[1 : ITEMS + 1] >= start.training_counts[1:]).all()


def _as_log(data):
    users = np.repeat(data.histories.users.to_numpy(), np.diff(data.histories.offsets))
    items = data.catalog.ids_of(data.histories.items)
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp": data.histories.times})


class Stop(Callback):
    """Ends a training like a power cut."""

    def on_batch_start(self, loop):
        if loop.step == 1:
            raise ConnectionAbortedError("power cut")


def test_it_resumes_with_the_same_start_only(start, data, tmp_path, monkeypatch):
    """Bit for bit; without the model it is another training."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    uninterrupted = pipeline.train(data, CONFIG, start=start)
    with pytest.raises(ConnectionAbortedError):
        pipeline.train(data, CONFIG, tmp_path / "model", start=start, callbacks=[Stop()])
    with pytest.raises(ArtifactError, match="another model to start from"):
        pipeline.train(data, CONFIG, tmp_path / "model", resume=True)
    resumed = pipeline.train(data, CONFIG, tmp_path / "model", start=start, resume=True)
    assert fingerprint(resumed.model) == fingerprint(uninterrupted.model)


def test_what_cannot_be_continued(start, new_log):
    """Another width, other items, other types of ids."""
    model = ssd4rec.Recommender(start)
    with pytest.raises(ConfigError, match=r"another network: backbone.width is 16, the model has 32; remove these settings"):
        ssd4rec.train(new_log, start_from=model, settings={"backbone.width": 16})
    with pytest.raises(ConfigError, match=r"backbone.name is 'gru4rec', the model has 'ssd4rec'"):
        ssd4rec.train(new_log, start_from=model, config="quick", settings={"backbone.name": "gru4rec"})
    others = new_log.with_columns(item_id=new_log["item_id"] + 500)
    with pytest.raises(DataError, match="none of the 16 items is in the catalog of the model, which was trained on 12 others"):
        ssd4rec.train(others, start_from=model)
    words = new_log.with_columns(item_id="item " + new_log["item_id"].cast(pl.String))
    with pytest.raises(DataError, match=r"the item id 'item .*' is not Int64 like the items of the model, such as"):
        ssd4rec.train(words, start_from=model)
    with pytest.raises(ConfigError, match=r"start_from is a model of ssd4rec.train or ssd4rec.load, or its folder; found int"):
        ssd4rec.train(new_log, start_from=3)


@pytest.mark.thorough
def test_the_command_line_equals_python(start, new_log, tmp_path):
    """Text ids of a file are the numbers of the model; titles of old items stay."""
    titled = Catalog(start.catalog.ids, pl.Series("title", [f"Item {each}" for each in start.catalog.ids]))
    replace(start, catalog=titled).save(tmp_path / "old")
    new_log.write_csv(tmp_path / "new.csv")
    arguments = ["train", str(tmp_path / "new.csv"), "--from", str(tmp_path / "old"), "--out", str(tmp_path / "model"), "--json"]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    report = json.loads(result.stdout)
    model = ssd4rec.train(new_log, start_from=tmp_path / "old", final_fit=False)
    loaded = ssd4rec.load(tmp_path / "model")
    assert loaded.fingerprint() == model.fingerprint()
    assert report["continued"] == json.loads(json.dumps(model.report["continued"]))
    assert loaded.artifact.catalog.titles[:ITEMS].equals(titled.titles)
    assert loaded.artifact.catalog.titles[ITEMS:].null_count() == 4
    # on the data of the training it is recognized
    assert pipeline.evaluate_artifact(model.artifact, read_interactions(new_log), CONFIG)["notes"] == []
    shown = CliRunner().invoke(cli.app, ["evaluate", str(tmp_path / "model")], catch_exceptions=False)
    assert "continued: 12 items and 4 new ones; before and after: hr@10" in " ".join(shown.output.split())


def test_item_features_cannot_be_continued(start, new_log):
    """Their weights are folded into the vectors of the items."""
    items = pl.DataFrame({"item_id": range(ITEMS), "genre": ["a", "b"] * (ITEMS // 2)})
    with pytest.raises(ConfigError, match="a model with item features cannot be continued"):
        ssd4rec.train(new_log, items=items, start_from=ssd4rec.Recommender(start))
