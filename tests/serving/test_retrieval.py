"""Approximate retrieval: exact scores of what it finds, and a measured recall."""

import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import worlds
from ssd4rec.artifact import Artifact, save_artifact
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import SSD4RecConfig
from ssd4rec.data.split import training_counts
from ssd4rec.errors import BackendError, ConfigError
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel, make_model
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.serving import retrieval
from ssd4rec.serving.arrow import BatchOptions
from ssd4rec.serving.job import make_job
from ssd4rec.serving.recommender import Recommender

if not retrieval.available():
    pytest.skip("faiss is not installed", allow_module_level=True)

ITEMS = 3000


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return NextItemModel(SSD4Rec(SSD4RecConfig(width=16, state_dim=16, head_width=16)), ITEMS).eval()


def recall(index, model, states, count):
    exact = (states @ model.item_vectors.T).topk(count).indices.numpy() + 1
    approximate = index.search(states, count)
    return np.mean([len(np.intersect1d(*pair)) / count for pair in zip(approximate, exact, strict=True)])


@pytest.mark.thorough
def test_recall_is_measured_and_reached(model):
    """More lists are visited for a higher target; the measured recall is that of a comparison with all scores."""
    states = torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    coarse = retrieval.make_index(model, states, None, None, target_recall=0.3)
    fine = retrieval.make_index(model, states, None, None, target_recall=0.98)
    assert coarse.probes < fine.probes
    assert coarse.recall < 0.98 <= fine.recall
    with torch.inference_mode():
        for index in (coarse, fine):
            assert index.recall == pytest.approx(recall(index, model, states, 100))
    assert f"{fine.recall:.1%} of the 100 best items are found, measured with 200 histories" in fine.warning


def test_excluded_items_are_never_found(model):
    excluded = np.zeros(ITEMS, dtype=bool)
    excluded[::2] = True
    states = torch.randn(50, 16, generator=torch.Generator().manual_seed(2))
    index = retrieval.make_index(model, states, excluded, None)
    items = index.search(states, 20)
    assert not excluded[items[items > 0] - 1].any()
    assert (np.diff(items, axis=1) >= 0).all()


@pytest.fixture(scope="module")
def recommender():
    world, config = worlds.world(worlds.cycle()), worlds.config()
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    return Recommender(Artifact(make_model(config, len(world.catalog)).eval(), world.catalog, config, {}, counts))


def test_small_catalogs_are_searched_completely(recommender):
    """The same items and scores as without an index; with `allow`, every item is scored and nothing is said."""
    histories = [[1, 2, 3], [5], [7, 8, 7]]
    approximate = recommender.approximate(histories)
    for ours, exact in zip(approximate.recommend(histories, 4), recommender.recommend(histories, 4), strict=True):
        assert [each.item for each in ours.items] == [each.item for each in exact.items]
        assert [each.score for each in ours.items] == pytest.approx([each.score for each in exact.items], abs=1e-6)
        assert "approximate retrieval: 100.0%" in ours.warnings[0]
        assert not exact.warnings
    assert not approximate.recommend([1, 2], 2, allow=[4, 5]).warnings


def test_a_batch_job(recommender, tmp_path, caplog):
    """Every worker measures with the first users, and finds the same."""
    artifact = recommender.artifact
    model = tmp_path / "model"
    save_artifact(model, artifact.model, artifact.catalog, artifact.config, {}, artifact.training_counts)
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "cycle.csv")
    tables = []
    for kind in ("exact", "approximate"):
        job = make_job(model, tmp_path / "cycle.csv", tmp_path / kind, BatchOptions(k=3, retrieval=kind))
        assert not job.open().run().missing
        tables.append(pl.read_parquet(tmp_path / kind / "part-00000.parquet"))
    assert tables[0].drop("score").equals(tables[1].drop("score"))
    assert "approximate retrieval: 100.0%" in caplog.text


def test_models_whose_scores_are_more_than_a_product_are_refused(recommender):
    fusion = ScoreFusion(SequentialRules.nothing(len(recommender.artifact.catalog)), 0.0, -1.0)
    fused = Recommender(replace(recommender.artifact, fusion=fusion))
    with pytest.raises(ConfigError, match='this model has score fusion; use retrieval = "exact"'):
        fused.approximate([[1, 2]])
    with pytest.raises(ConfigError, match="none of these has an item of the catalog"):
        recommender.approximate([["unknown"]])


def test_without_faiss(recommender, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendError, match=r"pip install 'ssd4rec\[retrieval\]'"):
        recommender.approximate([[1, 2]])
