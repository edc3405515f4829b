"""The event loop of the server accepts all waiting connections in one round."""

import asyncio
import socket
import time
from typing import Any

import pytest

loops = pytest.importorskip("ssd4rec.service.loops", exc_type=ImportError)

CONNECTIONS = 20


class Echo(asyncio.Protocol):
    """Counts connections and answers what it reads."""

    made = 0

    def connection_made(self, transport: Any) -> None:
        Echo.made += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def test_all_connections_are_accepted_in_a_few_rounds() -> None:
    loop = loops.AcceptingLoop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)

    async def run() -> None:
        server = await loop.create_server(Echo, sock=listener)
        Echo.made = 0
        clients = [socket.create_connection(listener.getsockname()) for _ in range(CONNECTIONS)]
        for _ in range(5):
            await asyncio.sleep(0)
        rounds = 0
        while Echo.made < CONNECTIONS and rounds < CONNECTIONS // 2:
            await asyncio.sleep(0.001)
            rounds += 1
        assert Echo.made == CONNECTIONS
        for client in clients:
            client.settimeout(0.0)
            await loop.sock_sendall(client, b"hello")
            assert await loop.sock_recv(client, 5) == b"hello"
            client.close()
        address = listener.getsockname()
        server.close()
        listener.close()
        with socket.create_connection(address):  # wakes the acceptor, which ends
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and not is_refused(address):
                await asyncio.sleep(0.01)
            assert is_refused(address)
        assert Echo.made == CONNECTIONS

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


def is_refused(address: tuple[str, int]) -> bool:
    """Whether nobody listens any more."""
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return True
    return False
