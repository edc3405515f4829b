"""Training: repeatable, resumable, and ending with its best weights."""

import errno
import math
import os
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import worlds
from ssd4rec.config import Config, SASRecConfig, SSD4RecConfig
from ssd4rec.data.split import make_split
from ssd4rec.errors import ArtifactError, BackendError, StateError
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.models.next_item import NextItemModel, make_model
from ssd4rec.training import checkpoint as module
from ssd4rec.training import loop as step
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.loop import fit
from ssd4rec.training.setup import choose_input_dropout

SETTINGS = Config(
    data=worlds.config().data,
    backbone=SSD4RecConfig(width=16, state_dim=8, head_width=8, dropout=0.3),
    training=worlds.config(max_epochs=4, token_budget=128, mask_ratio=0.2).training,
)


BEST = module.BEST.format("*")


@pytest.fixture(scope="module")
def world():
    return worlds.world(worlds.cycle(users=40))


def train(world, settings=SETTINGS, **options):
    model = make_model(settings, len(world.catalog))
    report = fit(model, world.histories, world.split, settings.training, **options)
    return model.state_dict(), report


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Stop(Callback):
    """Breaks off a training after so many steps, as a power cut would."""

    def __init__(self, steps):
        self.steps = steps

    def on_batch_start(self, loop):
        if loop.step == self.steps:
            raise ConnectionAbortedError("power cut")


@pytest.fixture(scope="module")
def uninterrupted(world):
    return train(world)


@pytest.mark.thorough
def test_one_seed_gives_the_same_weights_bit_for_bit(world, uninterrupted):
    """Twice the same, with dropout and masking; another seed differs."""
    weights, report = train(world)
    assert equal(weights, uninterrupted[0])
    assert [epoch.loss for epoch in report.history] == [epoch.loss for epoch in uninterrupted[1].history]
    other = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"seed": 8})})
    assert not equal(train(world, other)[0], weights)


@pytest.mark.thorough
def test_deterministic_training(world):
    """It is on in each step, gives the same weights twice, and is over with the training."""
    settings = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"deterministic": True})})
    seen = set()

    class Look(Callback):
        def on_batch_end(self, loop):
            del loop
            seen.add(torch.are_deterministic_algorithms_enabled())

    weights, _ = train(world, settings, callbacks=[Look()])
    assert seen == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    assert equal(train(world, settings)[0], weights)


@pytest.mark.thorough
@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
def test_bf16_training(world, objective):
    """With precision "bf16-mixed" the weights stay float32 and learn as in float32: the losses to 1 %, NDCG@10 to 0.05."""
    exact = SETTINGS.training.model_copy(update={"objective": objective, "max_epochs": 2, "mask_ratio": 0.0})
    backbone = SETTINGS.backbone.model_copy(update={"dropout": 0.0})
    reports = []
    for precision in ("32-true", "bf16-mixed"):
        training = exact.model_copy(update={"precision": precision})
        weights, report = train(world, SETTINGS.model_copy(update={"training": training, "backbone": backbone}))
        assert {values.dtype for values in weights.values()} == {torch.float32}
        reports.append(report)
    wide, narrow = reports
    assert narrow.history[-1].loss < narrow.history[0].loss
    for ours, theirs in zip(narrow.history, wide.history, strict=True):
        assert ours.loss != theirs.loss
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-2)
        assert ours.ndcg == pytest.approx(theirs.ndcg, abs=0.05)


def test_training_leaves_the_random_numbers_of_the_caller_alone(world):
    """torch's generator is where it was."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(world)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("between", "steps"), [(0.0, 3), (0.0, 9), (1e9, 9)], ids=["each batch, 3", "each batch, 9", "each epoch, 9"]
)
def test_a_broken_off_training_resumes_to_the_same_weights(world, uninterrupted, tmp_path, monkeypatch, between, steps):
    """Whether the last checkpoint was in mid-epoch or at an epoch's end, the weights become those of an uninterrupted run."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_CHECKPOINTS", between)
    with pytest.raises(ConnectionAbortedError):
        train(world, directory=tmp_path, callbacks=[Stop(steps)])
    assert (tmp_path / module.LAST).is_file()
    weights, report = train(world, directory=tmp_path, resume=True)
    assert equal(weights, uninterrupted[0])
    assert [(epoch.epoch, epoch.loss, epoch.ndcg) for epoch in report.history] == [
        (epoch.epoch, epoch.loss, epoch.ndcg) for epoch in uninterrupted[1].history
    ]
    assert uninterrupted[1].seconds_before_resume == 0.0
    assert 0.0 < report.seconds_before_resume < report.seconds


