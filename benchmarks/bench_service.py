"""What does the service hold? Open-loop load, batch ingest, kills; a bare FastAPI route under the same load as the yardstick.

An untrained model of 12,000 items (D = 64) in front of users with 10 to 10,000 events; one event to four recommendations.
Server and load generator share the machine. `--postgres URL` measures another store than SQLite.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl

from common import arguments, publish
from service_load import Connections, Outcome, Request, get, open_loop, post
from ssd4rec.artifact import load_artifact, save_artifact
from ssd4rec.config import Config, DataConfig
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.interactions import read_interactions
from ssd4rec.models.next_item import make_model
from ssd4rec.service.importing import import_events
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.schema import migrate
from ssd4rec.serving.recommender import Recommender

ITEMS, USERS, FEWEST, MOST = 12_000, 200, 10, 10_000
INGEST_BATCH, INGEST_CONNECTIONS = 500, 4


def main() -> None:
    """Run the parts and print the table."""
    options = arguments(__doc__, _add)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end too
    parts = set(options.parts.split(","))
    rows: list[dict[str, Any]] = []
    notes = [f"load average of the machine at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        users = _prepare(folder)
        store = options.postgres or f"sqlite:///{folder / 'events.db'}"
        notes.append(_import(store, users))
        if "yardstick" in parts:
            with _bare() as (process, port):
                load = "bare FastAPI route", process, port
                rows += [_measured(*load, rate, options.seconds, lambda _: ("bare", get("/"))) for rate in options.rates]
        if "load" in parts:
            rows += _load(folder, store, users, options)
        if "ingest" in parts:
            notes.append(_ingest(folder, options))
        if "kills" in parts:
            notes.append(_kills(folder, options.kills))
    notes.append(f"load average at the end: {os.getloadavg()[0]:.1f}")
    publish("bench_service", rows, options, notes)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--rates", type=float, nargs="+", default=[200.0, 50.0, 100.0, 400.0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--postgres", metavar="URL", help="an empty database, in place of SQLite")
    parser.add_argument("--parts", default="yardstick,load,ingest,kills")


def _prepare(folder: Path) -> dict[str, list[int]]:
    """Two versions of a model, and histories whose lengths are spread evenly on a logarithmic scale."""
    config = Config(data=DataConfig(min_interactions=1))
    ids = Catalog(pl.Series("id", [f"i{index}" for index in range(ITEMS)]))
    for version in ("v1", "v2"):
        model = make_model(config, ITEMS).eval()
        counts = np.arange(ITEMS + 1)[::-1].copy()
        save_artifact(folder / "models" / version, model, ids, config, {}, counts)
    (folder / "models" / "active.json").write_text('{"version": "v1"}', encoding="utf-8")
    generator = np.random.default_rng(0)
    lengths = np.geomspace(FEWEST, MOST, USERS).astype(int)
    return {f"u{user}": generator.integers(0, ITEMS, length).tolist() for user, length in enumerate(lengths)}


def _import(store: str, users: dict[str, list[int]]) -> str:
    engine = open_engine(store, timeout=60.0)
    migrate(engine)
    rows = [(user, f"i{item}", 1_700_000_000 + place) for user, items in users.items() for place, item in enumerate(items)]
    frame = pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")
    began = time.perf_counter()
    imported = import_events(engine, read_interactions(frame))
    engine.dispose()
    return f"bulk import: {imported.events / (time.perf_counter() - began):,.0f} events/s ({imported.events:,} events)"


def _load(folder: Path, store: str, users: dict[str, list[int]], options: argparse.Namespace) -> list[dict[str, Any]]:
    names, rows = list(users), []

    def mixed(chance: random.Random) -> tuple[str, Request]:
        user = chance.choice(names)
        if chance.random() < 0.2:
            return "event", post("/v1/events", {"events": [{"user_id": user, "item_id": f"i{chance.randrange(ITEMS)}"}]})
        return "recommendation", get(f"/v1/users/{user}/recommendations?k=10")

    with _server(folder / "models", store, options.workers) as (process, port):
        rate = options.rates[0]
        memory = [_memory(process.pid)]
        rows.append(_measured("cold states", process, port, rate, options.seconds, mixed))
        _touch(port, names)
        memory.append(_memory(process.pid))
        rows += [
            _measured("hot states", process, port, each, options.seconds, mixed, seed)
            for seed, each in enumerate(options.rates, 1)
        ]
        memory.append(_memory(process.pid))
        swap = threading.Timer(
            options.seconds / 4, lambda: httpx.post(f"http://127.0.0.1:{port}/v1/models/v2/activate", timeout=60)
        )
        swap.start()
        rows.append(_measured("model swapped during the load", process, port, rate, options.seconds, mixed, seed=99))
        swap.join()
        for row in rows:
            row["server memory MiB"] = " -> ".join(f"{each / 2**20:,.0f}" for each in memory)
    return rows


def _touch(port: int, names: list[str]) -> None:
    """Let the server read every user once."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, verify=False) as client:  # noqa: S501 - loopback
        for user in names:
            client.get(f"/v1/users/{user}/recommendations").raise_for_status()


