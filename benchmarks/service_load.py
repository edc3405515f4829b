"""An open-loop load generator: requests arrive by a Poisson process whether or not earlier ones were answered.

Latency counts from the scheduled arrival, so that a server that falls behind cannot hide it (no coordinated omission). Plain
asyncio streams: a client library would cost more of the shared cores than the server.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

REFUSED = "refused"  # the kind of answers of another status than 200
Request = tuple[str, str, bytes]  # method, path, body


@dataclass
class Outcome:
    """Latencies in seconds of answered requests, and how many failed."""

    latencies: dict[str, list[float]] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    failures: int = 0
    delays: list[float] = field(default_factory=list)  # from the scheduled time until a request was written

    def percentile(self, share: float, kind: str | None = None) -> float:
        """Return a percentile in milliseconds; of all requests that were answered with 200, or of one kind."""
        kinds = [times for name, times in self.latencies.items() if name == kind or (kind is None and name != REFUSED)]
        values = sorted(value for each in kinds for value in each)
        return _percentile(values, share)

    def delay(self, share: float) -> float:
        """Return a percentile in milliseconds of the delay of the generator itself, which is part of every latency."""
        return _percentile(sorted(self.delays), share)

    @property
    def answered(self) -> int:
        """How many requests were answered with 200."""
        return self.statuses.get(200, 0)


def _percentile(ordered: list[float], share: float) -> float:
    return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Connections:
    """Keep-alive connections to a server; a request takes an idle one or opens another."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, request: Request, written: Callable[[], None] | None = None) -> tuple[int, bytes]:
        """Send one request and return status and body; `written` is called when it is on its way."""
        pair = self._idle_pair() or await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = pair
        try:
            writer.write(_encoded(request))
            if written is not None:
                written()
            status, body = await _answer(reader)
        except BaseException:
            writer.close()
            raise
        self._idle.append(pair)
        return status, body

    def _idle_pair(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Take an idle connection that the server has not closed; None: there is none."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def _encoded(request: Request) -> bytes:
    method, path, body = request
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return (head + "Content-Type: application/json\r\n\r\n").encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    lengths = [int(line.split(b":")[1]) for line in lines[1:] if line.lower().startswith(b"content-length:")]
    body = await reader.readexactly(lengths[0]) if lengths else b""
    return int(lines[0].split()[1]), body


async def open_loop(
    port: int, rate: float, seconds: float, make: Callable[[random.Random], tuple[str, Request]], seed: int = 0
) -> Outcome:
    """Send requests at a mean rate.

    Args:
        port: of the server on loopback.
        rate: requests a second.
        seconds: how long.
        make: returns the kind of the next request, and the request.
        seed: of arrivals and requests.
    """
    chance, outcome, connections = random.Random(seed), Outcome(), Connections(port)  # noqa: S311 - not a secret
    tasks: set[asyncio.Task[None]] = set()
    began = time.perf_counter()
    scheduled = began
    while (scheduled := scheduled + chance.expovariate(rate)) < began + seconds:
        if (wait := scheduled - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(_one(connections, *make(chance), scheduled, outcome))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.wait(tasks)
    connections.close()
    return outcome


async def _one(connections: Connections, kind: str, request: Request, scheduled: float, outcome: Outcome) -> None:
    try:
        status, _ = await connections.send(request, lambda: outcome.delays.append(time.perf_counter() - scheduled))
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        outcome.failures += 1
        return
    outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
    kind = kind if status == 200 else REFUSED
    outcome.latencies.setdefault(kind, []).append(time.perf_counter() - scheduled)


def post(path: str, body: object) -> Request:
    """Return a POST of JSON."""
    return "POST", path, json.dumps(body).encode()


def get(path: str) -> Request:
    """Return a GET."""
    return "GET", path, b""
