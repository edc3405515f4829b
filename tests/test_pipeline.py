"""The whole path, and what it says on the way."""

from contextlib import nullcontext

import pytest
import torch

import worlds
from ssd4rec import experiment
from ssd4rec.artefact import load_artefact
from ssd4rec.config import load_config, settings
from ssd4rec.data.interactions import read_interactions
from ssd4rec.errors import ArtefactError, BackendError, DataError, StateError


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


def test_a_prior_is_measured_with_the_model_and_without(prepared, tmp_path):
    """The report says what each is worth; the artefact gives the figures of both together again."""
    asked = worlds.config(max_epochs=1, learning_rate=1e-4).model_copy(
        update={"prior": settings.PriorConfig(transitions="validated")}
    )
    report = experiment.train(prepared, asked, tmp_path / "model")
    part = report["prior"]
    assert part["transitions"] > 0
    tried = part["validation"]["transitions"]
    assert tried[f"{part['transitions']:g}"] == max(tried.values()) > part["validation"]["model_alone"]
    assert part["validation"]["repeats"].keys() == {"0"}
    assert part["prior_alone"]["ndcg@10"] == report["test"]["ndcg@10"] == 1.0 > part["model_alone"]["ndcg@10"]
    artefact = load_artefact(tmp_path / "model")
    again = experiment.measure_again(artefact, read_interactions(worlds.frame(worlds.cycle())), asked)
    assert again["test"] == report["test"]
    assert again["prior"]["model_alone"] == part["model_alone"]


def test_the_validation_says_its_protocol(prepared, tmp_path):
    """Training watches with seen items kept; the prior is chosen, and the test part measured, with them filtered."""
    asked = worlds.config(max_epochs=1).model_copy(
        update={
            "evaluation": settings.EvaluationConfig(seen="filtered"),
            "prior": settings.PriorConfig(transitions="validated", repeats="validated"),
        }
    )
    report = experiment.train(prepared, asked, tmp_path / "model")
    assert report["validation"]["protocol"] == {**report["protocol"], "seen": "kept"}
    assert report["protocol"]["seen"] == report["prior"]["validation"]["seen"] == "filtered"
    assert report["prior"]["repeats"] == 0.0


def test_a_weight_that_was_given_is_taken(prepared, tmp_path):
    """Nothing else is tried then; counts that have no weight are neither kept nor shown again."""
    asked = worlds.config(max_epochs=1).model_copy(update={"prior": settings.PriorConfig(repeats=-3)})
    lines = []
    part = experiment.train(prepared, asked, tmp_path / "model", say=lines.append)["prior"]
    assert not [line for line in lines if "counting" in line]
    assert (part["transitions"], part["repeats"]) == (0.0, -3.0)
    assert (part["validation"]["transitions"].keys(), part["validation"]["repeats"].keys()) == ({"0"}, {"-3"})
    again = experiment.measure_again(load_artefact(tmp_path / "model"), read_interactions(worlds.frame(worlds.cycle())), asked)
    assert "prior_alone" not in again["prior"]


def test_a_person_hears_that_items_recur(tmp_path):
    """Seen items are no candidates of `recommend` by default, which is wrong where they come again."""
    data = worlds.world([[1, 2, 1, 2, 1, 2], [3, 4, 3, 4, 3, 4]] * 5)
    prepared = experiment.Prepared(data.histories, data.catalogue, data.split, {"kept": {}})
    lines = []
    asked = worlds.config(max_epochs=1).model_copy(update={"prior": settings.PriorConfig(repeats=2.0)})
    experiment.train(prepared, asked, tmp_path / "model", say=lines.append)
    assert [line for line in lines if "recur" in line] == [
        "items recur in these data: `ssd4rec recommend --keep-seen` recommends them again"
    ]


def test_users_who_are_too_short_to_learn_from_are_measured(prepared, tmp_path):
    """Three events each leave nothing to train on, which a finished model does not need; how they are split by time is free."""
    asked = worlds.config(max_epochs=1)
    experiment.train(prepared, asked, tmp_path / "model")
    artefact = load_artefact(tmp_path / "model")
    short = read_interactions(worlds.frame([[1, 2, 3], [4, 5, 6]]))
    assert experiment.measure_again(artefact, short, asked)["protocol"]["targets"] == 2
    late = load_config("quick", ["data.min_interactions=1", "data.split=time", "data.validation_from=0", "data.test_from=1"])
    assert experiment.measure_again(artefact, short, late)["protocol"]["targets"] == 4


