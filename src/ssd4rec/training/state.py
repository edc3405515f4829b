"""What a training keeps on disk while it runs, so that it can be resumed: whole files, and what they belong to."""

import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import lightning.pytorch as pl
import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import save_file

from ssd4rec._io import atomic_write, exclusive_lock
from ssd4rec.config import TrainingConfig
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Split
from ssd4rec.errors import ArtifactError, StateError, first_line
from ssd4rec.evaluation.metrics import MONITORED_METRIC
from ssd4rec.models.next_item import NextItemModel

LAST, BEST = "last.ckpt", "best-{}.safetensors"  # LAST names its BEST
SECONDS_BETWEEN_CHECKPOINTS = 60.0
UNREADABLE = (OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Epoch:
    """One line of the training history."""

    epoch: int  # 1 is the first
    loss: float  # mean over the epoch's batches, nats a target
    ndcg: float  # validation NDCG@10
    seconds: float  # learning and validation


def training_folder(out: str | Path) -> Path:
    """Where the state of the training is kept whose artifact will lie in `out`."""
    path = Path(out)
    path = path if path.name not in ("", "..") else path.resolve()
    return path.with_name(f"{path.name}.training")


@dataclass(frozen=True)
class LockedFolder:
    """A folder of states that no other process works in."""

    folder: Path


@contextmanager
def hold(directory: str | Path) -> Iterator[LockedFolder]:
    """Make the folder of a state and hold it inside the block; the lock goes with the process, however it ends.

    Raises:
        ArtifactError: it cannot be made or written, or another process holds it.
    """
    folder = Path(directory)
    busy = ArtifactError(f"another training is at work in {folder}; wait for it, or give another --out")

    def refused(why: str) -> ArtifactError:
        return ArtifactError(f"the state of the training cannot be kept in {folder}: {why}; give another --out")

    with exclusive_lock(folder / "lock", busy, refused):
        yield LockedFolder(folder)


def training_identity(model: NextItemModel, histories: Sequences, split: Split, config: TrainingConfig) -> dict[str, Any]:
    """What decides the weights of a training. Patience may change on a resume; the number of epochs where no rate follows it."""
    free = {"patience", "accelerator"} | ({"max_epochs"} if config.schedule == "constant" else set())
    settings = getattr(model.backbone, "config", None)
    return {
        "training": config.model_dump(mode="json", exclude=free),
        "backbone": settings.model_dump(mode="json") if isinstance(settings, BaseModel) else {},  # of a network of ours
        "network": repr(model),  # its modules and their sizes, as torch prints them
        "histories": histories.fingerprint(),
        "examples": [split.train.fingerprint(), split.validation.fingerprint()],  # the test part is nothing to a training
        "protocol": split.protocol,
    }


class CheckpointKeeper(pl.Callback):
    """Keeps the state of a training and its best weights on disk, each file whole or absent.

    Wherever a training is cut off, the weights are those of the history beside them: each best is a file of a new name, and the
    one before goes when there is a checkpoint that names the new one.

    Args:
        folder: where; it is there.
        model: whose weights are kept where they are the best so far.
        identity: of the training.
    """

    state_key = "keeper"

    def __init__(self, folder: Path, model: NextItemModel, identity: Mapping[str, Any]) -> None:
        self.folder, self.model, self.identity = folder, model, identity
        self.history: list[Epoch] = []
        self.best = folder / BEST.format("none")  # the file of the best weights so far
        self._saved = self._began = time.monotonic()
        self._before = 0.0  # seconds of this epoch before the resume

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A checkpoint a minute; not between an epoch's last batch and its validation, which a resume would pass over."""
        del module, outputs, batch
        between = batch_idx + 1 < trainer.num_training_batches
        if between and time.monotonic() - self._saved >= SECONDS_BETWEEN_CHECKPOINTS:
            self._save(trainer)

    def on_train_epoch_start(self, *_: Any) -> None:
        """The epoch's clock begins."""
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """One more line of the history; the weights, if they are the best so far; a checkpoint."""
        seconds = self._before + time.monotonic() - self._began
        loss, score = float(trainer.callback_metrics["loss"]), float(trainer.callback_metrics[MONITORED_METRIC])
        best = max((epoch.ndcg for epoch in self.history), default=-1.0)
        self.history.append(Epoch(len(self.history) + 1, loss, score, seconds))
        self._before, self._began = 0.0, time.monotonic()
        if score > best:
            self.best = self.folder / BEST.format(uuid4().hex)
            _replace(self.best, lambda path: save_file(self.model.state_dict(), path))
        self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs, and what it must be of."""
        return {
            "identity": dict(self.identity),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best.name,
            "seconds": self._before + time.monotonic() - self._began,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
        self.history = [Epoch(**epoch) for epoch in state_dict["history"]]
        self.best = self.folder / state_dict["best"]
        self._before = float(state_dict["seconds"])

    def look(self) -> None:
        """See that the folder holds a state of this training, and know its history.

        Raises:
            StateError: there is none, it is damaged, or of another training.
        """
        if not (self.folder / LAST).is_file():
            raise StateError(f"nothing to resume: {self.folder / LAST} does not exist; train without --resume first")
        try:
            kept = torch.load(self.folder / LAST, map_location="cpu", weights_only=True, mmap=True)["callbacks"][self.state_key]
            self.load_state_dict(kept)
            found = dict(kept["identity"])
        except UNREADABLE as error:
            raise StateError(
                f"{self.folder / LAST} is damaged or of another version of ssd4rec ({first_line(error)}); train without --resume"
            ) from error
        if different := _differences(found, self.identity):
            raise StateError(
                f"{self.folder} holds the state of another training: {'; '.join(different)}. Resume with what it was begun with, "
                f"or train without --resume"
            )
        if self.history and not self.best.is_file():
            raise StateError(f"{self.best} is missing, so the best weights so far are lost; train without --resume")

    def _save(self, trainer: pl.Trainer) -> None:
        _replace(self.folder / LAST, trainer.save_checkpoint)
        for path in self.folder.glob(f"*{BEST.format('*')}*"):  # hidden halves too
            if path != self.best:
                with suppress(OSError):  # it goes with the folder
                    path.unlink()
        self._saved = time.monotonic()


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """In words; of settings those that differ, of the rest the first thing that does."""
    different = [
        f"{group}.{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for group in ("training", "backbone")
        for before, now in [(found.get(group, {}), asked[group])]
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if different:
        return different
    if found.get("protocol") != asked["protocol"]:
        return [f"the split was {found.get('protocol')!r}, now {asked['protocol']!r}"]
    said = {"histories": "other histories", "examples": "other examples of the same histories", "network": "another network"}
    return [what for key, what in said.items() if found.get(key) != asked[key]][:1]


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    try:
        with atomic_write(path) as partial:
            write(partial)
    except (OSError, SafetensorError) as error:
        again = ", with --resume if it is ssd4rec train or demo" if (path.parent / LAST).is_file() else ""
        raise ArtifactError(
            f"the state of the training cannot be written: {path}: {error}; make room and give the same command again{again}"
        ) from error
