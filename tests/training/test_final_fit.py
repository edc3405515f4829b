"""The final fit: a new model, all events, as many steps as were best."""

import json

import pytest
import torch
from typer.testing import CliRunner

import ssd4rec
import worlds
from ssd4rec import cli, pipeline
from ssd4rec.artifact import load_artifact
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import settings
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.packing import materialize_batch
from ssd4rec.data.split import all_events
from ssd4rec.models.next_item import fingerprint, make_model
from ssd4rec.pipeline.training import FINAL_FIT_NOTE
from ssd4rec.reports.model import render_model_report
from ssd4rec.serving.recommender import Recommender
from ssd4rec.serving.session import Session
from ssd4rec.training import checkpoint
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.objective import batch_loss, plan_pass, prepare

LAST_ONLY = 77  # an item that occurs only as the last event, and so only as a test target


def configured(**training):
    config = worlds.config(**{"max_epochs": 2, "token_budget": 128, "mask_ratio": 0.2, **training})
    return config.model_copy(update={"fusion": settings.FusionConfig(cooccurrence=0.5)})


@pytest.fixture(scope="module")
def log():
    histories = worlds.cycle(users=20)
    return worlds.frame([[*histories[0], LAST_ONLY], *histories[1:]])


@pytest.fixture(scope="module")
def data(log):
    return pipeline.prepare(read_interactions(log), None, configured())


@pytest.fixture(scope="module")
def selected(data):
    return pipeline.train(data, configured())


@pytest.fixture(scope="module")
def final(data):
    return pipeline.train(data, configured(final_fit=True))


