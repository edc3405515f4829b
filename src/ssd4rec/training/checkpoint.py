"""Checkpoints: the state of a training on disk, complete and with checksums, and what training it belongs to."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssd4rec._io import atomic_write, digest_of, exclusive_lock, sha256_of
from ssd4rec.config import TrainingConfig
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Split
from ssd4rec.errors import ArtifactError, StateError, first_line
from ssd4rec.models.next_item import NextItemModel

LAST, BEST = "last.safetensors", "best-{}.safetensors"  # the first names the second, and holds its checksum
LOCK = "lock"
SECONDS_BETWEEN_CHECKPOINTS = 60.0
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, SafetensorError)


@dataclass(frozen=True)
class Epoch:
    """One epoch of the training history."""

    epoch: int  # 1 is the first
    loss: float  # mean over the epoch's batches, nats per target
    ndcg: float  # validation NDCG@10; not a number where nothing is validated
    seconds: float  # training and validation
    step: int  # finished batches of all epochs at its end


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the highest validation NDCG@10, the first of equal ones."""
    return max(history, key=lambda epoch: epoch.ndcg)


@dataclass
class Progress:
    """How far a training is."""

    epoch: int = 0  # 0-based: the current one
    batch: int = 0  # finished batches of the current epoch
    step: int = 0  # finished batches of all epochs
    seconds: float = 0.0  # of the current epoch, up to the checkpoint
    history: tuple[Epoch, ...] = ()


