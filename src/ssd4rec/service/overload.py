"""How many requests a process answers at a time; the others are refused, so that nobody waits for long."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssd4rec.service import metrics
from ssd4rec.service.problems import Problem, unavailable

UNCOUNTED = frozenset({"/health/live", "/health/ready", "/metrics", "/v1/live"})  # answered under load; open for long
EVERY_SECONDS = 0.02  # between two looks at the connections that wait
_UNACKED_AT = 24  # tcpi_unacked: of a listening socket, the connections that wait


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


class Backlog:
    """The queues of the listening TCP sockets of this process, looked at fifty times a second at most.

    A process that is given too many requests does not see most of them: new connections wait in the kernel until they are
    accepted. Linux tells their number (TCP_INFO of a listening socket); elsewhere it counts as 0.
    """

    def __init__(self) -> None:
        self._listeners: list[int] | None = None
        self._at, self._waiting = float("-inf"), 0

    @property
    def waiting(self) -> int:
        """Connections that wait."""
        moment = time.monotonic()
        if moment - self._at >= EVERY_SECONDS:
            if self._listeners is None:
                self._listeners = listeners()
            self._at, self._waiting = moment, sum(map(queue_length, self._listeners))
        return self._waiting


def queue_length(listener: int) -> int:
    """Return how many connections a listening socket, given by its descriptor, has not accepted yet; 0 if unknown."""
    try:
        with _borrowed(listener) as opened:
            info = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except (OSError, AttributeError):  # the socket was closed; another system
        return 0
    return int(struct.unpack_from("=I", info, _UNACKED_AT)[0]) if len(info) >= _UNACKED_AT + 4 else 0


def listeners() -> list[int]:
    """Return the descriptors of the listening TCP sockets of this process; none where the system does not list open files."""
    result, seen = [], set()
    folder = Path("/proc/self/fd")
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            target = str(file.readlink())
            if target.startswith("socket:") and target not in seen and _is_tcp_listener(int(file.name)):
                result.append(int(file.name))
                seen.add(target)
        except OSError:  # the file that lists the folder, or one that was closed meanwhile
            continue
    return result


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Yield a socket object for a descriptor that somebody else closes."""
    opened = socket.socket(fileno=descriptor)
    try:
        yield opened
    finally:
        opened.detach()


def _is_tcp_listener(descriptor: int) -> bool:
    with _borrowed(descriptor) as opened:
        is_tcp = opened.family in {socket.AF_INET, socket.AF_INET6} and opened.type == socket.SOCK_STREAM
        return is_tcp and opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
