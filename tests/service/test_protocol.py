"""A request that is refused where its bytes arrive is answered as by the application."""

import asyncio
import socket
from typing import Any

import pytest
import uvicorn

from ssd4rec.service.middleware import RequestGate
from ssd4rec.service.overload import Overload
from ssd4rec.service.protocol import RefusingProtocol

HOST = b"host: 127.0.0.1\r\n"
SLOW = b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n"
REFUSED = {
    "GET": b"GET /v1/users/u/recommendations HTTP/1.1\r\n" + HOST + b"\r\n",
    "GET of another path": b"GET /page HTTP/1.1\r\n" + HOST + b"\r\n",
    "POST": b"POST /v1/events HTTP/1.1\r\n" + HOST + b"content-length: 200000\r\n\r\n" + b"x" * 200_000,
    "chunked": b"POST /v1/events HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "HEAD": b"HEAD /v1/events HTTP/1.1\r\n" + HOST + b"\r\n",
    "last one": b"GET /v1/models HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n",
    "HTTP/1.0": b"GET /v1/models HTTP/1.0\r\n\r\n",
}
BY_THE_APPLICATION = {"HEAD", "last one", "HTTP/1.0"}


class World:
    """A server that answers two requests at a time."""

    def __init__(self) -> None:
        self.release, self.paths = asyncio.Event(), []
        self.overload = Overload(2)
        self.gate: Any = RequestGate(self.app, 10**6, self.overload, log_requests=False, short_routes=False)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Wait, or answer at once."""
        if scope["type"] == "lifespan":
            scope["state"].update(overload=self.overload, log_requests=False, short_routes=False)
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        if scope["path"] == "/slow":
            await self.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def counted(self, scope: Any, receive: Any, send: Any) -> None:
        """The application that the server knows."""
        self.paths.append(scope.get("path"))
        await self.gate(scope, receive, send)


async def answer(reader: asyncio.StreamReader, *, has_body: bool = True) -> tuple[bytes, dict[bytes, bytes], bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    status, *lines = head.strip().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    headers = {name: value for name, value in headers.items() if name not in {b"date", b"x-request-id"}}
    return status, headers, await reader.readexactly(int(headers[b"content-length"])) if has_body else b""


async def answers(protocol: Any) -> tuple[dict[str, Any], list[str | None]]:
    world = World()
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server = uvicorn.Server(uvicorn.Config(world.counted, http=protocol, interface="asgi3", log_config=None, access_log=False))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    slow = [await asyncio.open_connection(*address) for _ in range(2)]
    for _, writer in slow:
        writer.write(SLOW)
    while len(world.paths) < 3:  # the first one is the lifespan
        await asyncio.sleep(0.01)
    result: dict[str, Any] = {}
    pairs = {name: await asyncio.open_connection(*address) for name in REFUSED}
    for name, (reader, writer) in pairs.items():
        writer.write(REFUSED[name])
        result[name] = await answer(reader, has_body=name != "HEAD")
    pairs["GET"][1].write(b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n")
    result["health"] = await answer(pairs["GET"][0])
    world.release.set()
    result["slow"] = [await answer(each) for each, _ in slow]
    slow[0][1].write(REFUSED["GET"] * 3)
    result["pipelined"] = [await answer(slow[0][0]) for _ in range(3)]
    for name in ("GET", "POST", "chunked", "HEAD"):  # these connections go on
        pairs[name][1].write(REFUSED["GET"])
        result[f"{name}, again"] = await answer(pairs[name][0])
    for name in ("last one", "HTTP/1.0"):
        result[f"{name}, closed"] = await asyncio.wait_for(pairs[name][0].read(), 10)
    for _, writer in (*slow, *pairs.values()):
        writer.close()
    server.should_exit = True
    await running
    assert (world.overload._in_flight, world.overload._aside) == (0, 0)
    return result, world.paths


def test_refusals_are_those_of_the_application() -> None:
    expected, every_path = asyncio.run(answers("httptools"))
    result, paths = asyncio.run(answers(RefusingProtocol))
    assert result == expected
    for name in REFUSED:
        assert result[name][0] == b"HTTP/1.1 503 Service Unavailable"
        assert result[name][1][b"retry-after"] == b"1"
    assert result["GET, again"][0] == result["slow"][0][0] == b"HTTP/1.1 200 OK"
    assert len(every_path) - len(paths) == len(set(REFUSED) - BY_THE_APPLICATION)


@pytest.mark.parametrize(("asides", "answered"), [(0, 3), (1, 4), (3, 6), (4, 6), (100, 6)])
def test_requests_that_wait_for_histories_have_a_bound_of_their_own(asides: int, answered: int) -> None:
    overload = Overload(3)
    overload._aside = asides
    assert sum(overload.enter() for _ in range(50)) == answered
