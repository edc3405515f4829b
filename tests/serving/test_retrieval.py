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
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.split import training_counts
from ssd4rec.errors import BackendError, ConfigError
from ssd4rec.fusion import ScoreFusion
from ssd4rec.layers.repeat_logits import RepeatLogits
from ssd4rec.models.next_item import NextItemModel, make_model
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.serving import retrieval
from ssd4rec.serving.arrow import BatchOptions
from ssd4rec.serving.parts import make_job
from ssd4rec.serving.recommender import Recommender
from ssd4rec.serving.retrieval import Request
from ssd4rec.serving.session import Session
from ssd4rec.serving.topk import top_items

if not retrieval.available():
    pytest.skip("faiss is not installed", allow_module_level=True)

ITEMS = 3000


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return NextItemModel(SSD4Rec(SSD4RecConfig(width=16, state_dim=16, head_width=16)), ITEMS).eval()


def by_product(states, count):
    return lambda index: [row[row > 0] for row in index.search(states, count)]


@pytest.mark.thorough
def test_recall_is_measured_and_reached(model):
    """More lists are visited for a higher target; the measured recall is that of a comparison with all scores."""
    states = torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    every = retrieval.make_index(model.item_vectors, None)
    coarse = retrieval.with_recall(every, by_product(states, 100), target_recall=0.3)
    fine = retrieval.with_recall(every, by_product(states, 100), target_recall=0.98)
    assert coarse.probes < fine.probes <= every.probes
    assert coarse.recall < 0.98 <= fine.recall
    with torch.inference_mode():
        exact = (states @ model.item_vectors.T).topk(100).indices.numpy() + 1
        for index in (coarse, fine):
            shares = [len(np.intersect1d(*pair)) / 100 for pair in zip(index.search(states, 100), exact, strict=True)]
            assert index.recall == pytest.approx(np.mean(shares))
    assert f"{fine.recall:.1%} of the 100 best items are found, measured with 200 histories" in fine.warning


def test_excluded_items_are_never_found(model):
    excluded = np.zeros(ITEMS, dtype=bool)
    excluded[::2] = True
    states = torch.randn(50, 16, generator=torch.Generator().manual_seed(2))
    items = retrieval.make_index(model.item_vectors, excluded).search(states, 20)
    assert not excluded[items[items > 0] - 1].any()
    assert (np.diff(items, axis=1) >= 0).all()


def pairs_of(seed, signs):
    """Return random co-occurrences, five items for each."""
    random = np.random.default_rng(seed)
    columns = np.sort(np.stack([random.permutation(ITEMS)[:5] for _ in range(ITEMS)]), axis=1)
    weights = random.random(columns.size) * random.choice(signs, columns.size)
    return SequentialRules(np.arange(0, 5 * ITEMS + 1, 5), columns.ravel().astype(np.int32), weights.astype(np.float32))


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(
    ("repeat_logit", "weight", "repeat_bias", "signs"),
    [(-0.3, 0.0, 0.0, [1]), (0.3, 0.05, 0.0, [1]), (None, 0.05, -0.5, [1, -1]), (0.2, 0.05, 0.2, [1, -1])],
)
def test_nothing_is_missed_if_every_list_is_visited(exclude_seen, repeat_logit, weight, repeat_bias, signs):
    """Repeat logits, co-occurrence scores and a repeat bias are part of the scores, as in the exact path."""
    torch.manual_seed(3)
    logits = None if repeat_logit is None else RepeatLogits(16, "popularity", ITEMS)
    backbone = SSD4Rec(SSD4RecConfig(width=16, state_dim=16, head_width=16))
    model = NextItemModel(backbone, ITEMS, repeat_logits=logits).eval()
    if logits is not None:
        with torch.no_grad():
            logits.weight.normal_(repeat_logit / 10, 0.02)
            logits.state_weight.normal_(std=0.1)
    fusion = ScoreFusion(pairs_of(4, signs), weight, repeat_bias)
    random = np.random.default_rng(5)
    histories = [random.integers(1, 9, length) for length in (1, 5, 40, 12)]
    excluded = random.random(ITEMS) < 0.1
    request = Request(20, exclude_seen=exclude_seen, excluded=excluded, require_known_history=False)
    counts = np.ones(ITEMS + 1, dtype=np.int64)
    config, catalog = worlds.config(), Catalog(pl.Series("id", range(ITEMS)))
    for max_length in (None, 8):
        changed = config.model_copy(update={"data": config.data.model_copy(update={"max_length": max_length})})
        artifact = Artifact(model, catalog, changed, {}, counts, fusion)
        exact = top_items(artifact, histories, request)
        with_index = replace(request, index=retrieval.make_index(model.item_vectors, excluded))
        for ours, theirs in zip(top_items(artifact, histories, with_index), exact, strict=True):
            np.testing.assert_array_equal(ours.items, theirs.items)
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)


def test_what_cooccurs_is_found_without_its_list(model):
    """Items whose score fusion raises are candidates although the index does not return them."""
    fusion = ScoreFusion(pairs_of(6, [1]), 100.0)
    index = replace(retrieval.make_index(model.item_vectors, None), probes=1)
    request = Request(5, exclude_seen=True, excluded=None, require_known_history=False, index=index)
    history = np.array([7])
    counts = np.ones(ITEMS + 1, dtype=np.int64)
    artifact = Artifact(model, Catalog(pl.Series("id", range(ITEMS))), worlds.config(), {}, counts, fusion)
    (top,) = top_items(artifact, [history], request)
    assert sorted(top.items) == (fusion.pairs.columns[30:35] + 1).tolist()


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


def test_a_session_searches_the_index_too(recommender, monkeypatch):
    approximate, searches, search = recommender.approximate([[1, 2, 3]]), [], retrieval.ApproximateIndex.search
    monkeypatch.setattr(retrieval.ApproximateIndex, "search", lambda *given: searches.append(given) or search(*given))
    answer = Session(approximate, [1, 2, 3]).recommend(4)
    assert len(searches) == 1
    assert [each.item for each in answer.items] == [each.item for each in recommender.recommend([1, 2, 3], 4).items]


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


def test_the_recall_is_that_of_the_answers_with_fusion(recommender):
    fusion = ScoreFusion(SequentialRules.nothing(len(recommender.artifact.catalog)), 0.0, -1.0)
    fused = Recommender(replace(recommender.artifact, fusion=fusion))
    histories = [[1, 2, 3], [5], [7, 8, 7]]
    answers = fused.approximate(histories).recommend(histories, 4, exclude_seen=False)
    for ours, exact in zip(answers, fused.recommend(histories, 4, exclude_seen=False), strict=True):
        assert [each.item for each in ours.items] == [each.item for each in exact.items]
        assert "measured with 3 histories" in ours.warnings[0]


def test_histories_without_a_known_item_measure_nothing(recommender):
    with pytest.raises(ConfigError, match="none of these has an item of the catalog"):
        recommender.approximate([["unknown"]])


def test_without_faiss(recommender, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendError, match=r"pip install 'ssd4rec\[retrieval\]'"):
        recommender.approximate([[1, 2]])
