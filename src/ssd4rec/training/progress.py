"""What a person sees while a model trains."""

import math
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ssd4rec.evaluation.metrics import MONITORED_METRIC

NOTHING_YET = (-math.inf, 0)  # the best score, and its epoch


class TrainingProgress(pl.Callback):
    """A bar for the batches of the current epoch on a terminal, and a line for each finished epoch anywhere.

    Args:
        console: where to write; the command line gives it standard error.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._best = NOTHING_YET

    def setup(self, *_: Any, **__: Any) -> None:
        """Lightning's hook, before a checkpoint is loaded: what another training reached does not count."""
        self._best = NOTHING_YET

    def on_train_start(self, *_: Any) -> None:
        """Lightning's hook."""
        self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Lightning's hook."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        total = int(trainer.num_training_batches)
        self._task = self._bar.add_task(f"epoch {trainer.current_epoch + 1}", total=total)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, _: Any, __: Any, batch_idx: int) -> None:
        """Lightning's hook."""
        del trainer, module
        if self._task is not None:
            self._bar.update(self._task, completed=batch_idx + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Lightning's hook."""
        epoch, loss, score = (
            trainer.current_epoch + 1,
            trainer.callback_metrics["loss"],
            float(trainer.callback_metrics[MONITORED_METRIC]),
        )
        mark = f"best {self._best[0]:.4f} in epoch {self._best[1]}"
        if score > self._best[0]:
            self._best, mark = (score, epoch), "best so far"
        self._console.print(
            f"epoch {epoch:3d}   loss {float(loss):.4f}   validation {MONITORED_METRIC} {score:.4f}   {mark}", highlight=False
        )

    def on_train_end(self, *_: Any) -> None:
        """Lightning's hook."""
        self._bar.stop()

    def on_exception(self, *_: Any) -> None:
        """Lightning's hook: an interrupted training gives the terminal back."""
        self._bar.stop()

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, for a resumed training."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
        score, epoch = state_dict["best"]
        self._best = (float(score), int(epoch))