class StopAtValidation(Callback):
    """Breaks off a training when its epoch is learned and not yet validated."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_validation_start(self, loop):
        if loop.epoch == self.epoch:
            raise ConnectionAbortedError("power cut")


@pytest.mark.thorough
@pytest.mark.parametrize("steps", [None, 2], ids=["from the start", "already resumed once"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_that_was_not_validated_is_not_passed_over(world, uninterrupted, tmp_path, monkeypatch, epoch, steps):
    """A checkpoint at each batch, and cut off between an epoch's last batch and its line of the history: the line appears."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    assert uninterrupted[1].history[0].ndcg != uninterrupted[1].history[1].ndcg
    resume = False
    for stop in [*([Stop(steps)] if steps else []), StopAtValidation(epoch)]:
        with pytest.raises(ConnectionAbortedError):
            train(world, directory=tmp_path, resume=resume, callbacks=[stop])
        resume = True
    weights, report = train(world, directory=tmp_path, resume=True)
    assert equal(weights, uninterrupted[0])
    assert [(epoch.loss, epoch.ndcg) for epoch in report.history] == [
        (epoch.loss, epoch.ndcg) for epoch in uninterrupted[1].history
    ]


class Rates(Callback):
    """Writes down the learning rate of each step."""

    def __init__(self):
        self.seen = {}

    def on_batch_end(self, loop):
        self.seen[loop.step - 1] = loop.optimizer.param_groups[0]["lr"]


@pytest.mark.thorough
def test_patience_counts_across_a_resume_as_without_one(world, tmp_path):
    """Cut off between two epochs, wherever: as many epochs, the same best one, the same weights."""

    class Between(Callback):
        def __init__(self, epoch):
            self.epoch = epoch

        def on_epoch_start(self, loop):
            if loop.epoch == self.epoch:
                raise ConnectionAbortedError("power cut")

    for patience in (1, 2, 3):
        settings = SETTINGS.model_copy(
            update={
                "training": SETTINGS.training.model_copy(
                    update={"max_epochs": 12, "patience": patience, "learning_rate": 0.05}  # its history goes up and down
                )
            }
        )
        weights, report = train(world, settings)
        assert report.stopped == "patience"
        for epoch in range(1, len(report.history)):
            directory = tmp_path / f"{patience}-{epoch}"
            with pytest.raises(ConnectionAbortedError):
                train(world, settings, directory=directory, callbacks=[Between(epoch)])
            again, resumed = train(world, settings, directory=directory, resume=True)
            assert (len(resumed.history), resumed.best_epoch) == (len(report.history), report.best_epoch)
            assert equal(weights, again)


@pytest.mark.thorough
def test_a_model_in_eval_mode_is_trained(world, uninterrupted):
    """As `load_artifact` gives it: what is learned further is learned with dropout."""
    model = make_model(SETTINGS, len(world.catalog)).eval()
    fit(model, world.histories, world.split, SETTINGS.training)
    assert equal(model.state_dict(), uninterrupted[0])


