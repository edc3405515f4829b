"""Hooks into a training: progress bars, trial pruning, experiment trackers."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ssd4rec.evaluation.metrics import MONITORED_METRIC
from ssd4rec.training.checkpoint import best_epoch

if TYPE_CHECKING:
    from ssd4rec.training.loop import TrainingLoop


class Callback:
    """Base class of callbacks: every method does nothing.

    The loop's public attributes say where the training is: `epoch` (0-based), `batch` (finished in this epoch), `batches`
    (of this epoch), `step` (finished in all), `history` (one entry for each finished epoch), `max_epochs`, `model`,
    `measured` (the model that is validated: the average of the weights where there is one) and `optimizer`; setting
    `should_stop` ends the training with the current epoch. An exception
    raised in a callback ends the training; its checkpoint stays.
    """

    follows_teachers = False  # whether it is called during the training of `training.teachers` too

    def on_fit_start(self, loop: "TrainingLoop") -> None:
        """Run before the first epoch, after a checkpoint was loaded."""

    def on_epoch_start(self, loop: "TrainingLoop") -> None:
        """Run before the first batch of an epoch, or of what is left of it after a resume."""

    def on_batch_start(self, loop: "TrainingLoop") -> None:
        """Run before each step."""

    def on_batch_end(self, loop: "TrainingLoop") -> None:
        """Run after each step."""

    def on_validation_start(self, loop: "TrainingLoop") -> None:
        """Run between the last batch of an epoch and its validation."""

    def on_epoch_end(self, loop: "TrainingLoop") -> None:
        """Run when `loop.history` has the new epoch, before its checkpoint is written."""

    def on_fit_end(self, loop: "TrainingLoop") -> None:
        """Run at the end, however the training ends."""


class TrainingProgress(Callback):
    """Show a bar for the batches of the current epoch on a terminal, and print a line for each finished epoch.

    Args:
        console: where to write; the command line passes standard error.
    """

    follows_teachers = True

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

    def on_fit_start(self, loop: "TrainingLoop") -> None:
        """Show the bar."""
        del loop
        self._bar.start()

    def on_epoch_start(self, loop: "TrainingLoop") -> None:
        """Begin the bar of an epoch."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"epoch {loop.epoch + 1}", total=loop.batches, completed=loop.batch)

    def on_batch_end(self, loop: "TrainingLoop") -> None:
        """Advance the bar."""
        if self._task is not None:
            self._bar.update(self._task, completed=loop.batch)

    def on_epoch_end(self, loop: "TrainingLoop") -> None:
        """Print the epoch's loss and validation metric, and the best epoch so far."""
        *_, last = loop.history
        if loop.fixed is not None:
            self._console.print(
                f"final fit, epoch {last.epoch:3d}   loss {last.loss:.4f}   step {last.step:,} of {loop.fixed.steps:,}",
                highlight=False,
            )
            return
        best = best_epoch(loop.history)
        mark = "best so far" if best is last else f"best {best.ndcg:.4f} in epoch {best.epoch}"
        self._console.print(
            f"epoch {last.epoch:3d}   loss {last.loss:.4f}   validation {MONITORED_METRIC} {last.ndcg:.4f}   {mark}",
            highlight=False,
        )

    def on_fit_end(self, loop: "TrainingLoop") -> None:
        """Remove the bar."""
        del loop
        self._bar.stop()
