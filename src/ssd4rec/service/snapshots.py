"""Snapshots of the states of users with long histories: written in the background, read in place of thousands of events.

They are caches. A snapshot is valid for one model (weights, catalog and settings) and one generation of its user; erasure and
retention delete it in their own transaction. States are stored in the precision of the model: in half precision, answers would
not equal those of the library to 1e-5.
"""

import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import torch
from safetensors.numpy import load, save

from ssd4rec.errors import SSD4RecError
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.snapshots import Snapshot, next_without_snapshot, save_snapshots
from ssd4rec.service.user_state import UserState

if TYPE_CHECKING:
    from ssd4rec.service.answering import LoadedModel
    from ssd4rec.service.core import Service
    from ssd4rec.service.states import Entry

EVERY_SECONDS = 0.5
AT_ONCE = 16  # snapshots of one transaction
IDLE_SECONDS = 20.0  # after which a changed state is stored, however little it changed
REST = 4  # times as long as missing snapshots are made, the thread rests
LAST_SECONDS = 5.0  # for what waits when the service stops

log = logging.getLogger(__name__)


def pack(state: UserState) -> bytes:
    """Return a state as bytes, in its own precision."""
    largest = int(state.indices.max(initial=0))
    parts = {"indices": state.indices.astype(np.uint16 if largest < 2**16 else np.int64)}
    if state.vector is not None:
        parts["vector"] = state.vector.numpy()
    for layer, cache in enumerate(state.cache or ()):
        parts |= {f"{layer}.{name}": part.contiguous().numpy() for name, part in cache._asdict().items()}
    return save(parts)


def unpack(data: bytes, model: ServedModel) -> UserState | None:
    """Return a state that `pack` wrote; None: it is not one of this model."""
    try:
        parts = load(data)
        state = UserState(parts.pop("indices").astype(np.int64))
        tensors = {name: torch.from_numpy(part.copy()) for name, part in parts.items()}
        state.vector = tensors.pop("vector", None)
        if tensors:
            empty = model.recommender.artifact.model.new_cache(1)
            state.cache = [type(each)(*(tensors[f"{layer}.{name}"] for name in each._fields)) for layer, each in enumerate(empty)]
    except (safetensors.SafetensorError, SSD4RecError, KeyError, ValueError, TypeError):
        return None
    return state


class SnapshotWriter:
    """A thread that stores snapshots, and makes those that are missing when a model is new or users were imported.

    Args:
        service: whose states are stored; missing snapshots are made while no request waits for a history.
        fewest_events: of a user who gets a snapshot.
    """

    def __init__(self, service: "Service", fewest_events: int) -> None:
        self._service, self._fewest_events = service, fewest_events
        self._complete = ""  # identity of the model whose missing snapshots were made
        self._after = 0  # user key up to which they were
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ssd4rec-snapshots", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and store what waits."""
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + LAST_SECONDS
        try:
            for loaded in self._service.models.every():
                self.store(loaded, idle_seconds=0.0, deadline=deadline)
        except Exception as error:  # noqa: BLE001 - a cache must not keep a service from stopping
            log.warning("some snapshots were not stored: %s", error)

    def store(self, loaded: "LoadedModel", *, idle_seconds: float = IDLE_SECONDS, deadline: float = float("inf")) -> None:
        """Store the snapshots of a model that are due."""
        while time.monotonic() < deadline:
            entries = loaded.states.take_changed(idle_seconds, AT_ONCE)
            if not entries:
                return
            self._save(loaded, entries)

    def _save(self, loaded: "LoadedModel", entries: "Sequence[Entry]") -> None:
        rows = [Snapshot(*entry.read, pack(entry.state)) for entry in entries]
        model = loaded.model.identity
        self._service.writer.submit(partial(save_snapshots, model=model, rows=rows), alone=True).result(timeout=60)
        loaded.states.mark_saved(entries)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            try:
                for loaded in self._service.models.every():
                    self.store(loaded)
                self._make_missing()
            except Exception as error:  # noqa: BLE001 - a store that is away comes back
                log.warning("snapshots are put off: %s", error)

    def _is_busy(self) -> bool:
        """Whether requests wait for histories, or states are read that will be stored too."""
        warming = self._service.warming
        return self._service.scorer.waiting > 0 or (warming is not None and warming.is_working)

    def _make_missing(self) -> None:
        """Make snapshots of users who have none, for a part of the time of this thread."""
        while not self._stop.is_set() and not self._is_busy():
            loaded = self._service.models.active
            if loaded is None or loaded.model.identity == self._complete:
                return
            with reading(self._service.engine) as connection:
                row = next_without_snapshot(connection, loaded.model.identity, self._fewest_events, self._after)
            if row is None:
                self._complete, self._after = loaded.model.identity, 0
                return
            began = time.monotonic()
            self._after, user_id = row
            if not loaded.states.is_cached(user_id):  # else its snapshot is stored when it is due
                with reading(self._service.engine) as connection:
                    entry = loaded.states.read_aside(connection, user_id)
                if entry is not None:
                    self._save(loaded, [entry])
            self._stop.wait(REST * (time.monotonic() - began))
