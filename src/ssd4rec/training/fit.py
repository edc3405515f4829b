"""From a model and its examples to trained weights: epochs, early stop, the best weights, resuming."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ssd4rec.config import TrainingConfig
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Split
from ssd4rec.diagnostics import resolve_device
from ssd4rec.errors import ArtifactError
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.training.module import NextItemTraining
from ssd4rec.training.state import LAST, CheckpointKeeper, Epoch, LockedFolder, hold, training_identity


@dataclass(frozen=True)
class TrainingReport:
    """How a training went."""

    history: tuple[Epoch, ...]
    best_epoch: int
    best_ndcg: float  # validation NDCG@10 of the weights that were kept
    stopped: str  # "patience" or "max_epochs"
    seconds: float  # all epochs, those before a resume included

    def as_dict(self) -> dict[str, object]:
        """JSON-able."""
        return asdict(self)


def fit(
    model: NextItemModel,
    histories: Sequences,
    split: Split,
    config: TrainingConfig,
    *,
    directory: str | Path | LockedFolder | None = None,
    resume: bool = False,
    callbacks: Sequence[pl.Callback] = (),
) -> TrainingReport:
    """Train a model in place; it ends with the weights of its best epoch on the validation part, and on the CPU.

    Args:
        model: what is trained.
        histories: where the items lie.
        split: train and validation parts.
        config: objective, optimizer, when to stop.
        directory: where the state of the training is kept (each epoch, and each minute in an epoch), or the same where
            the caller holds it already; None: nowhere.
        resume: go on from the state in `directory`; on the same machine with as many threads the weights become those of an
            uninterrupted run, bit for bit.
        callbacks: Lightning callbacks on top, e.g. a progress bar.

    Returns:
        The training history.

    Raises:
        StateError: nothing to resume in `directory`, or what is there is damaged or of another training.
        ArtifactError: another one is at work there; it cannot be written.
        BackendError: the accelerator that was asked for is not there.
        KeyboardInterrupt: interrupted by the user; the state in `directory` is whole.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="ssd4rec-") as temporary:
            return _fit(model, histories, split, config, Path(temporary), resume=False, callbacks=callbacks)
    place = directory if isinstance(directory, LockedFolder) else Path(directory)
    return _fit(model, histories, split, config, place, resume=resume, callbacks=callbacks)


def _fit(
    model: NextItemModel,
    histories: Sequences,
    split: Split,
    config: TrainingConfig,
    place: Path | LockedFolder,
    *,
    resume: bool,
    callbacks: Sequence[pl.Callback],
) -> TrainingReport:
    folder = place.folder if isinstance(place, LockedFolder) else place
    module = NextItemTraining(model, histories, split, config)
    keeper = CheckpointKeeper(folder, module.measured, training_identity(model, histories, split, config))
    with _quiet(), _algorithms_left_alone(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        trainer = _trainer(config, folder, [*callbacks, keeper, _Patience(keeper, config)])
        with nullcontext() if isinstance(place, LockedFolder) else hold(folder):
            if resume:
                keeper.look()
            model.train()  # a finished model comes in eval mode, in which Lightning would leave it: no dropout
            if not _is_over(keeper.history, config):
                _learn(trainer, module, folder / LAST if resume else None)
            model.load_state_dict(_best_weights(keeper.best))
    history = tuple(keeper.history)
    best = max(history, key=lambda epoch: epoch.ndcg)
    stopped = "patience" if len(history) < config.max_epochs else "max_epochs"
    return TrainingReport(history, best.epoch, best.ndcg, stopped, sum(epoch.seconds for epoch in history))


class _Patience(pl.Callback):
    """Stops by the history, which is what the checkpoint holds.

    Lightning's EarlyStopping counts in a state of its own, and runs after every other callback: the checkpoint that
    `CheckpointKeeper` writes at the end of an epoch would hold its count of the epoch before.
    """

    def __init__(self, keeper: CheckpointKeeper, config: TrainingConfig) -> None:
        self.keeper, self.config = keeper, config

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """After the keeper's, which knows the epoch by then."""
        if _is_over(self.keeper.history, self.config):
            trainer.should_stop = True


def _is_over(history: Sequence[Epoch], config: TrainingConfig) -> bool:
    """Whether a training ends with the last epoch of its history."""
    if not history:
        return False
    best = max(history, key=lambda epoch: epoch.ndcg)  # the first of equals
    return len(history) >= config.max_epochs or len(history) - best.epoch >= config.patience


def _learn(trainer: pl.Trainer, module: NextItemTraining, checkpoint: Path | None) -> None:
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # Lightning turns Ctrl-C into an exit of the whole process
        raise KeyboardInterrupt from error


def _best_weights(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ArtifactError(f"{file} is damaged ({error}); train without --resume") from error


def _trainer(config: TrainingConfig, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        accelerator=resolve_device(config.accelerator),  # Lightning's own "auto" takes an Apple GPU, which has no float64
        devices=1,
        precision=config.precision,
        deterministic=config.deterministic or None,  # None: what the caller asked torch for holds
        max_epochs=config.max_epochs,
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,  # each epoch has its own batches
    )


@contextmanager
def _algorithms_left_alone() -> Iterator[None]:
    # training.deterministic holds for the training, not for the process
    asked, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warn_only)


@contextmanager
def _quiet() -> Iterator[None]:
    # Lightning talks about devices, workers and tips; what a user needs is in the report and the progress bar.
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
            # NextItemTraining.train_dataloader gives what is left of the pass, from `read_in_epoch` of the checkpoint.
            warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
            yield
    finally:
        logger.setLevel(level)
