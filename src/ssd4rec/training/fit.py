"""From a model and its examples to trained weights: epochs, early stop, the best weights, resuming."""

import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping
from safetensors.torch import load_file, save_file

from ssd4rec.config import TrainingConfig
from ssd4rec.data.histories import Histories
from ssd4rec.data.split import Split
from ssd4rec.errors import ArtefactError, BackendError
from ssd4rec.model import NextItemModel
from ssd4rec.training.module import WATCHED, NextItemTraining

LAST, BEST = "last.ckpt", "best.safetensors"
SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class Epoch:
    """One line of the course of training."""

    epoch: int  # 1 is the first
    loss: float  # mean over the epoch's batches, nats a target
    ndcg: float  # validation NDCG@10
    seconds: float  # learning and validation


@dataclass(frozen=True)
class TrainingReport:
    """How a training went."""

    course: tuple[Epoch, ...]
    best_epoch: int
    best_ndcg: float  # validation NDCG@10 of the weights that were kept
    stopped: str  # "patience" or "max_epochs"
    seconds: float  # all epochs, those before a resume included

    def as_dict(self) -> dict[str, object]:
        """JSON-able."""
        return asdict(self)


def fit(
    model: NextItemModel,
    histories: Histories,
    split: Split,
    config: TrainingConfig,
    *,
    directory: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[pl.Callback] = (),
) -> TrainingReport:
    """Train a model in place; it ends with the weights of its best epoch on the validation part.

    Args:
        model: what is trained.
        histories: where the items lie.
        split: train and validation parts.
        config: objective, optimiser, when to stop.
        directory: where the state of the training is kept (each epoch, and each minute in an epoch); None: nowhere.
        resume: go on from the state in `directory`; on the same machine with as many threads the weights become those of an
            uninterrupted run, bit for bit.
        callbacks: Lightning callbacks on top, e.g. a progress bar.

    Returns:
        The course of training.

    Raises:
        ArtefactError: nothing to resume in `directory`, or the state there is of other settings.
        BackendError: the accelerator that was asked for is not there.
        KeyboardInterrupt: interrupted by the user; the state in `directory` is whole.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="ssd4rec-") as temporary:
            return _fit(model, histories, split, config, Path(temporary), resume=False, callbacks=callbacks)
    folder = Path(directory)
    return _fit(model, histories, split, config, folder, resume=resume, callbacks=callbacks)


def _fit(
    model: NextItemModel,
    histories: Histories,
    split: Split,
    config: TrainingConfig,
    folder: Path,
    *,
    resume: bool,
    callbacks: Sequence[pl.Callback],
) -> TrainingReport:
    _prepare(folder, model, config, histories, resume=resume)
    keeper = _Keeper(folder, model)
    stopping = EarlyStopping(
        WATCHED, mode="max", patience=config.patience, check_on_train_epoch_end=True, check_finite=True, min_delta=0.0
    )
    module = NextItemTraining(model, histories, split, config)
    with _quiet(), _algorithms_left_alone(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        trainer = _trainer(config, folder, [stopping, *callbacks, keeper])
        checkpoint = folder / LAST
        try:
            trainer.fit(module, ckpt_path=checkpoint if resume else None, weights_only=True)
        except SystemExit as error:  # Lightning turns Ctrl-C into an exit of the whole process
            raise KeyboardInterrupt from error
    model.load_state_dict(load_file(folder / BEST))
    course = tuple(keeper.course)
    best = max(course, key=lambda epoch: epoch.ndcg)
    stopped = "patience" if len(course) < config.max_epochs else "max_epochs"
    return TrainingReport(course, best.epoch, best.ndcg, stopped, sum(epoch.seconds for epoch in course))


def _trainer(config: TrainingConfig, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    try:
        return pl.Trainer(
            accelerator=config.accelerator,
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
    except MisconfigurationException as error:
        raise BackendError(
            f'training.accelerator = "{config.accelerator}" is not available on this machine; use "auto" or "cpu"'
        ) from error


class _Keeper(pl.Callback):
    """Keeps the state of the training and its best weights on disk, each file whole or absent."""

    def __init__(self, folder: Path, model: NextItemModel) -> None:
        self.folder, self.model = folder, model
        self.course: list[Epoch] = []
        self._saved = self._began = time.monotonic()
        self._before = 0.0  # seconds of this epoch before the resume

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_CHECKPOINTS:
            self._save(trainer)

    def on_train_epoch_start(self, *_: Any) -> None:
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        seconds = self._before + time.monotonic() - self._began
        loss, score = float(trainer.callback_metrics["loss"]), float(trainer.callback_metrics[WATCHED])
        best = max((epoch.ndcg for epoch in self.course), default=-1.0)
        self.course.append(Epoch(len(self.course) + 1, loss, score, seconds))
        self._before, self._began = 0.0, time.monotonic()
        if score > best:
            _replace(self.folder / BEST, lambda path: save_file(self.model.state_dict(), path))
        self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {
            "course": [asdict(epoch) for epoch in self.course],
            "seconds": self._before + time.monotonic() - self._began,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.course = [Epoch(**epoch) for epoch in state_dict["course"]]
        self._before = float(state_dict["seconds"])

    def _save(self, trainer: pl.Trainer) -> None:
        _replace(self.folder / LAST, trainer.save_checkpoint)
        self._saved = time.monotonic()


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    partial = path.with_suffix(".partial")
    write(partial)
    partial.replace(path)


def _prepare(folder: Path, model: NextItemModel, config: TrainingConfig, histories: Histories, *, resume: bool) -> None:
    # What a state belongs to; patience may change on a resume, and max_epochs where the learning rate does not follow it.
    free = {"patience", "accelerator"} | ({"max_epochs"} if config.schedule == "constant" else set())
    identity = {
        "training": config.model_dump(mode="json", exclude=free),
        "data": histories.fingerprint(),
        "network": repr(model),  # its modules and their sizes, as torch prints them
    }
    stamp = folder / "identity.json"
    if not resume:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (LAST, BEST):
            (folder / name).unlink(missing_ok=True)
        stamp.write_text(json.dumps(identity), encoding="utf-8")
        return
    if not (folder / LAST).is_file() or not stamp.is_file():
        raise ArtefactError(f"nothing to resume: {folder / LAST} does not exist; train without --resume first")
    if (found := json.loads(stamp.read_text(encoding="utf-8"))) != identity:
        different = [key for key in identity if found.get(key) != identity[key]]
        raise ArtefactError(
            f"{folder} holds the state of a training with other {' and '.join(different)}; resume with what it was begun with, "
            f"or train without --resume"
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
