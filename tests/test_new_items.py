"""Items that were never interacted with are recommended by their features: training, saving, loading, evaluating, errors."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import ssd4rec
import worlds
from ssd4rec import cli, pipeline
from ssd4rec.artifact import FEATURES, load_artifact
from ssd4rec.config import FeaturesConfig, FusionConfig
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.item_table import read_item_table
from ssd4rec.errors import ArtifactError, ConfigError, DataError
from ssd4rec.export.vectors import export_item_vectors
from ssd4rec.models.next_item import make_model
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.user_state import ScoreJob
from ssd4rec.serving.recommender import Recommender
from ssd4rec.training.checkpoint import training_identity

GROUPS, ITEMS = 4, 5
NEW = [f"new{group}" for group in range(GROUPS)]


def histories(users: int = 50) -> list[list[str]]:
    """After an item of a group comes a random item of the next group, cyclically."""
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(0, GROUPS, users), rng.integers(6, 14, users)
    return [
        [f"g{(start + step) % GROUPS}-{rng.integers(ITEMS)}" for step in range(length)]
        for start, length in zip(starts, lengths, strict=True)
    ]


def items() -> pl.DataFrame:
    trained = [f"g{group}-{number}" for group in range(GROUPS) for number in range(ITEMS)]
    ids = [*trained, *NEW]
    groups = [each[1] if each in trained else each[3] for each in ids]
    return pl.DataFrame({"item_id": ids, "title": [each.upper() for each in ids], "group": groups})


def settings(**features):
    base = worlds.config(max_epochs=4, token_budget=128)
    return base.model_copy(update={"features": FeaturesConfig.model_validate({"id_dropout": 0.3, **features})})


@pytest.fixture(scope="module")
def prepared():
    config = settings()
    data = pipeline.prepare(read_interactions(worlds.frame(histories())), None, config)
    return pipeline.add_features(data, items(), config)


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("new") / "model"
    return pipeline.train(prepared, settings(), folder), folder


def test_a_new_item_is_recommended_where_its_group_is_due(trained):
    artifact, _ = trained
    artifact.model.eval()
    recommender = Recommender(artifact)
    for group in range(GROUPS):
        history = [f"g{(group + step) % GROUPS}-0" for step in range(3)]
        due = (group + 3) % GROUPS
        best = [each.item for each in recommender.recommend(history, ITEMS + 1).items]
        assert NEW[due] in best
        assert {each[1] if each[0] == "g" else each[3] for each in best} == {str(due)}
    assert recommender.recommend(["new0"], 3).unknown_items == ()  # it is read, too


def test_fusion_knows_the_new_items(prepared):
    """They co-occur with nothing, so that their scores are those of the model alone."""
    config = settings().model_copy(
        update={"fusion": FusionConfig(cooccurrence=0.1, repeat_bias=-1.0), "training": worlds.config(max_epochs=1).training}
    )
    artifact = pipeline.train(prepared, config)
    artifact.model.eval()
    assert artifact.fusion.pairs.catalog_size == len(artifact.catalog) == artifact.model.catalog_size
    alone = Recommender(replace(artifact, fusion=None))
    fused = Recommender(artifact)
    scores = [{each.item: each.score for each in one.recommend(["g0-0"], 24).items} for one in (alone, fused)]
    assert [scores[0][each] for each in NEW] == [scores[1][each] for each in NEW]
    assert scores[0] != scores[1]


def test_what_is_saved_is_loaded(trained, tmp_path):
    artifact, folder = trained
    artifact.model.eval()
    loaded = load_artifact(folder)
    assert loaded.catalog.ids.to_list()[-GROUPS:] == NEW
    assert loaded.catalog.titles.to_list()[-1] == "NEW3"
    assert torch.equal(loaded.model.item_vectors, artifact.model.item_vectors)
    assert loaded.features.columns == artifact.features.columns
    assert np.array_equal(loaded.features.categories, artifact.features.categories)
    assert (loaded.features.trained, loaded.model.catalog_size) == (GROUPS * ITEMS, GROUPS * ITEMS + GROUPS)
    assert loaded.candidates[1:].all()
    Recommender(loaded).save(tmp_path / "again")
    assert Recommender.load(tmp_path / "again").fingerprint() == Recommender(artifact).fingerprint()
    assert loaded.report["data"]["features"]["new_items"] == GROUPS


def test_the_vector_of_a_new_item_is_made_of_its_features_alone(trained):
    artifact, _ = trained
    table = read_item_table(items(), artifact.config.features)
    rows = np.arange(GROUPS * ITEMS, GROUPS * ITEMS + GROUPS)
    vectors = torch.from_numpy(artifact.features.vectors_of(table, rows))
    torch.testing.assert_close(artifact.model.item_vectors[-GROUPS:].detach(), vectors)


def test_items_are_added_without_training(trained, tmp_path):
    """They get the vectors that they would have had as new items of the training; known items are left alone."""
    artifact, folder = trained
    artifact.model.eval()
    before = Recommender(artifact)
    frame = pl.DataFrame({"item_id": ["later", "g0-0"], "title": ["Later", "Other"], "group": ["1", "3"]})
    after = before.add_items(frame)
    assert after.artifact.catalog.ids.to_list() == [*artifact.catalog.ids.to_list(), "later"]
    assert after.artifact.catalog.titles.to_list()[-1] == "Later"
    place = artifact.catalog.ids.to_list().index("new1")
    torch.testing.assert_close(after.artifact.model.item_vectors[-1], artifact.model.item_vectors[place])
    assert len(artifact.catalog) == artifact.model.catalog_size == len(artifact.model.item_vectors)  # unchanged
    best = [each.item for each in after.recommend(["g2-0", "g3-0", "g0-0"], ITEMS + 2).items]
    assert {"later", "new1"} <= set(best)
    frame.write_csv(tmp_path / "items.csv")
    result = CliRunner().invoke(
        cli.app, ["add-items", str(folder), "--items", str(tmp_path / "items.csv"), "--out", str(tmp_path / "more"), "--json"]
    )
    assert json.loads(result.stdout) == {"items": len(artifact.catalog) + 1, "new": 1, "artifact": str(tmp_path / "more")}
    assert Recommender.load(tmp_path / "more").fingerprint() == after.fingerprint()


def test_the_service_exports_and_explanations_have_them(trained, tmp_path):
    artifact, folder = trained
    artifact.model.eval()
    recommender = Recommender(artifact)
    served = ServedModel("v1", folder, recommender)
    state = served.read(served.indices(["g0-0", "g1-0"]))
    (best,) = served.score([ScoreJob(state, ITEMS + 2, False, served.excluded, False)])
    assert served.index_of["new2"] in best.items
    assert [served.ids[index - 1] for index in served.search("NEW2", 1)] == ["new2"]
    export_item_vectors(artifact, tmp_path / "vectors.parquet")
    vectors = pl.read_parquet(tmp_path / "vectors.parquet")
    assert vectors["id"].to_list()[-GROUPS:] == NEW
    explanation = recommender.explain(["g0-0", "g1-0"], item="new2")
    assert explanation.rank == next(
        each.rank for each in recommender.recommend(["g0-0", "g1-0"], 24).items if each.item == "new2"
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "training",
    [
        {"softmax": "sampled", "negatives": 8, "updated_rows": "touched"},
        {"ema_decay": 0.9, "precision": "64-true"},
        {"objective": "per-prefix", "final_fit": True},
    ],
)
def test_other_ways_to_train(prepared, training):
    """Sparse updates, averaged weights in double precision, and a second training on all interactions."""
    config = settings().model_copy(update={"training": worlds.config(max_epochs=1, **training).training})
    artifact = pipeline.train(prepared, config)
    table = read_item_table(items(), config.features)
    vectors = artifact.features.vectors_of(table, np.arange(GROUPS * ITEMS, GROUPS * ITEMS + GROUPS))
    torch.testing.assert_close(artifact.model.item_vectors[-GROUPS:].detach().cpu(), torch.from_numpy(vectors))
    assert artifact.model.features is None
    assert (artifact.features.categories != 0).all()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"item_id": ["g0-0"], "group": ["1"]}), "all of its 1 items are in the catalog already"),
        (pl.DataFrame({"item_id": ["later"], "kind": ["1"]}), "has the feature 'group', but the table has no such column"),
        (pl.DataFrame({"item_id": ["later"], "group": [0.5]}), "was a column of categories in training"),
    ],
)
def test_items_that_cannot_be_added(trained, frame, message):
    with pytest.raises(DataError, match=message):
        Recommender(trained[0]).add_items(frame)


def test_a_model_without_features_takes_no_items(trained):
    plain = Recommender(replace(trained[0], features=None))
    with pytest.raises(ConfigError, match="trained without item features"):
        plain.add_items(items())


def test_evaluation_of_the_same_data_recognizes_them(trained):
    artifact, _ = trained
    report = pipeline.evaluate_artifact(artifact, read_interactions(worlds.frame(histories())), artifact.config)
    assert not any("not the data" in note for note in report["notes"])


def test_held_out_items_are_ranked_and_measured(trained):
    """The last item of every history is a new one: each is a target without training events."""
    artifact, _ = trained
    changed = [[*each[:-1], f"new{each[-1][1]}"] for each in histories()]
    report = pipeline.evaluate_artifact(artifact, read_interactions(worlds.frame(changed)), artifact.config)
    assert report["unknown"]["targets"] == 0
    (group,) = report["test_groups"]["by_popularity"]
    assert (group["name"], group["targets"]) == ("never seen in training", len(changed))
    assert group["hit_rate"] == report["test"]["hr@10"] == 1.0


def test_resuming_with_other_features_is_refused(prepared):
    config = settings()
    other = pipeline.add_features(prepared, items().with_columns(group=pl.col("group").reverse()), config)
    models = [make_model(config, len(prepared.catalog), each.features) for each in (prepared, other)]
    first, second = (training_identity(each, prepared.histories, prepared.split, config.training) for each in models)
    assert first != second


def test_a_damaged_file_of_features_is_refused(trained, tmp_path):
    _, folder = trained
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / FEATURES).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=f"{FEATURES} is damaged"):
        load_artifact(tmp_path / "model")


def test_python_takes_a_frame():
    config = settings().model_copy(update={"training": worlds.config(max_epochs=1).training})
    recommender = ssd4rec.train(worlds.frame(histories(30)), config=config, items=items())
    assert set(NEW) <= set(recommender.artifact.catalog.ids.to_list())
    with pytest.raises(DataError, match="no column of item ids"):
        ssd4rec.train(worlds.frame(histories(30)), settings={"data.min_interactions": 1}, items=items().rename({"item_id": "no"}))