@pytest.mark.thorough
def test_a_cosine_brings_the_learning_rate_to_zero_and_survives_a_power_cut(world, tmp_path, monkeypatch):
    """It begins at the setting, is half of it in the middle, nearly 0 at the end; a resumed training sees the same rates."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    training = SETTINGS.training.model_copy(update={"schedule": "cosine"})
    settings = SETTINGS.model_copy(update={"training": training})
    whole, parts = Rates(), Rates()
    weights, _ = train(world, settings, callbacks=[whole])
    rates = [rate / training.learning_rate for _, rate in sorted(whole.seen.items())]
    assert rates[0] == 1.0
    assert rates[len(rates) // 2] == pytest.approx(0.5, abs=0.01)
    assert 0 < rates[-1] < 0.05
    assert rates == sorted(rates, reverse=True)
    with pytest.raises(ConnectionAbortedError):
        train(world, settings, directory=tmp_path, callbacks=[parts, Stop(len(rates) // 2 + 1)])
    resumed, _ = train(world, settings, directory=tmp_path, resume=True, callbacks=[parts])
    assert parts.seen == whole.seen
    assert equal(resumed, weights)


def test_the_best_weights_are_kept(world):
    """The model that fit leaves behind has the best validation NDCG@10 of the training history."""
    model = make_model(SETTINGS, len(world.catalog))
    report = fit(model, world.histories, world.split, SETTINGS.training)
    actual = evaluate(model, world.histories, world.split.validation).ndcg[10]
    assert report.best_ndcg == max(epoch.ndcg for epoch in report.history)
    assert actual == pytest.approx(report.best_ndcg, abs=1e-6)


def test_training_stops_when_nothing_gets_better(world):
    """With a learning rate of next to nothing, patience 2 ends it after few epochs."""
    settings = SETTINGS.training.model_copy(update={"learning_rate": 1e-12, "max_epochs": 50, "patience": 2})
    report = fit(make_model(SETTINGS, len(world.catalog)), world.histories, world.split, settings)
    assert report.stopped == "patience"
    assert len(report.history) < 10


def test_nothing_to_resume_is_an_error(world, tmp_path):
    """An empty folder has no state."""
    with pytest.raises(ArtifactError, match="nothing to resume"):
        train(world, directory=tmp_path, resume=True)


@pytest.mark.thorough
def test_a_state_of_other_settings_is_not_resumed(world, tmp_path):
    """Another seed is another training."""
    train(world, directory=tmp_path)
    other = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"seed": 8})})
    with pytest.raises(
        ArtifactError, match=r"checkpoint of another training: training\.seed was 7, now 8\. Resume with the original data"
    ):
        train(world, other, directory=tmp_path, resume=True)


@pytest.mark.thorough
def test_a_state_of_another_backbone_is_not_resumed(world, tmp_path):
    """Another network is refused before its weights are found not to fit."""
    train(world, directory=tmp_path)
    other = SETTINGS.model_copy(update={"backbone": SASRecConfig(width=16)})
    with pytest.raises(ArtifactError, match=r"checkpoint of another training: backbone\.name was 'ssd4rec', now 'sasrec'; "):
        train(world, other, directory=tmp_path, resume=True)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"data": {"split": "time"}}, "the split was 'leave-last-out', now 'time: validation from"),
        ({"data": {"max_length": 3}}, "other examples of the same sequences"),
        ({"backbone": {"backward_weight": 5.0}}, r"backbone\.backward_weight was 0\.1, now 5\.0"),
        ({"backbone": {"mirror_back": True}}, r"backbone\.mirror_back was False, now True"),
    ],
)
def test_changed_settings_that_weights_do_not_show_are_not_resumed(world, tmp_path, changed, expected):
    """Another split, and settings of the backbone that change no size of a weight: the state is of another training."""
    train(world, directory=tmp_path)
    groups = {name: getattr(SETTINGS, name).model_copy(update=values) for name, values in changed.items()}
    other = SETTINGS.model_copy(update=groups)
    split = make_split(world.histories, other.data)
    with pytest.raises(ArtifactError, match=expected):
        fit(make_model(other, len(world.catalog)), world.histories, split, other.training, directory=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("file", "harm", "expected"),
    [
        (module.LAST, lambda path: path.write_bytes(path.read_bytes()[:20_000]), r"last\.safetensors is damaged"),
        (module.LAST, lambda path: path.write_text("{bad"), r"last\.safetensors is damaged"),
        (BEST, lambda path: path.unlink(), r"best-\w+\.safetensors is missing"),
        (BEST, lambda path: path.write_bytes(path.read_bytes()[:100]), r"best-\w+\.safetensors is damaged"),
    ],
)
@pytest.mark.thorough
def test_a_damaged_state_is_named(world, tmp_path, file, harm, expected):
    """Cut short, written over or removed: one line that says which file and what to do."""
    train(world, directory=tmp_path)
    (path,) = tmp_path.glob(file)
    harm(path)
    with pytest.raises(ArtifactError, match=f"{expected}.*train without --resume"):
        train(world, directory=tmp_path, resume=True)


@pytest.mark.parametrize("file", [module.LAST, BEST])
@pytest.mark.parametrize("place", [0.2, 0.6, 0.9])
def test_one_flipped_bit_is_found(world, tmp_path, file, place):
    """In the checkpoint or the best weights: nothing is resumed from a damaged file, whichever byte it is."""
    train(world, with_training(max_epochs=1), directory=tmp_path)
    (path,) = tmp_path.glob(file)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"is damaged.*train without --resume"):
        train(world, with_training(max_epochs=2), directory=tmp_path, resume=True)


def test_a_training_without_a_checkpoint_leaves_no_folder(world, tmp_path):
    """Interrupted before its first checkpoint, there is nothing to resume, and nothing left behind."""
    with pytest.raises(ConnectionAbortedError):
        train(world, directory=tmp_path / "model.training", callbacks=[Stop(1)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
@pytest.mark.parametrize(("patience", "epochs"), [(1, 0), (30, 3)])
def test_a_finished_training_is_not_continued(world, tmp_path, patience, epochs):
    """Stopped by a patience of 1: resumed with it nothing is learned, the same weights; with more patience it goes on."""
    settings = SETTINGS.training.model_copy(update={"learning_rate": 1e-12, "max_epochs": 50, "patience": 1})
    weights, report = train(world, SETTINGS.model_copy(update={"training": settings}), directory=tmp_path)
    further = settings.model_copy(update={"patience": patience, "max_epochs": len(report.history) + 3})
    again, resumed = train(world, SETTINGS.model_copy(update={"training": further}), directory=tmp_path, resume=True)
    assert len(resumed.history) == len(report.history) + epochs
    assert resumed.history[: len(report.history)] == report.history
    assert resumed.best_epoch == report.best_epoch  # nothing gets better at this rate
    assert equal(again, weights)


@pytest.mark.thorough
def test_two_trainings_do_not_share_a_folder(world, tmp_path):
    """The second one fails, and the state of the first one is unchanged."""

    class Another(Callback):
        def on_epoch_start(self, loop):
            del loop
            with pytest.raises(ArtifactError, match="another training is running"):
                train(world, directory=tmp_path)

    train(world, directory=tmp_path, callbacks=[Another()])
    assert (tmp_path / module.LAST).is_file()


@pytest.mark.thorough
def test_a_new_training_takes_an_old_ones_place_with_its_first_checkpoint(world, tmp_path):
    """Broken off before it, the old state can still be gone on with."""
    weights, _ = train(world, directory=tmp_path)
    other = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"seed": 8})})
    with pytest.raises(ConnectionAbortedError):
        train(world, other, directory=tmp_path, callbacks=[Stop(0)])
    assert equal(train(world, directory=tmp_path, resume=True)[0], weights)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_accelerator_that_is_not_there_is_an_error(world, tmp_path):
    """Asking for a GPU without one says what to do."""
    settings = SETTINGS.training.model_copy(update={"accelerator": "gpu"})
    with pytest.raises(BackendError, match=r'accelerator = "gpu" is not available'):
        fit(make_model(SETTINGS, len(world.catalog)), world.histories, world.split, settings, directory=tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("rows", ["all", "touched"])
def test_a_sampled_training_resumes_to_the_same_weights(world, tmp_path, monkeypatch, rows):
    """Negatives and the moments of the touched rows are those of an uninterrupted run, also after a power cut in mid-epoch."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    sampled = {"softmax": "sampled", "negatives": 5, "updated_rows": rows}
    settings = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update=sampled)})
    weights, report = train(world, settings)
    assert not equal(weights, train(world)[0])
    with pytest.raises(ConnectionAbortedError):
        train(world, settings, directory=tmp_path, callbacks=[Stop(9)])
    resumed, again = train(world, settings, directory=tmp_path, resume=True)
    assert equal(resumed, weights)
    assert [epoch.loss for epoch in again.history] == [epoch.loss for epoch in report.history]


