"""The whole path, and what it says on the way."""

import logging
import math

import numpy as np
import polars as pl
import pytest
import torch

import worlds
from ssd4rec import pipeline
from ssd4rec.artifact import Artifact, load_artifact
from ssd4rec.config import load_config, settings
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.split import all_events, training_counts
from ssd4rec.errors import ArtifactError, BackendError, DataError, StateError
from ssd4rec.fusion import PAIR_MODELS
from ssd4rec.models.next_item import fingerprint
from ssd4rec.pipeline import preparation, training


@pytest.fixture(scope="module")
def prepared():
    return worlds.world(worlds.cycle())


@pytest.fixture(autouse=True)
def _log_messages_reach_caplog(caplog, monkeypatch):
    """A test of the command line may have given the package's logger its own handler."""
    monkeypatch.setattr(logging.getLogger("ssd4rec"), "propagate", True)
    caplog.set_level(logging.INFO, logger="ssd4rec")


def softmax_messages(prepared, caplog, **settings_of_training):
    caplog.clear()
    pipeline.train(prepared, worlds.config(max_epochs=1, **settings_of_training))
    return [line for line in caplog.messages if line.startswith("softmax")]


def test_the_preset_follows_the_data(prepared, caplog, monkeypatch):
    """The default one up to DENSE training interactions an item; a width that was set stays, and needs no message."""
    counts = training_counts(prepared.histories, prepared.split.train, len(prepared.catalog))
    per_item = counts.sum() / (counts > 0).sum()
    monkeypatch.setattr(preparation, "DENSE", np.nextafter(per_item, np.inf))
    assert pipeline.default_config(prepared, ["training.seed=1"]) == load_config("regularized", ["training.seed=1"])
    assert not caplog.messages
    monkeypatch.setattr(preparation, "DENSE", per_item)
    assert pipeline.default_config(prepared, ["backbone.width=16"]) == load_config("regularized", ["backbone.width=16"])
    assert not caplog.messages
    assert pipeline.default_config(prepared, ["training.seed=1"]) == load_config("wide", ["training.seed=1"])
    assert caplog.messages[-1].startswith(f"preset: wide (width 128), as an item has {per_item:.0f} training interactions")
    assert caplog.messages[-1].endswith("; --config regularized has width 64")


def test_a_sampled_softmax_is_announced(prepared, caplog, monkeypatch):
    """Where auto samples, a line says so, why, and what to set; on a small catalog there is none."""
    assert softmax_messages(prepared, caplog) == []
    items = len(prepared.catalog)
    monkeypatch.setattr(settings, "FULL_SOFTMAX_MAX_ITEMS", items - 1)
    (line,) = softmax_messages(prepared, caplog, negatives=4)
    assert line.startswith(
        f"softmax: sampled, 4 of {items} items per batch, drawn by training counts to the power 0.5 as there are"
    )
    assert "training.softmax=full scores all; ranking is over all items" in line


def test_a_requested_sampled_softmax_is_announced(prepared, caplog):
    """A sample above the catalog's size is all of it."""
    (line,) = softmax_messages(prepared, caplog, softmax="sampled", negative_power=0.0)
    items = len(prepared.catalog)
    assert line == (
        f"softmax: sampled, {items} of {items} items per batch, drawn by training counts to the power 0; "
        "ranking is over all items"
    )


@pytest.mark.parametrize("installed", [True, False])
def test_a_training_without_numba_says_what_it_misses(prepared, caplog, monkeypatch, installed):
    monkeypatch.setattr(training.numba, "available", lambda: installed)
    pipeline.train(prepared, worlds.config(max_epochs=1))
    advice = [line for line in caplog.messages if "numba" in line]
    assert advice == ([] if installed else ["training on a CPU is up to twice as fast with numba: pip install 'ssd4rec[fast]'"])


