"""The loaded models of a process: load, check, warm, swap. One pointer is moved; running requests finish on the old model."""

import logging
import threading
import time
from collections.abc import Sequence

from sqlalchemy import Connection, Engine

from ssd4rec.artifact import MANIFEST
from ssd4rec.errors import DivergedError, SSD4RecError
from ssd4rec.service import metrics
from ssd4rec.service.answering import LoadedModel
from ssd4rec.service.gate import Check, check_scores, check_version
from ssd4rec.service.item_filters import ItemFilters
from ssd4rec.service.problems import Problem, unavailable
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.settings import ServiceSettings
from ssd4rec.service.states import States
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.users import recent_users
from ssd4rec.service.versions import FORCED, PASSED, Versions
from ssd4rec.service.warming import read_states

REST = 2  # times as long as states are read, the thread rests where another model answers
START_SHARE = 90  # of `warm_seconds`, where nothing answers meanwhile

log = logging.getLogger(__name__)


class Models:
    """The loaded models of one process.

    Args:
        engine: of the store, for the users whose states a new model reads before it answers.
        settings: of the service.
    """

    def __init__(self, engine: Engine, settings: ServiceSettings) -> None:
        self._engine, self._settings = engine, settings
        self.versions = Versions(settings.models)
        self.active: LoadedModel | None = None  # the model that answers
        self._loaded: dict[str, LoadedModel] = {}  # the active one, the one before it, and those of a running experiment
        self._required: tuple[str, ...] = ()  # versions of a running experiment
        self.failures: dict[str, str] = {}  # why versions could not be loaded
        self._lock = threading.RLock()  # one load or change of the choice at a time
        self.checks: dict[str, list[Check]] = {}  # of the last activation of each version
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def loaded(self, version: str | None, fingerprint: str | None = None) -> LoadedModel:
        """Return a loaded model; None: the active one.

        Raises:
            Problem: 503, no model is loaded yet; 409, the version is not loaded any more, or has another fingerprint.
        """
        if version is None:
            if self.active is None:
                raise unavailable("no_model", "no model is loaded yet; put one into the folder of models", retry_after=5)
            return self.active
        loaded = self._loaded.get(version)
        if loaded is None or fingerprint not in {None, loaded.model.fingerprint}:
            raise Problem(409, "model_replaced", f"the model {version!r} has been replaced; ask for new recommendations")
        return loaded

    def catalog_title(self, item_id: str) -> str | None:
        """Return the title of an item in the catalog of the active model; None: it has none, or is not in the catalog."""
        if self.active is None:
            return None
        model = self.active.model
        index = model.index_of.get(item_id)
        return None if index is None else model.titles[index - 1]

    def is_loaded(self, version: str) -> LoadedModel | None:
        """Return the model of a version, if it is loaded."""
        return self._loaded.get(version)

    def start(self) -> None:
        """Load the chosen version and follow active.json from now on.

        Raises:
            ArtifactError: the chosen model is damaged.
        """
        if (version := self.versions.chosen()) is not None:
            self.activate(version)
        self._thread = threading.Thread(target=self._follow, name="ssd4rec-models", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def activate(self, version: str, *, force: bool = False) -> LoadedModel:
        """Load a version next to the active one, let it pass the gate, warm it, then move the pointer.

        Args:
            version: name of its folder.
            force: do not stop at the gate; scores that are not finite stop it all the same.

        Raises:
            Problem: 404, the version does not exist; 409, it failed a check of the gate.
            ArtifactError: the model is damaged; the active one stays.
            DivergedError: its scores are not finite; the active one stays.
        """
        with self._lock:
            folder = self.versions.folder(version)
            current = self.active
            modified = (folder / MANIFEST).stat().st_mtime
            if current is not None and current.model.version == version and current.model.modified == modified:
                return current
            try:
                fresh = self._load(version)
                self._pass_gate(fresh.model, force=force)
            except (SSD4RecError, Problem) as error:
                self.failures[version] = str(error)
                raise
            self._warm(fresh)
            self.failures.pop(version, None)
            remaining = {name: self._loaded[name] for name in self._required if name in self._loaded}
            if current is not None:
                remaining[current.model.version] = current
            self._loaded = {**remaining, version: fresh}
            self.active = fresh
            _report(fresh, current)
            log.info("model %s is active (%s, %d items)", version, fresh.model.fingerprint[:12], len(fresh.model.ids))
            return fresh

    def _pass_gate(self, candidate: ServedModel, *, force: bool) -> None:
        current = self.active
        if current is None:
            return  # the first model has nothing to be compared with; its scores are finite
        if force:
            log.warning("model %s is activated without the gate", candidate.version)
            return
        with reading(self._engine) as connection:
            checks = check_version(candidate, current.model, connection, self._settings.gate_margin)
        self.checks[candidate.version] = checks
        for check in checks:
            level = logging.INFO if check.passed else logging.WARNING
            log.log(level, "gate of %s: %s: %s", candidate.version, check.name, check.detail)
        if failures := [f"{check.name}: {check.detail}" for check in checks if not check.passed]:
            errors = [{"pointer": "/version", "detail": failure} for failure in failures]
            detail = f"{candidate.version!r} did not pass the gate: {failures[0]}; the active version stays"
            raise Problem(409, "gate_failed", detail, errors)

    def require(self, versions: Sequence[str]) -> None:
        """Keep these versions loaded too; those of an earlier call are dropped.

        Raises:
            Problem: 404, a version does not exist.
            ArtifactError: a model is damaged.
            DivergedError: its scores are not finite.
        """
        with self._lock:
            remaining = {name: loaded for name, loaded in self._loaded.items() if name not in self._required or name in versions}
            if self.active is not None:
                remaining[self.active.model.version] = self.active
            for version in versions:
                if version not in remaining:
                    remaining[version] = self._load(version)
                    self._warm(remaining[version])
            self._loaded, self._required = remaining, tuple(versions)

    def switch(self, version: str, *, force: bool = False) -> None:
        """Activate a version and make it the choice of all processes; errors are those of `activate`."""
        with self._lock:
            self.activate(version, force=force)
            self.versions.choose(version, FORCED if force else PASSED)

    def look(self) -> None:
        """Activate what active.json names, if that is news; where it was written by hand, the version passes the gate first."""
        with self._lock:
            version = self.versions.chosen()
            is_active = self.active is not None and self.active.model.version == version  # it may be trained again in place
            if version is not None and (is_active or version not in self.failures):
                self.activate(version, force=not is_active and self.versions.is_checked(version))

    def look_soon(self) -> None:
        """Let the thread look now (SIGHUP), also at a version that failed before."""
        self.failures.clear()
        self._wake.set()

    def _load(self, version: str) -> LoadedModel:
        model = self.versions.load(version)
        if not (check := check_scores(model)).passed:
            raise DivergedError(f"{model.folder}: {check.detail}")
        _ = model.fingerprint, model.popularity
        return LoadedModel(model, States(model, self._settings), ItemFilters(model))

    def _warm(self, loaded: LoadedModel) -> None:
        """Read the states of recently active users: those whose states are cached, the most recently used ones first.

        While another model answers, most of the time is left to it; then the events that arrived meanwhile are read.
        """
        active = self.active
        most, seconds = self._settings.warm_users, self._settings.warm_seconds
        deadline = time.monotonic() + (seconds if active is not None else seconds / START_SHARE)
        users = [] if active is None else active.states.recent()
        with reading(self._engine) as connection:
            users = list(dict.fromkeys([*users, *recent_users(connection, most)]))[:most]
            is_over = lambda: time.monotonic() >= deadline or self._stop.is_set()  # noqa: E731
            loaded.unread = read_states(connection, loaded.states, users, lambda began: self._rest(active, began), is_over)
            if active is not None:
                self._catch_up(connection, loaded, [user_id for user_id in users if loaded.states.is_cached(user_id)], deadline)

    def _catch_up(self, connection: Connection, loaded: LoadedModel, users: Sequence[str], deadline: float) -> None:
        """Read the events that have arrived, as long as each pass finds fewer users with new events than the one before."""
        positions: dict[str, int] = {}
        before = len(users) + 1
        while True:
            changed = 0
            for user_id in users:
                began = time.monotonic()
                if began >= deadline or self._stop.is_set():
                    return
                if (current := loaded.states.current(connection, user_id)) is not None:
                    changed += positions.get(user_id) != current.position
                    positions[user_id] = current.position
                self._rest(self.active, began)
            if not 0 < changed < before:
                return
            before = changed

    def _rest(self, active: LoadedModel | None, began: float) -> None:
        if active is not None:
            self._stop.wait(REST * (time.monotonic() - began))

    def _follow(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._settings.poll_seconds)
            self._wake.clear()
            if self._stop.is_set():
                break
            try:
                self.look()
                if self.active is not None:
                    metrics.MODEL_AGE.set(max(0.0, time.time() - self.active.model.modified))
            except Exception as error:  # noqa: BLE001 - the old model goes on answering
                log.warning("the active model stays: %s", error)

    def saved_at(self) -> dict[str, float]:
        """Return when each loaded version was saved, in seconds since 1970."""
        return {version: loaded.model.modified for version, loaded in self._loaded.items()}

    def answering(self) -> list[LoadedModel]:
        """Return the active model and those of a running experiment."""
        loaded, active = self._loaded, self.active
        names = [*(() if active is None else [active.model.version]), *self._required]
        return [loaded[name] for name in dict.fromkeys(names) if name in loaded]

    def every(self) -> list[LoadedModel]:
        """Return all loaded models."""
        return list(self._loaded.values())


def _report(fresh: LoadedModel, old: LoadedModel | None) -> None:
    if old is not None:
        metrics.MODEL_INFO.labels(old.model.version, old.model.fingerprint).set(0)
    metrics.MODEL_INFO.labels(fresh.model.version, fresh.model.fingerprint).set(1)