AVERAGED = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"ema_decay": 0.8})})


class Average(Callback):
    """The moving average by its definition, step by step, and at the end of each epoch what it and the weights are."""

    def __init__(self):
        self.average, self.steps, self.epochs = None, 0, []

    def on_fit_start(self, loop):
        self.average = {name: weight.clone() for name, weight in loop.model.state_dict().items()}

    def on_batch_end(self, loop):
        self.steps += 1
        decay = min(0.8, (1 + self.steps) / (10 + self.steps))
        for name, weight in loop.model.state_dict().items():
            self.average[name] = decay * self.average[name] + (1 - decay) * weight

    def on_epoch_end(self, loop):
        weights = {name: each.clone() for name, each in loop.model.state_dict().items()}
        self.epochs.append((dict(self.average), weights))


@pytest.mark.thorough
def test_the_average_of_the_weights_is_what_is_validated_and_kept(world, uninterrupted):
    """It is that of the definition in the best epoch; the weights learn as they would without it, the validation is its own."""
    by_hand = Average()
    weights, report = train(world, AVERAGED, callbacks=[by_hand])
    average, learned = by_hand.epochs[report.best_epoch - 1]
    assert weights.keys() == average.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, average[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(weights["table.weight"], learned["table.weight"])
    assert [epoch.loss for epoch in report.history] == [epoch.loss for epoch in uninterrupted[1].history]
    model = make_model(AVERAGED, len(world.catalog))
    model.load_state_dict(weights)
    assert evaluate(model, world.histories, world.split.validation).ndcg[10] == pytest.approx(report.best_ndcg, abs=1e-6)


@pytest.mark.thorough
def test_an_averaged_training_resumes_to_the_same_weights(world, tmp_path, monkeypatch):
    """The average survives a power cut in mid-epoch; a state without one is of another training."""
    expected, report = train(world, AVERAGED)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(ConnectionAbortedError):
        train(world, AVERAGED, directory=tmp_path, callbacks=[Stop(len(report.history) + 3)])
    with pytest.raises(ArtifactError, match=r"training\.ema_decay was 0\.8, now 0\.0"):
        train(world, directory=tmp_path, resume=True)
    weights, resumed = train(world, AVERAGED, directory=tmp_path, resume=True)
    assert equal(weights, expected)
    assert [epoch.ndcg for epoch in resumed.history] == [epoch.ndcg for epoch in report.history]


@pytest.mark.thorough
def test_as_many_negatives_as_items_train_as_the_full_softmax_does(world):
    """With every item as a negative the losses of the epochs are those of the full softmax, to rounding."""
    sampled = {"softmax": "sampled", "negatives": 10_000, "mask_ratio": 0.0}
    settings = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update=sampled)})
    full = settings.model_copy(update={"training": settings.training.model_copy(update={"softmax": "full"})})
    full = full.model_copy(update={"backbone": full.backbone.model_copy(update={"dropout": 0.0})})
    settings = settings.model_copy(update={"backbone": full.backbone})
    actual, expected = (train(world, each)[1] for each in (settings, full))
    losses = [[epoch.loss for epoch in each.history] for each in (actual, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_large_batch_does_not_decide_how_much_is_validated_at_once(world, monkeypatch):
    """A preset of the paper has a budget of a million positions; validation reads at most VALIDATION_TOKENS at once."""
    budgets = []
    rank = step.rank_examples

    def watched(model, sequences, examples, token_budget, **options):
        budgets.append(token_budget)
        return rank(model, sequences, examples, token_budget, **options)

    monkeypatch.setattr(step, "rank_examples", watched)
    train(world, with_training(token_budget=1_000_000, max_epochs=1))
    assert budgets == [step.VALIDATION_TOKENS]


def test_a_state_that_cannot_be_written_is_named(world, tmp_path):
    """And what to do: there is nothing to resume before the first state is whole."""
    (tmp_path / module.LAST / "in the way").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"last\.safetensors cannot be written: .*; free some space and run the same"):
        train(world, directory=tmp_path)


def test_a_later_state_that_cannot_be_written_leaves_one_to_resume_from(world, tmp_path, monkeypatch):
    """Whichever command trains: only some have --resume."""
    train(world, directory=tmp_path)
    before = (tmp_path / module.LAST).read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "save_file", full)
    message = r"No space left on device; free some space and run the same command again, with --resume if it is ssd4rec"
    with pytest.raises(ArtifactError, match=message):
        train(world, AVERAGED, directory=tmp_path)
    assert (tmp_path / module.LAST).read_bytes() == before


