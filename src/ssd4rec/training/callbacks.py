"""Hooks into a training: progress bars, trial pruning, experiment trackers."""

from typing import TYPE_CHECKING

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
