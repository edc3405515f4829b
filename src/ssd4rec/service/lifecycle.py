"""Versions of the model: find, load, warm, swap. One pointer is moved; running requests finish on the old model."""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from ssd4rec._io import write_atomically
from ssd4rec.artifact import MANIFEST
from ssd4rec.errors import ArtifactError, DivergedError, SSD4RecError
from ssd4rec.service import metrics
from ssd4rec.service.item_filters import ItemFilters
from ssd4rec.service.problems import Problem, not_found, unavailable
from ssd4rec.service.scorer import LoadedModel
from ssd4rec.service.served_model import ScoreJob, ServedModel
from ssd4rec.service.states import States
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.users import recent_users
from ssd4rec.serving.recommender import Recommender

ACTIVE = "active.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Versions:
    """The models of a folder: one model, or version folders and an active.json."""

    root: Path

    @property
    def is_single(self) -> bool:
        """Whether the folder is a model itself."""
        return (self.root / MANIFEST).is_file()

    def names(self) -> list[str]:
        """Return the names of the versions, in the order of their names."""
        if self.is_single:
            return [self.root.resolve().name]
        if not self.root.is_dir():
            return []
        return sorted(each.name for each in self.root.iterdir() if (each / MANIFEST).is_file() and not each.name.startswith("."))

    def folder(self, version: str) -> Path:
        """Return the folder of a version.

        Raises:
            Problem: 404, the version does not exist.
        """
        if version not in self.names():
            raise not_found("model", version)
        return self.root if self.is_single else self.root / version

    def chosen(self) -> str | None:
        """Return the version that active.json names, else the last by name; None: the folder has no model yet.

        Raises:
            ArtifactError: active.json is damaged, or names a version that does not exist.
        """
        names = self.names()
        file = self.root / ACTIVE
        if self.is_single or not file.is_file():
            return names[-1] if names else None
        try:
            version = json.loads(file.read_text(encoding="utf-8"))["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file} is damaged ({error}); write it again with ssd4rec models activate VERSION") from error
        if version not in names:
            raise ArtifactError(f"{file} names the version {version!r}; there are {', '.join(names) or 'none'}")
        return str(version)

    def choose(self, version: str) -> None:
        """Write active.json, which the processes of the service follow.

        Raises:
            Problem: 404, the version does not exist.
            ArtifactError: the folder cannot be written.
        """
        self.folder(version)
        if self.is_single:
            return
        try:
            write_atomically(self.root / ACTIVE, f"{json.dumps({'version': version})}\n")
        except OSError as error:
            raise ArtifactError(f"{self.root / ACTIVE} cannot be written: {error.strerror or error}") from error


