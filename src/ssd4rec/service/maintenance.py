"""Background work of a process: follow the erasures of others, remove what is too old."""

import logging
import threading
import time
from functools import partial

from sqlalchemy import Engine

from ssd4rec.service.lifecycle import Models
from ssd4rec.service.scorer import LoadedModel, Scorer
from ssd4rec.service.settings import ServiceSettings
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.retention import remove_old_answers, trim_users, users_to_trim
from ssd4rec.service.store.users import list_erasures
from ssd4rec.service.writer import Writer

EVERY_SECONDS = 1.0  # erasures of other processes
RETENTION_SECONDS = 600.0

log = logging.getLogger(__name__)


class Maintenance:
    """A thread for the work that no request waits for."""

    def __init__(self, engine: Engine, writer: Writer, scorer: Scorer, models: Models, settings: ServiceSettings) -> None:
        self._engine, self._writer, self._scorer, self._models, self._settings = engine, writer, scorer, models, settings
        self._erased = self._newest_erasure()
        self._retention_at = time.monotonic() + RETENTION_SECONDS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ssd4rec-maintenance", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            try:
                self._follow_erasures()
                if time.monotonic() >= self._retention_at:
                    self._retention_at = time.monotonic() + RETENTION_SECONDS
                    self.remove_old()
            except Exception as error:  # noqa: BLE001 - a store that is away comes back
                log.warning("maintenance is put off: %s", error)

    def _newest_erasure(self) -> int:
        with reading(self._engine) as connection:
            rows = list_erasures(connection, limit=1)
        return rows[0].erasure_key if rows else 0

    def _follow_erasures(self) -> None:
        with reading(self._engine) as connection:
            rows = list_erasures(connection, self._erased)
        if not rows:
            return
        keys = [row.user_key for row in rows]
        self._scorer.call(lambda: self._models.on_every(lambda loaded: _forget(loaded, keys))).result(timeout=60)
        self._erased = rows[0].erasure_key

    def remove_old(self) -> None:
        """Apply the retention settings, some users at a time."""
        settings = self._settings
        self._writer.submit(lambda c: remove_old_answers(c, settings.recommendation_days), alone=True).result(timeout=60)
        if settings.retention_days is None and settings.retention_events is None:
            return
        while not self._stop.is_set():
            with reading(self._engine) as connection:
                keys = users_to_trim(connection, settings.retention_days, settings.retention_events)
            if not keys:
                return
            for key in keys:
                trim = partial(trim_users, keys=[key], days=settings.retention_days, newest=settings.retention_events)
                self._writer.submit(trim, alone=True).result(timeout=60)


def _forget(loaded: LoadedModel, keys: list[int]) -> None:
    for key in keys:
        loaded.states.forget(key)