def cut_off_between_the_two_files(world, settings, directory, monkeypatch, **options):
    """A training that ends when there are new best weights, and before there is a checkpoint of them."""

    def full(*_):
        raise ArtifactError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(module.Checkpoints, "save", full)
        with pytest.raises(ArtifactError, match="no space left"):
            train(world, settings, directory=directory, **options)


def with_training(**changed):
    return SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update=changed)})


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [7, 8], ids=["the same", "of other weights"])
def test_a_restarted_training_keeps_the_old_weights_until_its_first_checkpoint(world, tmp_path, monkeypatch, seed):
    """The state that is gone on with ends with its own best weights, and not with those of the one that was cut off."""
    weights, report = train(world, directory=tmp_path)
    assert report.best_epoch > 1  # the first epoch of another training is not it
    cut_off_between_the_two_files(world, with_training(seed=seed), tmp_path, monkeypatch)
    resumed, again = train(world, directory=tmp_path, resume=True)
    assert equal(resumed, weights)
    assert again == replace(report, seconds_before_resume=again.seconds_before_resume)


def test_a_resumed_training_keeps_the_weights_of_its_checkpoint(world, tmp_path, monkeypatch):
    """Interrupted with a new best, and resumed with a patience that stops at once: the weights are of the reported epoch."""
    weights, report = train(world, with_training(max_epochs=1), directory=tmp_path)
    cut_off_between_the_two_files(world, with_training(max_epochs=2), tmp_path, monkeypatch, resume=True)
    assert len(list(tmp_path.glob(BEST))) == 2  # the second epoch was better
    resumed, again = train(world, with_training(max_epochs=1), directory=tmp_path, resume=True)
    assert equal(resumed, weights)
    assert again == replace(report, seconds_before_resume=again.seconds_before_resume)


