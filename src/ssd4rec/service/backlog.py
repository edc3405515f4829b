"""How many connections wait in the kernel because the process has not accepted them yet.

A process that is given too many requests does not see most of them: new connections wait in the queue of the listening socket.
Linux tells the length of that queue (TCP_INFO of a listening socket); elsewhere it counts as empty.
"""

import os
import socket
import struct
import time
from pathlib import Path

EVERY_SECONDS = 0.02  # between two looks
_UNACKED_AT = 24  # tcpi_unacked: of a listening socket, the connections that wait


class Backlog:
    """The queues of the listening TCP sockets of this process, looked at fifty times a second at most."""

    def __init__(self) -> None:
        self._listeners: list[socket.socket] | None = None
        self._at, self._waiting = float("-inf"), 0

    @property
    def waiting(self) -> int:
        """Connections that wait."""
        moment = time.monotonic()
        if moment - self._at >= EVERY_SECONDS:
            if self._listeners is None:
                self._listeners = listeners()
            self._at, self._waiting = moment, sum(queue_length(each) for each in self._listeners)
        return self._waiting


def queue_length(listener: socket.socket) -> int:
    """Return how many connections a listening socket has not accepted yet; 0 where the system does not tell."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except (OSError, AttributeError):
        return 0
    return int(struct.unpack_from("=I", info, _UNACKED_AT)[0]) if len(info) >= _UNACKED_AT + 4 else 0


def listeners() -> list[socket.socket]:
    """Return duplicates of the listening TCP sockets of this process; none where the system does not list open files."""
    result, seen = [], set()
    folder = Path("/proc/self/fd")
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            target = str(file.readlink())
            if not target.startswith("socket:") or target in seen:
                continue
            candidate = socket.socket(fileno=os.dup(int(file.name)))
        except OSError:  # the file that lists the folder, or one that was closed meanwhile
            continue
        seen.add(target)
        if _is_tcp_listener(candidate):
            result.append(candidate)
        else:
            candidate.close()
    return result


def _is_tcp_listener(candidate: socket.socket) -> bool:
    try:
        is_listening = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError:
        return False
    return is_listening and candidate.family in {socket.AF_INET, socket.AF_INET6} and candidate.type == socket.SOCK_STREAM
