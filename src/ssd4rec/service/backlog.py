"""How many connections wait in the kernel because the process has not accepted them yet.

A process that is given too many requests does not see most of them: new connections wait in the queue of the listening socket.
Linux tells the length of that queue (TCP_INFO of a listening socket); elsewhere it counts as empty.
"""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY_SECONDS = 0.02  # between two looks
_UNACKED_AT = 24  # tcpi_unacked: of a listening socket, the connections that wait


class Backlog:
    """The queues of the listening TCP sockets of this process, looked at fifty times a second at most."""

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
