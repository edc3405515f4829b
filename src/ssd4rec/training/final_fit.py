"""The final fit: after model selection, train a new model on all events for as many steps as were best."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd4rec._csr import IntArray
from ssd4rec.config import Config
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples, all_events, training_counts
from ssd4rec.errors import StateError
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.training import loop
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.checkpoint import LAST
from ssd4rec.training.loop import FixedSteps, TrainingReport

FOLDER = "final"  # of its checkpoints, inside of that of the selection run
NOTE = (
    "the saved model was trained on all interactions, the test set too (training.final_fit); "
    "its metrics are those of the selection run, which was trained on the training set alone"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinalFit:
    """A model that was trained on all events."""

    model: NextItemModel
    counts: IntArray  # [V + 1] events of each item index
    train: Examples  # all events
    training: TrainingReport

    def as_dict(self) -> dict[str, Any]:
        """Return the `final_fit` part of a report."""
        return {
            "note": NOTE,
            "targets": self.train.targets,
            "steps": self.training.history[-1].step,
            "losses": [epoch.loss for epoch in self.training.history],
            "seconds": self.training.seconds,
        }


def fit_all_events(
    make_model: Callable[[], NextItemModel],
    sequences: Sequences,
    config: Config,
    selected: TrainingReport,
    *,
    start: str | None = None,
    folder: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> FinalFit:
    """Train a new model on all events.

    The number of steps and, with a cosine schedule, the learning rate of each step are those of the selection run up to its
    best epoch. A pass over all events has more batches, so the same steps are fewer epochs.

    Args:
        make_model: returns a model with the initial weights of the selection run.
        sequences: all events.
        config: the settings of the selection run.
        selected: the selection run.
        start: hash of the initial weights, if they are not those of the seed.
        folder: of the selection run's checkpoints, locked by the caller; None: nothing is written.
        resume: continue from the checkpoint of an interrupted final fit, if there is one of the same steps.
        callbacks: called along the way.

    Raises:
        ArtifactError: a checkpoint cannot be written.
        DivergedError: the loss is not finite.
    """
    split = all_events(sequences, config.data.max_length)
    steps = selected.best_steps
    fixed = FixedSteps(steps, steps / selected.best_epoch * config.training.max_epochs)
    logger.info("final fit: training on all %s interactions for %s steps", f"{len(sequences.items):,}", f"{steps:,}")
    directory = None if folder is None else folder / FOLDER
    options: dict[str, Any] = {"directory": directory, "callbacks": callbacks, "fixed": fixed, "start": start}
    model = make_model()
    try:
        continues = resume and directory is not None and (directory / LAST).is_file()
        training = loop.fit(model, sequences, split, config.training, resume=continues, **options)
    except StateError as error:  # damaged, or of a selection run that ended elsewhere
        logger.warning("the final fit starts over: %s", error)
        model = make_model()
        training = loop.fit(model, sequences, split, config.training, **options)
    counts = training_counts(sequences, split.train, model.catalog_size)
    return FinalFit(model, counts, split.train, training)