@pytest.mark.parametrize("pairs", ["sequential-rules", "sequential-ridge"])
def test_fusion_is_measured_with_and_without_the_model(prepared, tmp_path, pairs):
    """The report says what each is worth; the artifact gives the figures of both together again."""
    config = worlds.config(max_epochs=1, learning_rate=1e-4).model_copy(
        update={"fusion": settings.FusionConfig(cooccurrence="tuned", cooccurrence_model=pairs)}
    )
    report = pipeline.train(prepared, config, tmp_path / "model").report
    part = report["fusion"]
    assert part["cooccurrence"] > 0
    assert part["cooccurrence_model"] == pairs
    tried = part["validation"]["cooccurrence"]
    assert tried[f"{part['cooccurrence']:g}"] == max(tried.values()) > part["validation"]["model_alone"]
    assert part["validation"]["repeat_bias"].keys() == {"0"}
    assert part["fusion_alone"]["ndcg@10"] == report["test"]["ndcg@10"] == 1.0 > part["model_alone"]["ndcg@10"]
    artifact = load_artifact(tmp_path / "model")
    again = pipeline.evaluate_artifact(artifact, read_interactions(worlds.frame(worlds.cycle())), config)
    assert again["test"] == report["test"]
    assert again["fusion"]["model_alone"] == part["model_alone"]


@pytest.mark.parametrize("better", PAIR_MODELS)
def test_the_better_cooccurrence_model_is_chosen(prepared, caplog, monkeypatch, better):
    """By the gain on the validation set; the final fit counts with the same model again."""
    worse = PAIR_MODELS.keys() - {better}
    for name in worse:
        nothing = PAIR_MODELS[name].nothing(len(prepared.catalog))
        monkeypatch.setattr(PAIR_MODELS[name], "fit", lambda *_, nothing=nothing, **__: nothing)
    fusion = settings.FusionConfig(cooccurrence="tuned", cooccurrence_model="auto")
    config = worlds.config(max_epochs=1, learning_rate=1e-4, final_fit=True).model_copy(update={"fusion": fusion})
    artifact = pipeline.train(prepared, config)
    assert artifact.report["fusion"]["cooccurrence_model"] == artifact.fusion.pairs.name == better
    events = all_events(prepared.histories).train
    again = training.fit_pairs(better, prepared, events)
    assert np.array_equal(artifact.fusion.pairs.weights, again.weights)
    assert not np.array_equal(again.weights, training.fit_pairs(better, prepared, prepared.split.train).weights)
    (line,) = (each for each in caplog.messages if "by its gain on the validation set" in each)
    assert line.startswith(f"fusion.cooccurrence_model = {better}, ")
    assert all(f"{name} 0.0000" in line for name in worse)


@pytest.mark.parametrize(("items", "tried"), [(12, True), (11, False)])
def test_large_catalogs_count_rules(prepared, caplog, monkeypatch, items, tried):
    """Where the items that would take part in a ridge have less than 95 % of the interactions; all 12 are as frequent."""
    monkeypatch.setattr(training, "MAX_ITEMS", items)
    fusion = settings.FusionConfig(cooccurrence="tuned", cooccurrence_model="auto")
    config = worlds.config(max_epochs=1, learning_rate=1e-4).model_copy(update={"fusion": fusion})
    part = pipeline.train(prepared, config).report["fusion"]
    assert ("by its gain on the validation set" in caplog.text) == ("cooccurrence_model" in part["validation"]) == tried
    if tried:  # both know the cycle
        assert part["validation"]["cooccurrence_model"]["sequential-ridge"] == part["validation"]["gain"]["mean"]
    assert part["cooccurrence_model"] == "sequential-rules"  # of equally good ones the cheaper one


def test_the_validation_says_its_protocol(prepared, tmp_path):
    """Training watches with seen items kept; the fusion is chosen, and the test set measured, with them filtered."""
    config = worlds.config(max_epochs=1).model_copy(
        update={
            "evaluation": settings.EvaluationConfig(exclude_seen=True),
            "fusion": settings.FusionConfig(cooccurrence="tuned", repeat_bias="tuned"),
        }
    )
    report = pipeline.train(prepared, config, tmp_path / "model").report
    assert report["validation"]["protocol"] == {**report["protocol"], "exclude_seen": False}
    assert report["protocol"]["exclude_seen"] is report["fusion"]["validation"]["exclude_seen"] is True
    assert report["fusion"]["repeat_bias"] == 0.0


