"""How many requests a process answers at a time; the others are refused, so that nobody waits for long."""

from collections.abc import Iterator
from contextlib import contextmanager

from ssd4rec.service import metrics
from ssd4rec.service.backlog import Backlog
from ssd4rec.service.problems import Problem, unavailable

UNCOUNTED = frozenset({"/health/live", "/health/ready", "/metrics", "/v1/live"})  # answered under load; open for long


class Overload:
    """Counts the requests that are answered or wait to be. Used in one event loop.

    Args:
        most: requests at a time, with the connections that are not accepted yet. As many again may wait for a history that is
            read: others do not wait for them.
    """

    def __init__(self, most: int) -> None:
        self._most, self._in_flight, self._aside = most, 0, 0
        self._backlog = Backlog()

    def enter(self) -> bool:
        """Count a request; False: too many are in flight, and it is to be refused."""
        if self._in_flight - min(self._aside, self._most) + self._backlog.waiting >= self._most:
            metrics.SHED.labels("requests").inc()
            return False
        self._in_flight += 1
        return True

    def admit(self) -> None:
        """Count a request.

        Raises:
            Problem: 503, too many are in flight.
        """
        if not self.enter():
            raise self.problem()

    def leave(self) -> None:
        """End a request that `enter` counted."""
        self._in_flight -= 1

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count a request as one that waits for a history."""
        self._aside += 1
        try:
            yield
        finally:
            self._aside -= 1

    def problem(self) -> Problem:
        """Return the error of a refused request."""
        return unavailable("queue_full", f"more than {self._most} requests wait; send the request again")
