"""The numbers that a tracker gets."""

import pytest

import worlds
from ssd4rec.models.next_item import make_model
from ssd4rec.training.loop import fit
from ssd4rec.training.tracking import Tracking, to_tensorboard


class Writer:
    """The part of TensorBoard's SummaryWriter that is used."""

    def __init__(self):
        self.scalars, self.flushed = [], 0

    def add_scalar(self, tag, value, global_step):
        self.scalars.append((tag, value, global_step))

    def flush(self):
        self.flushed += 1


def test_epochs_and_steps_are_logged():
    world, config = worlds.world(worlds.cycle(users=30)), worlds.config(max_epochs=2, token_budget=128)
    logged, writer = [], Writer()
    callbacks = [
        Tracking(lambda metrics, step: logged.append((dict(metrics), step)), every=2),
        Tracking(to_tensorboard(writer), 0),
    ]
    model = make_model(config, len(world.catalog))
    report = fit(model, world.histories, world.split, config.training, callbacks=callbacks)
    epochs = [each for each in logged if "epoch" in each[0]]
    assert [(metrics["train/epoch_loss"], metrics["validation/ndcg_at_10"]) for metrics, _ in epochs] == [
        (epoch.loss, epoch.ndcg) for epoch in report.history
    ]
    steps = [each for each in logged if "train/loss" in each[0]]
    assert [step for _, step in steps] == list(range(2, epochs[-1][1] + 1, 2))
    assert {metrics["train/learning_rate"] for metrics, _ in steps} == {config.training.learning_rate}
    scalars = {(tag, step): value for tag, value, step in writer.scalars}
    assert scalars["validation/ndcg_at_10", epochs[-1][1]] == pytest.approx(report.history[-1].ndcg)
    assert writer.flushed == 2