def test_a_weight_that_was_given_is_taken(prepared, tmp_path, caplog):
    """Nothing else is tried then; counts that have no weight are neither kept nor shown again."""
    config = worlds.config(max_epochs=1).model_copy(update={"fusion": settings.FusionConfig(repeat_bias=-3)})
    part = pipeline.train(prepared, config, tmp_path / "model").report["fusion"]
    assert not [line for line in caplog.messages if "counting" in line]
    assert (part["cooccurrence"], part["repeat_bias"]) == (0.0, -3.0)
    assert (part["validation"]["cooccurrence"].keys(), part["validation"]["repeat_bias"].keys()) == ({"0"}, {"-3"})
    again = pipeline.evaluate_artifact(load_artifact(tmp_path / "model"), read_interactions(worlds.frame(worlds.cycle())), config)
    assert "fusion_alone" not in again["fusion"]


@pytest.mark.parametrize(("again", "is_reported"), [([1], True), ([5], False)])
def test_personal_popularity_is_reported_where_users_repeat_items(again, is_reported):
    """One of six interactions repeats an earlier one, or none does."""
    data = worlds.world([[1, 2, 3, 4, 6, *again], [3, 4, 2, 6, 1, *(item + 2 for item in again)]] * 5)
    report = pipeline.train(data, worlds.config(max_epochs=1)).report
    assert data.has_repeats == is_reported
    assert ("personal-popularity" in report.get("baselines", {})) == is_reported
    if is_reported:  # the target is one of five items, the others of which are as frequent
        assert report["baselines"]["personal-popularity"]["test"]["ndcg@10"] > 0
    excluded = worlds.config(max_epochs=1)
    excluded = excluded.model_copy(update={"evaluation": excluded.evaluation.model_copy(update={"exclude_seen": True})})
    assert "baselines" not in pipeline.train(data, excluded).report


def test_users_who_are_too_short_to_learn_from_are_measured(prepared, tmp_path):
    """Three events each leave nothing to train on, which a finished model does not need; how they are split by time is free."""
    config = worlds.config(max_epochs=1)
    pipeline.train(prepared, config, tmp_path / "model")
    artifact = load_artifact(tmp_path / "model")
    short = read_interactions(worlds.frame([[1, 2, 3], [4, 5, 6]]))
    assert pipeline.evaluate_artifact(artifact, short, config)["protocol"]["targets"] == 2
    late = load_config("quick", ["data.min_interactions=1", "data.split=time", "data.validation_from=0", "data.test_from=1"])
    assert pipeline.evaluate_artifact(artifact, short, late)["protocol"]["targets"] == 4