def by_definition(data, config, steps):
    """Adam on all events, one step after another."""
    model = make_model(config, len(data.catalog)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate, fused=True)
    examples, step = all_events(data.histories).train, 0
    while step < steps:
        plan = plan_pass(examples, config.training, epoch=step // max(len(plan_pass(examples, config.training, 0).batches), 1))
        for placed in plan.batches[: steps - step]:
            torch.manual_seed((config.training.seed << 32) + step)
            batch = prepare(materialize_batch(data.histories, plan.examples, placed), config.training)
            optimizer.zero_grad()
            batch_loss(model, batch, config.training, None).mean.backward()
            optimizer.step()
            step += 1
    return model


def test_the_weights_are_those_of_plain_steps_on_all_events(data, selected, final):
    """As many steps as the selection run took to its best epoch; its metrics stay in the report."""
    steps = sum(len(plan_pass(data.split.train, configured().training, epoch).batches) for epoch in range(2))
    assert selected.report["training"]["best_epoch"] == 2
    assert final.report["final_fit"]["steps"] == steps
    assert final.report["final_fit"]["targets"] == len(data.histories.items) - len(data.histories.users)
    with torch.random.fork_rng():
        expected = by_definition(data, configured(), steps)
    assert fingerprint(final.model) == fingerprint(expected)
    assert fingerprint(final.model) != fingerprint(selected.model)
    for key in ("test", "validation", "popularity", "fusion"):
        assert final.report[key] == selected.report[key]


def test_counts_and_rules_are_those_of_all_events(data, final):
    """The weights of the fusion are those of the selection run."""
    items, offsets = data.histories.items.astype("int64"), data.histories.offsets
    assert final.training_counts.tolist() == torch.bincount(torch.from_numpy(items), minlength=len(data.catalog) + 1).tolist()
    expected = SequentialRules.fit(items, offsets, len(data.catalog))
    assert (final.fusion.pairs.weights == expected.weights).all()
    assert final.fusion.weight == 0.5


class Stop(Callback):
    """Ends a training like a power cut, in the selection run or in the final fit."""

    def __init__(self, step, *, in_final_fit):
        self.step, self.in_final_fit = step, in_final_fit

    def on_batch_start(self, loop):
        if (loop.fixed is not None, loop.step) == (self.in_final_fit, self.step):
            raise ConnectionAbortedError("power cut")


@pytest.mark.thorough
@pytest.mark.parametrize(("step", "in_final_fit"), [(3, False), (3, True)], ids=["selection", "final fit"])
def test_both_stages_resume_to_the_same_weights(data, final, tmp_path, monkeypatch, step, in_final_fit):
    """Bit for bit, with the same metrics; nothing but the model remains."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    config, out = configured(final_fit=True), tmp_path / "model"
    with pytest.raises(ConnectionAbortedError):
        pipeline.train(data, config, out, callbacks=[Stop(step, in_final_fit=in_final_fit)])
    assert (tmp_path / "model.training" / "final" / checkpoint.LAST).is_file() is in_final_fit
    steps = []

    class Count(Callback):
        def on_batch_end(self, loop):
            steps.append((loop.fixed is not None, loop.step))

    resumed = pipeline.train(data, config, out, resume=True, callbacks=[Count()])
    assert steps[0] == (in_final_fit, step + 1)
    assert fingerprint(resumed.model) == fingerprint(final.model) == fingerprint(load_artifact(out).model)
    assert resumed.report["test"] == final.report["test"]
    seconds = resumed.report["seconds"]
    assert seconds["total"] >= seconds["training"] + seconds["final_fit"]  # what was before the power cut counts
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.thorough
def test_a_checkpoint_of_another_final_fit_is_not_continued(data, final, tmp_path, caplog):
    """The selection run was resumed with more patience, say, and ended elsewhere."""
    config, out = configured(final_fit=True), tmp_path / "model"
    with pytest.raises(ConnectionAbortedError):
        pipeline.train(data, configured(final_fit=True, max_epochs=1), out, callbacks=[StopAtEnd()])
    resumed = pipeline.train(data, config, out, resume=True)
    assert [line for line in caplog.messages if "final fit starts over" in line]
    assert fingerprint(resumed.model) == fingerprint(final.model)


class StopAtEnd(Callback):
    """Ends the training when the final fit is complete, before the model is saved."""

    def on_fit_end(self, loop):
        if loop.fixed is not None:
            raise ConnectionAbortedError("power cut")


@pytest.mark.thorough
def test_the_learning_rates_are_those_of_the_selection_run(data):
    """A cosine schedule falls by step, although an epoch of the final fit has more steps."""
    rates = {False: [], True: []}

    class Look(Callback):
        def on_batch_end(self, loop):
            rates[loop.fixed is not None].append(loop.optimizer.param_groups[0]["lr"])

    artifact = pipeline.train(data, configured(final_fit=True, schedule="cosine"), callbacks=[Look()])
    assert rates[True] == pytest.approx(rates[False][: artifact.report["final_fit"]["steps"]])


def test_items_that_were_test_targets_only_are_recommended_after_a_final_fit(data, selected, final):
    """Without it they are counted in the report and recommended nowhere."""
    before, after = Recommender(selected), Recommender(final)
    note = "1 of 13 items have no training event"
    assert any(each.startswith(note) for each in selected.report["data"]["split"]["notes"])
    history = data.catalog.ids_of(data.histories.items[: data.histories.offsets[1] - 1].tolist()).to_list()
    batch, session = before.recommend([history] * 2, 20), Session(before, history)
    for result in (before.recommend(history, 20), *batch, session.recommend(20)):
        assert LAST_ONLY not in [each.item for each in result.items]
    assert LAST_ONLY in [each.item for each in after.recommend(history, 20).items]


def test_evaluation_says_what_the_model_was_trained_on(log, final, tmp_path):
    """On the data of the training its targets were training targets; without data the metrics are the selection run's."""
    (note,) = pipeline.evaluate_artifact(final, read_interactions(log), configured())["notes"]
    assert note.startswith("the model was trained on all of these interactions (training.final_fit)")
    final.save(tmp_path / "model")
    result = CliRunner().invoke(cli.app, ["evaluate", str(tmp_path / "model")], catch_exceptions=False)
    assert "its metrics are those of the selection run" in " ".join(result.output.split())
    assert FINAL_FIT_NOTE in render_model_report(final.report, final.config, None)
    shown = CliRunner().invoke(cli.app, ["evaluate", str(tmp_path / "model"), "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["test"] == final.report["test"]


@pytest.mark.thorough
def test_the_python_interface(log, final):
    """`ssd4rec.train(df, final_fit=True)` gives the same model."""
    options = configured(final_fit=False)
    model = ssd4rec.train(log, config=options, final_fit=True)
    assert model.fingerprint() == fingerprint(final.model)
