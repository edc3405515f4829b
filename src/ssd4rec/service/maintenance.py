"""Background work of a process: erasures and experiments of others, live metrics, removal of what is too old."""

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from ssd4rec.service import metrics
from ssd4rec.service.live import live_metrics
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.live import add_sums, remove_old_sums, totals
from ssd4rec.service.store.removal import list_erasures, remove_old_answers, trim_user, users_to_trim
from ssd4rec.service.store.snapshots import remove_unused_snapshots

if TYPE_CHECKING:
    from ssd4rec.service.answering import LoadedModel
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
        self._erased = self._newest_erasure()
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

    def _newest_erasure(self) -> int:
        with reading(self._service.engine) as connection:
            rows = list_erasures(connection, limit=1)
        return rows[0].erasure_key if rows else 0

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
        self._service.models.on_every(lambda loaded: _set_gauges(loaded, sums))

    def store_sums(self) -> None:
        """Add the sums of this process to those of the store."""
        sums = self._service.sums.take()
        if not sums:
            return
        try:
            self._service.writer.submit(lambda connection: add_sums(connection, sums), alone=True).result(timeout=60)
        except Exception:
            self._service.sums.put_back(sums)
            raise

    def _retention(self) -> None:
        if time.monotonic() >= self._retention_at:
            self._retention_at = time.monotonic() + RETENTION_SECONDS
            self.remove_old()

    def remove_old(self) -> None:
        """Apply the retention settings, some users at a time."""
        settings, writer, engine = self._service.settings, self._service.writer, self._service.engine
        oldest = int(time.time()) - LIVE_DAYS * 86_400
        writer.submit(lambda c: remove_old_answers(c, settings.recommendation_days), alone=True).result(timeout=60)
        writer.submit(lambda c: remove_old_sums(c, oldest), alone=True).result(timeout=60)
        models: list[str] = []
        self._service.models.on_every(lambda loaded: models.append(loaded.model.identity))
        writer.submit(lambda c: remove_unused_snapshots(c, models), alone=True).result(timeout=60)
        if settings.retention_days is None and settings.retention_events is None:
            return
        while not self._stop.is_set():
            with reading(engine) as connection:
                keys = users_to_trim(connection, settings.retention_days, settings.retention_events)
            if not keys:
                return
            for key in keys:
                trim = partial(trim_user, key=key, days=settings.retention_days, newest=settings.retention_events)
                writer.submit(trim, alone=True).result(timeout=60)


def _set_gauges(loaded: "LoadedModel", sums: dict[str, dict[str, float]]) -> None:
    model = loaded.model
    values = live_metrics(sums.get(model.key, {}), model.popularity[1])
    for gauge, value in (
        (metrics.PREQUENTIAL_NDCG, values.ndcg),
        (metrics.PREQUENTIAL_HITS, values.hit_rate),
        (metrics.UNKNOWN_SHARE, values.unknown_share),
        (metrics.POPULARITY_SHIFT, values.popularity_shift),
    ):
        if value is not None:
            gauge.labels(model.version).set(value)
