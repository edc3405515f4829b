"""An event loop that accepts all connections that wait, not one in each of its rounds.

libuv accepts one connection a round. Under overload a round answers dozens of requests, so connections would wait for seconds
before they are even refused. asyncio's own loop accepts them together, but takes longer for each request.
"""

import asyncio
import logging
import os
import socket
from typing import Any

import uvloop

AT_ONCE = 64  # connections accepted before the loop looks at the others again

log = logging.getLogger(__name__)


class AcceptingLoop(uvloop.Loop):
    """uvloop with another way to accept connections of listening sockets."""

    async def create_server(
        self, protocol_factory: Any, *arguments: Any, sock: socket.socket | None = None, **options: Any
    ) -> Any:
        """Create a server; see `asyncio.loop.create_server`."""
        server = await super().create_server(protocol_factory, *arguments, sock=sock, **options)
        if sock is not None and options.get("ssl") is None:
            _Acceptor(self, protocol_factory, sock)
        return server


class _Acceptor:
    """Accepts connections of a socket until somebody closes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol_factory: Any, listener: socket.socket) -> None:
        self._loop, self._protocol_factory, self._listener = loop, protocol_factory, listener
        self._own = socket.socket(fileno=os.dup(listener.fileno()))  # the loop has one reader for each descriptor
        self._own.settimeout(0.0)
        self._tasks: set[asyncio.Task[None]] = set()
        loop.add_reader(self._own.fileno(), self._accept)

    def _accept(self) -> None:
        if self._listener.fileno() < 0:  # the server shuts down
            self._loop.remove_reader(self._own.fileno())
            self._own.close()
            return
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._own.accept()
            except OSError:  # none waits, or there are too many open files: libuv waits for fewer
                return
            connection.settimeout(0.0)
            task = self._loop.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol_factory, connection)
        except OSError as error:  # the client has gone
            log.debug("a connection was lost before it was read: %s", error)
            connection.close()