def _measured(
    state: str,
    process: subprocess.Popen[bytes],
    port: int,
    rate: float,
    seconds: float,
    make: Callable[[random.Random], tuple[str, Request]],
    seed: int = 0,
) -> dict[str, Any]:
    before = _cpu_seconds(process.pid)
    outcome: Outcome = asyncio.run(open_loop(port, rate, seconds, make, seed))
    spent = _cpu_seconds(process.pid) - before
    return {
        "load": state,
        "req/s": f"{rate:g}",
        "p50 ms": f"{outcome.percentile(0.5):.1f}",
        "p99 ms": f"{outcome.percentile(0.99):.1f}",
        "p99.9 ms": f"{outcome.percentile(0.999):.1f}",
        "CPU ms/request": f"{1e3 * spent / max(1, outcome.answered):.2f}",
        "answered": outcome.answered,
        "not answered with 200": outcome.failures + sum(outcome.statuses.values()) - outcome.answered,
    }


def _ingest(folder: Path, options: argparse.Namespace) -> str:
    store = f"sqlite:///{folder / 'ingest.db'}"

    async def run(port: int) -> tuple[int, float]:
        connections, accepted, began = Connections(port), 0, time.perf_counter()

        async def one(number: int) -> None:
            nonlocal accepted
            chance, count = random.Random(number), 0  # noqa: S311 - not a secret
            while time.perf_counter() < began + options.seconds:
                events = []
                for _ in range(INGEST_BATCH):
                    count += 1
                    user = f"u{chance.randrange(10_000)}"
                    events.append({"event_id": f"{number}-{count}", "user_id": user, "item_id": f"i{chance.randrange(ITEMS)}"})
                status, body = await connections.send(post("/v1/events", {"events": events}))
                accepted += json.loads(body)["accepted"] if status == 200 else 0

        await asyncio.gather(*(one(number) for number in range(INGEST_CONNECTIONS)))
        connections.close()
        return accepted, time.perf_counter() - began

    with _server(folder / "models", store, 1) as (_, port):
        accepted, seconds = asyncio.run(run(port))
    return f"ingest: {accepted / seconds:,.0f} acknowledged events/s in batches of {INGEST_BATCH} ({accepted:,} events)"