@pytest.mark.thorough
def test_one_file_of_best_weights_is_left(world, tmp_path):
    """Those before go, and what a killed process left half written goes too."""
    half = tmp_path / f".{module.BEST.format('dead')}.partial-1"
    half.write_text("half")
    _, report = train(world, directory=tmp_path)
    (best,) = tmp_path.glob(BEST)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([best.name, module.LAST, "lock"])
    assert sum(now.ndcg > before.ndcg for before, now in pairwise(report.history)) > 0


class LastItem(nn.Module):
    """A network of somebody else: it knows the last item, and its settings are not part of the package."""

    def __init__(self):
        super().__init__()
        self.width, self.config = 16, SimpleNamespace(width=16)
        self.project = nn.Linear(16, 16)

    def encode(self, embedded, cu_seqlens):
        return self.encode_prefixes(embedded, cu_seqlens)[cu_seqlens[1:] - 1]

    def encode_prefixes(self, embedded, cu_seqlens):
        del cu_seqlens
        return self.project(embedded)


def test_a_network_of_another_is_trained_and_resumed(world, tmp_path):
    torch.manual_seed(0)
    model = NextItemModel(LastItem(), len(world.catalog))
    fit(model, world.histories, world.split, SETTINGS.training, directory=tmp_path)
    again = NextItemModel(LastItem(), len(world.catalog))
    fit(again, world.histories, world.split, SETTINGS.training, directory=tmp_path, resume=True)
    assert equal(again.state_dict(), model.state_dict())


@pytest.mark.parametrize(("users", "expected"), [(40, 0.5), (250, 0.35), (1000, 0.15), (3000, 0.1)])
def test_input_dropout_falls_with_the_interactions_of_an_item(users, expected, caplog):
    """Half of the numbers up to 75 training interactions an item, a tenth less for each doubling, at least a tenth."""
    histories = worlds.cycle(users=users)
    world = worlds.world(histories)
    model = make_model(SETTINGS.replaced("backbone", input_dropout="auto"), len(world.catalog))
    with caplog.at_level("INFO"):
        choose_input_dropout(model, world.histories, world.split)
    assert caplog.messages[0].startswith(f"input dropout: {model.input_dropout.p:g}, as an item has ")
    per_item = sum(len(history) - 2 for history in histories) / 12  # the last two are held out
    assert model.input_dropout.p == pytest.approx(min(0.5, max(0.1, 0.5 - 0.1 * math.log2(per_item / 75))), abs=0.005)
    assert model.input_dropout.p == pytest.approx(expected, abs=0.03)
    choose_input_dropout(model, world.histories, world.split, is_taught=True)
    assert model.input_dropout.p == pytest.approx(max(0.1, expected - 0.2), abs=0.03)


def test_the_report_has_the_input_dropout_that_was_used(world):
    settings = SETTINGS.replaced("backbone", input_dropout="auto").replaced("training", max_epochs=1)
    assert train(world, settings)[1].input_dropout == 0.5
    assert train(world, settings.replaced("backbone", input_dropout=0.3))[1].input_dropout == 0.3