def test_nobody_begins_where_a_training_is_not_saved_yet(prepared, tmp_path, monkeypatch):
    """Its state is removed when the model is saved, and a second training into the same folder would lose its own."""
    save, tried = experiment.save_artefact, []

    def second(*arguments):
        monkeypatch.setattr(experiment, "save_artefact", save)
        with pytest.raises(ArtefactError, match=r"another training is at work in .*model\.training; wait for it"):
            experiment.train(prepared, worlds.config(max_epochs=1), tmp_path / "model")
        tried.append("second")
        save(*arguments)

    monkeypatch.setattr(experiment, "save_artefact", second)
    experiment.train(prepared, worlds.config(max_epochs=1), tmp_path / "model")
    assert tried == ["second"]
    assert load_artefact(tmp_path / "model").report["course"]["best_epoch"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_data_of_other_items_cannot_be_measured(prepared, tmp_path):
    """And what is asked of another split of the same data may have been learnt: it is said."""
    asked = worlds.config(max_epochs=1)
    experiment.train(prepared, asked, tmp_path / "model")
    artefact = load_artefact(tmp_path / "model")
    log = worlds.frame(worlds.cycle())
    others = read_interactions(log.with_columns(item_id=log["item_id"] + 100))
    with pytest.raises(
        DataError, match="none of the 12 items is known to the model, which was trained on 12 others, such as 10;"
    ):
        experiment.measure_again(artefact, others, asked)
    moved = load_config("quick", ["data.min_interactions=1", "data.split=time", "data.validation_from=5", "data.test_from=8"])
    assert experiment.measure_again(artefact, read_interactions(log), asked)["notes"] == []
    (note,) = experiment.measure_again(artefact, read_interactions(log), moved)["notes"]
    assert note.startswith("the model was trained with another split (data.split, data.validation_from, data.test_from); what is")


class MeasuredError(Exception):
    """Where the model was when it was measured."""


def test_a_model_is_measured_where_it_was_trained(prepared, tmp_path, monkeypatch):
    """Lightning leaves it on the CPU; the meta device, which holds no numbers, stands for the GPU that was meant."""

    def stop(model, *_):
        raise MeasuredError({each.device.type for each in model.parameters()})

    monkeypatch.setattr(experiment, "device_of", {"auto": "meta", "cpu": "cpu"}.__getitem__)
    monkeypatch.setattr(experiment, "_measure_beside", stop)
    for accelerator, device in (("auto", "meta"), ("cpu", "cpu")):
        with pytest.raises(MeasuredError) as stopped:
            experiment.train(prepared, worlds.config(max_epochs=1, accelerator=accelerator), tmp_path / "model")
        assert stopped.value.args == ({device},)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_accelerator_that_is_not_there_leaves_nothing(prepared, tmp_path):
    """It is told before anything is made."""
    with pytest.raises(BackendError, match="no CUDA device"):
        experiment.train(prepared, worlds.config(accelerator="gpu"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "calls"), [(StateError("another version"), [True, False]), (ArtefactError("disk full"), [True])]
)
def test_only_a_state_that_cannot_be_gone_on_with_is_begun_anew(tmp_path, monkeypatch, error, calls):
    """A full disk ends the command and leaves what was learnt. The training is a stand-in: a disk is not to be had full here."""
    asked, said = [], []

    def train(*_, resume=False, **__):
        asked.append(resume)
        if resume:
            raise error

    monkeypatch.setattr(experiment, "train", train)
    (tmp_path / "model.training").mkdir()
    (tmp_path / "model.training" / "last.ckpt").touch()
    with nullcontext() if isinstance(error, StateError) else pytest.raises(ArtefactError, match="disk full"):
        experiment.train_or_go_on(None, None, tmp_path / "model", say=said.append)
    anew = isinstance(error, StateError)
    assert asked == calls
    assert said == (["training begins anew: another version"] if anew else [])
    assert (tmp_path / "model.training" / "last.ckpt").exists() != anew