class Models:
    """The loaded models of one process.

    Args:
        root: folder of a model or of versions.
        engine: of the store, for the users whose states a new model reads before it answers.
        state_bytes: limit of the cached states of a model.
        warm_users: how many users are read.
    """

    def __init__(self, root: Path, engine: Engine, state_bytes: int, warm_users: int) -> None:
        self.versions = Versions(root)
        self._engine, self._state_bytes, self._warm_users = engine, state_bytes, warm_users
        self._active: LoadedModel | None = None
        self._loaded: dict[str, LoadedModel] = {}  # the active one and the one before it
        self._failures: dict[str, str] = {}
        self._lock = threading.RLock()  # one load or change of the choice at a time
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def active(self) -> LoadedModel | None:
        """The model that answers."""
        return self._active

    def loaded(self, version: str | None) -> LoadedModel:
        """Return a loaded model; None: the active one.

        Raises:
            Problem: 503, no model is loaded yet; 409, the version is not loaded any more.
        """
        if version is None:
            if self._active is None:
                raise unavailable("no_model", "no model is loaded yet; put one into the folder of models", retry_after=5)
            return self._active
        if (found := self._loaded.get(version)) is None:
            raise Problem(409, "model_replaced", f"the model {version!r} has been replaced; ask for new recommendations")
        return found

    def catalog_title(self, item_id: str) -> str | None:
        """Return the title of an item in the catalog of the active model; None: it has none, or is not in the catalog."""
        if self._active is None:
            return None
        model = self._active.model
        index = model.index_of.get(item_id)
        return None if index is None else model.titles[index - 1]

    def is_loaded(self, version: str) -> LoadedModel | None:
        """Return the model of a version, if it is loaded."""
        return self._loaded.get(version)

    def failure(self, version: str) -> str | None:
        """Return why a version could not be loaded, if so."""
        return self._failures.get(version)

    def start(self, poll_seconds: float) -> None:
        """Load the chosen version and follow active.json from now on.

        Raises:
            ArtifactError: the chosen model is damaged.
        """
        if (version := self.versions.chosen()) is not None:
            self.activate(version)
        self._thread = threading.Thread(target=self._follow, args=(poll_seconds,), name="ssd4rec-models", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def activate(self, version: str) -> LoadedModel:
        """Load a version next to the active one, try it, warm it, then move the pointer.

        Raises:
            Problem: 404, the version does not exist.
            ArtifactError: the model is damaged; the active one stays.
            DivergedError: its scores are not finite; the active one stays.
        """
        with self._lock:
            folder = self.versions.folder(version)
            current = self._active
            modified = (folder / MANIFEST).stat().st_mtime
            if current is not None and current.model.version == version and current.model.modified == modified:
                return current
            try:
                fresh = self._load(version, folder, modified)
            except SSD4RecError as error:
                self._failures[version] = str(error)
                raise
            self._failures.pop(version, None)
            self._loaded = {version: fresh} if current is None else {current.model.version: current, version: fresh}
            self._active = fresh
            _report(fresh, current)
            log.info("model %s is active (%s, %d items)", version, fresh.model.fingerprint[:12], len(fresh.model.ids))
            return fresh

    def switch(self, version: str) -> None:
        """Activate a version and make it the choice of all processes; errors are those of `activate`."""
        with self._lock:
            self.activate(version)
            self.versions.choose(version)

    def _load(self, version: str, folder: Path, modified: float) -> LoadedModel:
        model = ServedModel(version, folder, Recommender.load(folder), modified)
        loaded = LoadedModel(model, States(model, self._state_bytes), ItemFilters(model))
        _check_scores(model)
        _ = model.fingerprint
        with reading(self._engine) as connection:
            for user_id in reversed(recent_users(connection, self._warm_users)):
                loaded.states.current(connection, user_id)
        return loaded

    def _follow(self, poll_seconds: float) -> None:
        while not self._stop.wait(poll_seconds):
            try:
                with self._lock:
                    version = self.versions.chosen()
                    if version is not None and self._is_news(version):
                        self.activate(version)
                if self._active is not None:
                    metrics.MODEL_AGE.set(time.time() - self._active.model.modified)
            except Exception as error:  # noqa: BLE001 - the old model goes on answering
                log.warning("the active model stays: %s", error)

    def _is_news(self, version: str) -> bool:
        if self._active is None or self._active.model.version != version:
            return self._failures.get(version) is None
        return (self.versions.folder(version) / MANIFEST).stat().st_mtime != self._active.model.modified

    def saved_at(self) -> dict[str, float]:
        """Return when each loaded version was saved, in seconds since 1970."""
        return {version: loaded.model.modified for version, loaded in self._loaded.items()}

    def on_every(self, work: Callable[[LoadedModel], None]) -> None:
        """Call a function with each loaded model."""
        for each in list(self._loaded.values()):
            work(each)


def _check_scores(model: ServedModel) -> None:
    """A model whose scores are not finite must not answer."""
    first = np.arange(1, min(len(model.ids), 3) + 1, dtype=np.int64)
    (best,) = model.score([ScoreJob(model.read(first), 10, exclude_seen=False, excluded=None, only_known=False)])
    if not np.isfinite(best.scores).all():
        raise DivergedError(f"the scores of {model.folder} are not finite; train the model again")


def _report(fresh: LoadedModel, old: LoadedModel | None) -> None:
    if old is not None:
        metrics.MODEL_INFO.labels(old.model.version, old.model.fingerprint).set(0)
    metrics.MODEL_INFO.labels(fresh.model.version, fresh.model.fingerprint).set(1)