def training_folder(out: str | Path) -> Path:
    """Return the folder of the checkpoints of a training whose model will be saved in `out`."""
    path = Path(out)
    path = path if path.name not in ("", "..") else path.resolve()
    return path.with_name(f"{path.name}.training")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create the folder of a training and lock it inside the block; it goes again if no checkpoint was written.

    Raises:
        ArtifactError: it cannot be created or written, or another process has locked it.
    """
    busy = ArtifactError(f"another training is running in {folder}; wait for it, or choose another --out")

    def refused(reason: str) -> ArtifactError:
        return ArtifactError(f"checkpoints cannot be written to {folder}: {reason}; choose another --out")

    with exclusive_lock(folder / LOCK, busy, refused):
        try:
            yield
        finally:
            with suppress(OSError):
                if {entry.name for entry in folder.iterdir()} <= {LOCK}:
                    (folder / LOCK).unlink(missing_ok=True)
                    folder.rmdir()


def training_identity(
    model: NextItemModel,
    sequences: Sequences,
    split: Split,
    config: TrainingConfig,
    fixed: Mapping[str, float] | None = None,
    start: str | None = None,
    teacher: str | None = None,
) -> dict[str, Any]:
    """Return everything that determines the weights of a training.

    `fixed` is the number of steps of a final fit, `start` the hash of the weights of a model that is continued, `teacher` that of
    its teacher.

    Patience, the number of processes and whether they share the item table may change on a resume; the number of epochs too, if
    the learning rate is constant.
    """
    free = {"patience", "accelerator", "final_fit", "shard_item_table"} | (
        {"max_epochs"} if config.schedule == "constant" else set()
    )
    settings = getattr(model.backbone, "config", None)
    return {
        "training": config.model_dump(mode="json", exclude=free),
        "backbone": settings.model_dump(mode="json") if isinstance(settings, BaseModel) else {},
        "network": repr(model),  # its modules and their sizes, as PyTorch prints them
        "sequences": sequences.fingerprint(),
        "examples": [split.train.fingerprint(), split.validation.fingerprint()],  # training does not depend on the test set
        "protocol": split.protocol,
        "start": start,
        "fixed": None if fixed is None else dict(fixed),
        **({} if teacher is None else {"teacher": teacher}),
        **({} if model.features is None else {"features": model.features.fingerprint}),
    }


class Checkpoints:
    """Writes and reads the checkpoints of one training.

    A training that is killed at any time continues with the weights that its history describes: each new best is a file of a
    new name, and the previous one is removed once a checkpoint names the new one. Files are safetensors, written atomically;
    the checksum of everything in the checkpoint is in its metadata, that of the best weights in the checkpoint.

    Args:
        folder: an existing folder.
        identity: of the training, from `training_identity`.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self.saved_at = time.monotonic()
        self._best: tuple[str, str] | None = None  # file name and SHA-256

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is more than a minute old."""
        return time.monotonic() - self.saved_at >= SECONDS_BETWEEN_CHECKPOINTS

    def save_best(self, model: nn.Module) -> None:
        """Write the best weights so far; the next `save` refers to them."""
        name = BEST.format(uuid4().hex)
        weights = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        _write(self.folder / name, weights, {})
        self._best = (name, sha256_of(self.folder / name))

    def save(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Write the checkpoint, then remove best weights that it does not refer to."""
        content = {
            "identity": dict(self.identity),
            "progress": asdict(progress),
            "best": self._best,
        }
        about = {"content": json.dumps(content)}
        about["sha256"] = digest_of(about["content"], tensors)
        _write(self.folder / LAST, tensors, about)
        best = self._best[0] if self._best else None
        for path in self.folder.glob(f"*{BEST.format('*')}*"):  # temporary files too
            if path.name != best:
                with suppress(OSError):
                    path.unlink()
        self.saved_at = time.monotonic()

    def load(self) -> tuple[Progress, dict[str, Tensor]]:
        """Read the checkpoint and check that it is undamaged and belongs to this training.

        Raises:
            StateError: there is none, it is damaged, or it belongs to another training.
        """
        path = self.folder / LAST
        if not path.is_file():
            raise StateError(f"nothing to resume: {path} does not exist; train without --resume first")
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            content = json.loads(about["content"])
            undamaged = about["sha256"] == digest_of(about["content"], tensors)
            progress = Progress(**content["progress"])
            progress.history = tuple(Epoch(**epoch) for epoch in content["progress"]["history"])
            saved_identity, best = dict(content["identity"]), content["best"]
        except UNREADABLE as error:
            raise StateError(
                f"{path} is damaged or was written by another version of ssd4rec ({first_line(error)}); train without --resume"
            ) from error
        if not undamaged:
            raise StateError(f"{path} is damaged: its checksum does not match; train without --resume")
        if differences := _differences(saved_identity, self.identity):
            raise StateError(
                f"{self.folder} is the checkpoint of another training: {'; '.join(differences)}. Resume with the original data "
                f"and settings, or train without --resume"
            )
        self._best = None if best is None else (str(best[0]), str(best[1]))
        if progress.history:
            self.best_weights()  # checked now, not after hours
        return progress, tensors

    def best_weights(self) -> dict[str, Tensor]:
        """Read the best weights so far.

        Raises:
            StateError: they are missing or damaged.
        """
        name, digest = self._best or (BEST.format("none"), "")
        path = self.folder / name
        if not path.is_file():
            raise StateError(f"{path} is missing, so the best weights so far are lost; train without --resume")
        try:
            undamaged = sha256_of(path) == digest
            weights = load_file(path) if undamaged else {}
        except UNREADABLE as error:
            raise StateError(f"{path} is damaged ({first_line(error)}); train without --resume") from error
        if not undamaged:
            raise StateError(f"{path} is damaged: its checksum does not match; train without --resume")
        return weights


def _write(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
    try:
        with atomic_write(path) as partial:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, partial, metadata=about)
    except (OSError, SafetensorError) as error:
        again = ", with --resume if it is ssd4rec train or demo" if (path.parent / LAST).is_file() else ""
        raise ArtifactError(
            f"the checkpoint {path} cannot be written: {error}; free some space and run the same command again{again}"
        ) from error


def _differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Describe how two training configurations differ: every setting that does, otherwise the first other difference."""
    settings = [
        f"{group}.{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for group in ("training", "backbone")
        for before, now in [(saved.get(group, {}), current[group])]
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if settings:
        return settings
    if saved.get("protocol") != current["protocol"]:
        return [f"the split was {saved.get('protocol')!r}, now {current['protocol']!r}"]
    others = {
        "sequences": "other sequences",
        "examples": "other examples of the same sequences",
        "network": "another network",
        "start": "another model to start from",
        "fixed": "another number of steps",
        "teacher": "other teachers",
        "features": "other item features",
    }
    return [description for key, description in others.items() if saved.get(key) != current.get(key)][:1]
