"""Read states before somebody asks: those of recently active users, before a model answers or in the background."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from ssd4rec.service import metrics
from ssd4rec.service.answering import LoadedModel
from ssd4rec.service.states import States
from ssd4rec.service.store.connect import StoreError, reading

if TYPE_CHECKING:
    from ssd4rec.service.core import Service

AT_ONCE, LONGEST = 8, 500  # users whose states are read together, and events of each
EVERY_SECONDS = 0.5  # how often the thread looks for users whose states are to be read
BUSY_SECONDS = 0.05  # for which it waits where requests wait for histories
REPORT_SECONDS = 30.0

log = logging.getLogger(__name__)


def read_states(
    connection: Connection, states: States, users: Sequence[str], rest: Callable[[float], None], is_over: Callable[[], bool]
) -> Sequence[str]:
    """Read the states of users who have none; return the users who are left.

    Args:
        connection: from `reading`.
        states: of a model.
        users: in this order.
        rest: called after each part with the time at which it began.
        is_over: whether to leave the other users.
    """
    for first in range(0, len(users), AT_ONCE):
        some = users[first : first + AT_ONCE]
        if is_over():
            return users[first:]
        began = time.monotonic()
        states.read_together(connection, some, LONGEST)
        rest(began)
        for place, user_id in enumerate(some, first):
            if is_over():
                return users[place:]
            began = time.monotonic()
            states.current(connection, user_id)
            rest(began)
    return ()


class Warming:
    """A thread that reads the states which a model has not read before it answers (`LoadedModel.unread`).

    It goes on until they are read, the model answers no more, or the memory of the states is full.

    It reads for the share `warm_share` of its time, and while no requests of the service wait for histories.
    """

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._rest_factor = 1.0 / service.settings.warm_share - 1.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ssd4rec-warming", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; the other states are left to their requests."""
        self._stop.set()
        self._thread.join()

    @property
    def is_working(self) -> bool:
        """Whether states are still to be read."""
        return any(loaded.unread for loaded in self._service.models.answering())

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            for loaded in list(self._service.models.answering()):
                if loaded.unread:
                    self._read(loaded)

    def _read(self, loaded: LoadedModel) -> None:
        """Read the states that a model lacks, until it answers no more."""
        total, began = len(loaded.unread), time.monotonic()
        reported = began
        metrics.USERS_TO_WARM.set(total)
        log.info("model %s answers; the states of %d recently active users are read meanwhile", loaded.model.version, total)
        while loaded.unread and not self._is_over(loaded):
            self._read_some(loaded)
            metrics.USERS_TO_WARM.set(len(loaded.unread))
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                log.info("the states of %d of %d recently active users are read", total - len(loaded.unread), total)
        if self._stop.is_set():
            return
        left, loaded.unread = len(loaded.unread), ()
        metrics.USERS_TO_WARM.set(0)
        seconds = time.monotonic() - began
        log.info("the states of %d of %d recently active users were read in %.0f s", total - left, total, seconds)

    def _read_some(self, loaded: LoadedModel) -> None:
        some = loaded.unread[:AT_ONCE]
        try:
            with reading(self._service.engine) as connection:
                unread = read_states(connection, loaded.states, some, self._rest, lambda: self._is_over(loaded))
            loaded.unread = [*unread, *loaded.unread[len(some) :]]
        except StoreError as error:  # it comes back
            log.warning("the reading of states is put off: %s", error)
            self._stop.wait(EVERY_SECONDS)
        except Exception as error:  # noqa: BLE001 - their requests are answered with it
            log.warning("the states of some users are left to their requests: %s", error)
            loaded.unread = loaded.unread[len(some) :]

    def _is_over(self, loaded: LoadedModel) -> bool:
        return self._stop.is_set() or loaded.states.is_full or loaded not in self._service.models.answering()

    def _rest(self, began: float) -> None:
        self._stop.wait(self._rest_factor * (time.monotonic() - began))
        while self._service.scorer.waiting and not self._stop.wait(BUSY_SECONDS):
            pass