def _kills(folder: Path, kills: int) -> str:
    """SIGKILL under load, again and again; then every promise is checked."""
    store, models = f"sqlite:///{folder / 'kills.db'}", folder / "models"
    chance, port = random.Random(3), _free_port()  # noqa: S311 - not a secret
    acknowledged: set[str] = set()
    stop = threading.Event()
    writers = [threading.Thread(target=_write, args=(port, number, acknowledged, stop)) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(kills):
            with _server(models, store, 1, port) as (process, _):
                time.sleep(0.5 + 1.5 * chance.random())
                os.killpg(process.pid, signal.SIGKILL)
        with _server(models, store, 1, port) as (_, _):
            time.sleep(1.0)
            stop.set()
            for writer in writers:
                writer.join()
            lost, double, wrong = _check(port, acknowledged, load_artifact(models / "v1"))
    finally:
        stop.set()
    return (
        f"{kills} kills under load: {len(acknowledged):,} events acknowledged, {lost} lost, {double} stored twice, "
        f"{wrong} of 20 users with another answer than the library's"
    )


def _write(port: int, number: int, acknowledged: set[str], stop: threading.Event) -> None:
    chance, count = random.Random(number), 0  # noqa: S311 - not a secret
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False) as client:  # noqa: S501 - loopback
        while not stop.is_set():
            events = []
            for _ in range(chance.randrange(1, 20)):
                count += 1
                item, moment = f"i{chance.randrange(ITEMS)}", chance.randrange(10**9)
                event = {"event_id": f"{number}-{count}", "user_id": f"u{chance.randrange(20)}", "item_id": item}
                events.append(event | {"timestamp": moment})
            while not stop.is_set():
                try:
                    if client.post("/v1/events", json={"events": events}).status_code == 200:
                        acknowledged.update(str(event["event_id"]) for event in events)
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.05)


def _check(port: int, acknowledged: set[str], artifact: Any) -> tuple[int, int, int]:
    recommender, stored, wrong = Recommender(artifact), [], 0
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, verify=False) as client:  # noqa: S501 - loopback
        for user in (f"u{number}" for number in range(20)):
            events: list[dict[str, Any]] = []
            cursor: str | None = None
            while True:
                parameters: dict[str, Any] = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
                page = client.get(f"/v1/users/{user}/events", params=parameters).json()
                events += page.get("events", [])
                cursor = page.get("next")
                if cursor is None:
                    break
            stored += [event["event_id"] for event in events]
            answer = client.get(f"/v1/users/{user}/recommendations").json()
            expected = recommender.recommend([event["item_id"] for event in events])
            scores = [item["score"] for item in answer["items"]], [each.score for each in expected.items]
            same = [item["item_id"] for item in answer["items"]] == [each.item for each in expected.items]
            wrong += not (same and np.allclose(*scores, rtol=1e-5, atol=1e-5))
    return len(acknowledged - set(stored)), len(stored) - len(set(stored)), wrong


@contextmanager
def _server(models: Path, store: str, workers: int, port: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = port or _free_port()
    command = [sys.executable, "-m", "ssd4rec", "serve", str(models), "--store", store, "--port", str(port)]
    environment = os.environ | {"SSD4REC_LOG_REQUESTS": "false", "SSD4REC_RATE_LIMIT": "0"}
    with _started([*command, "--workers", str(workers)], environment, f"http://127.0.0.1:{port}/health/ready") as process:
        yield process, port


@contextmanager
def _bare() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A FastAPI application of one route that returns a constant."""
    port = _free_port()
    code = (
        "import fastapi, uvicorn\napp = fastapi.FastAPI()\n@app.get('/')\nasync def root():\n    return {'items': []}\n"
        f"uvicorn.run(app, port={port}, log_level='critical')"
    )
    with _started([sys.executable, "-c", code], dict(os.environ), f"http://127.0.0.1:{port}/") as process:
        yield process, port


@contextmanager
def _started(command: list[str], environment: dict[str, str], address: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 300
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command[:5])} did not start")
            try:
                if httpx.get(address, timeout=5, verify=False).status_code == 200:  # noqa: S501 - loopback
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _cpu_seconds(group: int) -> float:
    """User and system time of a server and its workers."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[2]) == group:
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    """Resident bytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
