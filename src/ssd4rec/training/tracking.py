"""Log a training to an experiment tracker."""

from collections.abc import Callable, Mapping
from typing import Any

from ssd4rec.distributed import current_world
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.loop import TrainingLoop

Log = Callable[[Mapping[str, float], int], object]

VALIDATION = f"validation/ndcg_at_{MONITORED_CUTOFF}"  # MLflow refuses names with "@"


class Tracking(Callback):
    """Passes the metrics of each epoch, and the loss between, to a function (metrics, step).

    MLflow's `log_metrics` and the `log` of a Weights & Biases run are such functions; `to_tensorboard` makes one. With several
    processes only the first one logs.

    Args:
        log: called with numbers by name, and the number of finished steps.
        every: steps between two logs of the loss; 0: at the end of each epoch only.
    """

    def __init__(self, log: Log, every: int = 100) -> None:
        self._log, self._every = log, every

    def on_batch_end(self, loop: TrainingLoop) -> None:
        """Log the mean loss of the epoch so far."""
        if self._every and loop.step % self._every == 0 and current_world().is_first:
            rate = float(loop.optimizer.param_groups[0]["lr"])
            self._log({"train/loss": float(loop.loss_sum) / loop.batch, "train/learning_rate": rate}, loop.step)

    def on_epoch_end(self, loop: TrainingLoop) -> None:
        """Log the epoch."""
        if not current_world().is_first:
            return
        epoch = loop.history[-1]
        metrics = {"epoch": float(epoch.epoch), "train/epoch_loss": epoch.loss, "train/seconds": epoch.seconds}
        if loop.fixed is None:
            metrics[VALIDATION] = epoch.ndcg
        self._log(metrics, loop.step)


def to_tensorboard(writer: Any) -> Log:
    """Return a function for `Tracking` that writes to a `torch.utils.tensorboard.SummaryWriter`."""

    def log(metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log