def test_nobody_begins_where_a_training_is_not_saved_yet(prepared, tmp_path, monkeypatch):
    """Its state is removed when the model is saved, and a second training into the same folder would lose its own."""
    save, tried = Artifact.save, []

    def second(*arguments):
        monkeypatch.setattr(Artifact, "save", save)
        with pytest.raises(ArtifactError, match=r"another training is running in .*model\.training; wait for it"):
            pipeline.train(prepared, worlds.config(max_epochs=1), tmp_path / "model")
        tried.append("second")
        save(*arguments)

    monkeypatch.setattr(Artifact, "save", second)
    pipeline.train(prepared, worlds.config(max_epochs=1), tmp_path / "model")
    assert tried == ["second"]
    assert load_artifact(tmp_path / "model").report["training"]["best_epoch"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_data_of_other_items_cannot_be_measured(prepared, tmp_path):
    """And what is asked of another split of the same data may have been learned: it is said."""
    config = worlds.config(max_epochs=1)
    pipeline.train(prepared, config, tmp_path / "model")
    artifact = load_artifact(tmp_path / "model")
    log = worlds.frame(worlds.cycle())
    others = read_interactions(log.with_columns(item_id=log["item_id"] + 100))
    with pytest.raises(
        DataError, match="none of the 12 items is in the catalog of the model, which was trained on 12 others, such as 10;"
    ):
        pipeline.evaluate_artifact(artifact, others, config)
    other_split = load_config(
        "quick", ["data.min_interactions=1", "data.split=time", "data.validation_from=5", "data.test_from=8"]
    )
    assert pipeline.evaluate_artifact(artifact, read_interactions(log), config)["notes"] == []
    (note,) = pipeline.evaluate_artifact(artifact, read_interactions(log), other_split)["notes"]
    assert note.startswith("the model was trained with another split (data.split, data.validation_from, data.test_from); test")


@pytest.fixture(scope="module")
def evaluated_world(tmp_path_factory):
    """A model with seven items that it never saw in training's catalog, its data, and the rank of every test target."""
    folder = tmp_path_factory.mktemp("evaluated")
    run_config = worlds.config(max_epochs=2).model_copy(update={"data": settings.DataConfig(min_interactions=5)})
    log = worlds.frame(worlds.cycle(users=80, items=40))
    data = pipeline.prepare(read_interactions(log), None, run_config)
    pipeline.train(data, run_config, folder / "model")
    artifact = load_artifact(folder / "model")
    ranks = pipeline.evaluate(artifact.model, data, run_config, artifact.training_counts).ranks
    return artifact, run_config, log, dict(zip(data.histories.users.to_list(), ranks.tolist(), strict=True))


def expected_metrics(ranks, cutoff=10):
    hits = [rank <= cutoff for rank in ranks]
    gains = [1 / math.log2(rank + 1) if rank <= cutoff else 0.0 for rank in ranks]
    return pytest.approx(sum(hits) / len(ranks)), pytest.approx(sum(gains) / len(ranks))


def test_evaluation_on_a_part_uses_the_catalog_of_the_model(evaluated_world):
    """The ranks of some users are those of the whole evaluation; a k-core of the part would remove most of it."""
    artifact, run_config, log, ranks = evaluated_world
    users = sorted(ranks)[:7]
    part = log.filter(pl.col("user_id").is_in(users))
    report = pipeline.evaluate_artifact(artifact, read_interactions(part), run_config)
    assert (report["test"]["hr@10"], report["test"]["ndcg@10"]) == expected_metrics([ranks[user] for user in users])
    assert report["protocol"]["targets"] == len(users)
    single = pipeline.evaluate_artifact(artifact, read_interactions(log.filter(pl.col("user_id") == users[0])), run_config)
    assert single["protocol"]["targets"] == 1


@pytest.mark.parametrize("counted_as", ["miss", "skip"])
def test_an_unknown_last_item_is_counted_and_not_replaced_by_an_earlier_one(evaluated_world, counted_as):
    """As a miss by default; the unknown item of another user's past changes no target."""
    artifact, run_config, log, ranks = evaluated_world
    users = sorted(ranks)[:7]
    part = log.filter(pl.col("user_id").is_in(users))
    last = part["timestamp"] == part.select(pl.col("timestamp").max().over("user_id")).to_series()
    part = part.with_columns(
        pl.when((pl.col("user_id") == users[0]) & last).then(999).otherwise(pl.col("item_id")).alias("item_id")
    )
    config = run_config.model_copy(update={"evaluation": settings.EvaluationConfig(unknown_targets=counted_as)})
    report = pipeline.evaluate_artifact(artifact, read_interactions(part), config)
    rest = [ranks[user] for user in users[1:]]
    expected = [*rest, 10**9] if counted_as == "miss" else rest
    assert (report["test"]["hr@10"], report["test"]["ndcg@10"]) == expected_metrics(expected)
    assert report["protocol"]["targets"] == len(expected)
    assert report["unknown"] == {"interactions": 1, "targets": 1, "without_known_history": 0, "counted_as": counted_as}
    assert any(note.startswith("1 test targets are items outside of the model's catalog") for note in report["notes"])


def test_the_training_data_are_recognized(evaluated_world):
    """The k-core of the training is repeated for them, so that the metrics are those of the training."""
    artifact, run_config, log, _ = evaluated_world
    rare = pl.DataFrame({"user_id": [1000] * 4, "item_id": [0, 1, 2, 3], "timestamp": [0, 1, 2, 3]})  # fewer than five events
    report = pipeline.evaluate_artifact(artifact, read_interactions(pl.concat([log, rare])), run_config)
    assert report["test"] == artifact.report["test"]
    assert report["notes"] == []


class EvaluatedError(Exception):
    """Where the model was when it was evaluated."""


def test_a_model_is_evaluated_where_it_was_trained(prepared, monkeypatch):
    """`fit` leaves it on the CPU; the meta device, which holds no numbers, stands for a GPU."""

    def stop(model, *_, **__):
        raise EvaluatedError({each.device.type for each in model.parameters()})

    monkeypatch.setattr(training, "resolve_device", {"auto": "meta", "cpu": "cpu"}.__getitem__)
    monkeypatch.setattr(training, "compare", stop)
    for accelerator, device in (("auto", "meta"), ("cpu", "cpu")):
        with pytest.raises(EvaluatedError) as stopped:
            pipeline.train(prepared, worlds.config(max_epochs=1, accelerator=accelerator))
        assert stopped.value.args == ({device},)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_accelerator_leaves_no_files(prepared, tmp_path):
    """It is reported before anything is written."""
    with pytest.raises(BackendError, match="no CUDA device"):
        pipeline.train(prepared, worlds.config(accelerator="gpu"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_training_without_a_folder_equals_training_with_one(prepared, tmp_path):
    """The stages return values: nothing is written, the weights and metrics are the same."""
    config = worlds.config(max_epochs=2)
    in_memory = pipeline.train(prepared, config)
    saved = pipeline.train(prepared, config, tmp_path / "model")
    assert in_memory.report["test"] == saved.report["test"] == load_artifact(tmp_path / "model").report["test"]
    assert fingerprint(in_memory.model) == fingerprint(load_artifact(tmp_path / "model").model)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("error", "calls"), [(StateError("another version"), [True, False]), (ArtifactError("disk full"), [True])]
)
def test_only_an_unusable_checkpoint_starts_over(prepared, tmp_path, monkeypatch, caplog, error, calls):
    """With resume="auto"; a full disk ends the training and leaves its checkpoint. The loop is a stand-in: it fails so here."""
    attempts = []

    def fit(*_, resume=False, **__):
        attempts.append(resume)
        if resume:
            raise error
        raise EvaluatedError

    monkeypatch.setattr(training.loop, "fit", fit)
    (tmp_path / training.LAST).touch()
    with pytest.raises(EvaluatedError if isinstance(error, StateError) else ArtifactError):
        pipeline.fit(prepared, worlds.config(), folder=tmp_path, resume="auto")
    assert attempts == calls
    starts_over = isinstance(error, StateError)
    assert [line for line in caplog.messages if "starting" in line] == (["starting over: another version"] if starts_over else [])
    assert (tmp_path / training.LAST).exists()


def test_baselines_are_reported_where_the_training_part_is_known(prepared, tmp_path):
    """After training and on the same data with the same metrics; on other data a note says that there are none."""
    config = worlds.config(max_epochs=1)
    names = ("sequential-rules", "sequential-ridge", "ease")
    config = config.model_copy(update={"evaluation": settings.EvaluationConfig(baselines=names)})
    report = pipeline.train(prepared, config, tmp_path / "model").report
    assert tuple(report["baselines"]) == ("personal-popularity", *names)  # the first because users repeat items
    assert report["baselines"]["sequential-ridge"]["test"]["ndcg@10"] == 1.0
    artifact = load_artifact(tmp_path / "model")
    assert pipeline.evaluate_artifact(artifact, read(worlds.cycle()), config)["baselines"] == report["baselines"]
    other = pipeline.evaluate_artifact(artifact, read(worlds.cycle(users=30)), config)
    assert tuple(other["baselines"]) == ("personal-popularity",)  # counted when the model was trained
    assert any(note.startswith("sequential-rules, sequential-ridge, ease were not fitted") for note in other["notes"])


def read(histories):
    return read_interactions(worlds.frame(histories))
