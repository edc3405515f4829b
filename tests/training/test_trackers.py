"""Training histories in real trackers: TensorBoard's event files and an MLflow store, read back with their own readers."""

import pytest

import worlds
from ssd4rec.models.next_item import make_model
from ssd4rec.training.loop import fit
from ssd4rec.training.tracking import Tracking, to_tensorboard

NAMES = {"epoch", "train/epoch_loss", "train/seconds", "validation/ndcg_at_10", "train/loss", "train/learning_rate"}

pytestmark = pytest.mark.thorough  # each tracker takes seconds to import


def trained(log):
    """The training history of two epochs that were logged, and the numbers of steps that a loss was logged at."""
    world, config = worlds.world(worlds.cycle(users=30)), worlds.config(max_epochs=2, token_budget=128)
    model = make_model(config, len(world.catalog))
    history = fit(model, world.histories, world.split, config.training, callbacks=[Tracking(log, every=2)]).history
    return history, list(range(2, history[-1].step + 1, 2))


def test_tensorboard_reads_the_training_history(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="pip install 'ssd4rec[track]'")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        history, steps = trained(to_tensorboard(writer))
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == NAMES
    logged = events.Scalars("validation/ndcg_at_10")
    assert [each.step for each in logged] == [epoch.step for epoch in history]
    assert [each.value for each in logged] == pytest.approx([epoch.ndcg for epoch in history])
    assert [each.step for each in events.Scalars("train/loss")] == steps


@pytest.mark.filterwarnings("default")  # of MLflow's own dependencies
def test_mlflow_reads_the_training_history(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store that needs no database
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    mlflow = pytest.importorskip("mlflow", reason="pip install 'ssd4rec[track]'")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            history, steps = trained(mlflow.log_metrics)
        client = mlflow.MlflowClient()
        assert set(client.get_run(run.info.run_id).data.metrics) == NAMES
        logged = sorted(client.get_metric_history(run.info.run_id, "validation/ndcg_at_10"), key=lambda each: each.step)
        assert [(each.step, each.value) for each in logged] == [(epoch.step, epoch.ndcg) for epoch in history]
        losses = client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted(each.step for each in losses) == steps
    finally:
        mlflow.set_tracking_uri(before)
