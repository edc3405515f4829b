"""Background work of a process: erasures and experiments of others, live metrics, removal of what is too old."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from ssd4rec.service import metrics
from ssd4rec.service.live import live_metrics
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.live import add_sums, remove_old_sums, totals
from ssd4rec.service.store.removal import list_erasures, remove_old_answers, trim_user, users_to_trim
from ssd4rec.service.store.snapshots import remove_unused_snapshots

if TYPE_CHECKING:
    from ssd4rec.service.core import Service

EVERY_SECONDS = 1.0  # erasures and experiments of other processes
SUMS_SECONDS = 5.0
RETENTION_SECONDS = 600.0
LIVE_DAYS = 90  # age at which sums of live metrics are removed

log = logging.getLogger(__name__)


class Maintenance:
    """A thread for the work that no request waits for."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        with reading(service.engine) as connection:
            rows = list_erasures(connection, limit=1)
        self._erased = rows[0].erasure_key if rows else 0
        self._retention_at = time.monotonic() + RETENTION_SECONDS
        self._sums_at = time.monotonic() + SUMS_SECONDS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ssd4rec-maintenance", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and store the sums that wait."""
        self._stop.set()
        self._thread.join()
        try:
            self.store_sums()
        except Exception as error:  # noqa: BLE001 - metrics must not keep a service from stopping
            log.warning("live metrics of the last seconds are lost: %s", error)

    def _run(self) -> None:
        tasks = (self._service.experiments.refresh, self._follow_erasures, self._live, self._retention)
        while not self._stop.wait(EVERY_SECONDS):
            for task in tasks:
                try:
                    task()
                except Exception as error:  # noqa: BLE001 - a store that is away comes back
                    log.warning("maintenance is put off: %s", error)

    def _follow_erasures(self) -> None:
        with reading(self._service.engine) as connection:
            rows = list_erasures(connection, self._erased)
        if rows:
            self._service.forget([row.user_key for row in rows]).result(timeout=60)
            self._erased = rows[0].erasure_key

    def _live(self) -> None:
        if time.monotonic() < self._sums_at:
            return
        self._sums_at = time.monotonic() + SUMS_SECONDS
        self.store_sums()
        since = time.time() - self._service.settings.live_hours * 3600
        with reading(self._service.engine) as connection:
            sums = totals(connection, int(since))
        for loaded in self._service.models.every():
            values = live_metrics(sums.get(loaded.model.key, {}), loaded.model.popularity[1])
            for name, gauge in metrics.LIVE.items():
                if (value := getattr(values, name)) is not None:
                    gauge.labels(loaded.model.version).set(value)

    def store_sums(self) -> None:
        """Add the sums of this process to those of the store."""
        sums = self._service.sums.take()
        if not sums:
            return
        try:
            self._write(lambda connection: add_sums(connection, sums))
        except Exception:
            self._service.sums.put_back(sums)
            raise

    def _retention(self) -> None:
        if time.monotonic() >= self._retention_at:
            self._retention_at = time.monotonic() + RETENTION_SECONDS
            self.remove_old()

    def remove_old(self) -> None:
        """Apply the retention settings, some users at a time."""
        settings = self._service.settings
        oldest = int(time.time()) - LIVE_DAYS * 86_400
        self._write(lambda connection: remove_old_answers(connection, settings.recommendation_days))
        self._write(lambda connection: remove_old_sums(connection, oldest))
        models = [loaded.model.identity for loaded in self._service.models.every()]
        self._write(lambda connection: remove_unused_snapshots(connection, models))
        days, newest = settings.retention_days, settings.retention_events
        while not self._stop.is_set():
            with reading(self._service.engine) as connection:
                keys = users_to_trim(connection, days, newest)
            if not keys:
                return
            for key in keys:
                self._write(partial(trim_user, key=key, days=days, newest=newest))

    def _write(self, work: Callable[[Connection], Any]) -> None:
        self._service.writer.submit(work, alone=True).result(timeout=60)
