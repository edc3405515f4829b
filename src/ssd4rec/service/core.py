"""The parts of a running service and the order in which they start and stop."""

import gc
import logging
import threading
from collections.abc import Collection
from concurrent.futures import Future
from itertools import product

import torch

from ssd4rec.service.auth import KeyRing
from ssd4rec.service.experiments import Experiments
from ssd4rec.service.feed import LiveFeed
from ssd4rec.service.insights import Insights
from ssd4rec.service.lifecycle import Models
from ssd4rec.service.live import LiveSums
from ssd4rec.service.maintenance import Maintenance
from ssd4rec.service.overload import Overload
from ssd4rec.service.prequential import Prequential
from ssd4rec.service.scorer import Direct, Scorer
from ssd4rec.service.settings import ServiceSettings
from ssd4rec.service.snapshots import SnapshotWriter
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.schema import migrate
from ssd4rec.service.warming import Warming
from ssd4rec.service.writer import Writer

log = logging.getLogger(__name__)


class Service:
    """Everything that the routes use.

    Args:
        settings: all of them.
        overload: of the application; None: a new one.

    Raises:
        StoreError: the store cannot be opened, or is of another version.
        ArtifactError: the chosen model is damaged.
    """

    def __init__(self, settings: ServiceSettings, overload: Overload | None = None) -> None:
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.engine = open_engine(settings.store, settings.store_timeout_seconds)
        try:
            migrate(self.engine)
            self.models = Models(self.engine, settings)
            self.models.start()
        except BaseException:
            self.engine.dispose()
            raise
        self.keys = KeyRing(self.engine, settings)
        self.writer = Writer(self.engine, settings.queue_events)
        self.scorer = Scorer(self.engine, self.models.loaded, settings)
        self.overload = Overload(settings.max_in_flight) if overload is None else overload
        self.direct = Direct(self.engine, self.scorer, self.models.loaded, self.overload, settings.batch_size)
        self.insights = Insights(self.engine)
        self.feed = LiveFeed(self.engine)
        self.sums = LiveSums()
        self.experiments = Experiments(self.engine, self.models)
        self.experiments.refresh()
        self.prequential = Prequential(self)
        self.maintenance = Maintenance(self)
        self.warming = Warming(self) if settings.warm_share else None
        self.snapshots = None if settings.snapshot_events is None else SnapshotWriter(self, settings.snapshot_events)
        self._closed = threading.Event()

    def settle(self) -> None:
        """Keep the garbage collector from looking at libraries and model again and again; for a process that only serves."""
        gc.collect()
        gc.freeze()

    def close(self) -> None:
        """Finish what was accepted, then stop."""
        if self._closed.is_set():
            return
        self._closed.set()
        readers = (self.feed, self.insights, self.maintenance, self.warming, self.models, self.direct, self.scorer)
        for part in (*readers, self.snapshots, self.writer):
            if part is not None:
                part.close()
        self.engine.dispose()

    def forget(self, user_keys: Collection[int]) -> "Future[None]":
        """Drop what this process caches of users who were erased."""

        def work() -> None:
            self.prequential.forget(user_keys)
            self.insights.forget()
            for loaded, key in product(self.models.every(), user_keys):
                loaded.states.forget(key)

        return self.scorer.call(work)
