"""Servers, models and histories for the benchmarks of the service."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import torch

from ssd4rec.artifact import save_artifact
from ssd4rec.baselines.sequential_rules import NEIGHBORS, SequentialRules
from ssd4rec.config import load_config
from ssd4rec.configs import DEFAULT_PRESET
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.interactions import read_interactions
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import make_model
from ssd4rec.service.importing import import_events
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.schema import migrate

ITEMS, USERS, FEWEST, MOST = 12_000, 200, 10, 10_000
ROOT = Path(__file__).parents[1]


def use_tests() -> None:
    """Let helpers of the tests be imported: the fuzzer of the contract, a PostgreSQL server."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "service")]


def make_models(folder: Path) -> Path:
    """Write two versions of an untrained model with the options of the default preset; return their folder. v1 is active.

    D = 64, a fading sum around the network, repeat logits that change the scores, and score fusion with 300 pairs an item and a
    repeat bias: what `ssd4rec train` saves, but random.
    """
    config = load_config(DEFAULT_PRESET, ["data.min_interactions=1"])
    ids = Catalog(pl.Series("id", [f"i{index}" for index in range(ITEMS)]))
    generator = np.random.default_rng(1)
    columns = [np.sort(generator.choice(ITEMS, NEIGHBORS, replace=False)) for _ in range(ITEMS)]
    edges = np.arange(ITEMS + 1) * NEIGHBORS
    pairs = SequentialRules(edges, np.concatenate(columns).astype(np.int32), generator.random(edges[-1]).astype(np.float32))
    for seed, version in enumerate(("v1", "v2")):
        model, noise = make_model(config, ITEMS).eval(), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():  # also those that start at zero
                parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.02)
        counts = np.arange(ITEMS + 1)[::-1].copy()
        save_artifact(folder / "models" / version, model, ids, config, {}, counts, ScoreFusion(pairs, 0.3, -1.0))
    (folder / "models" / "active.json").write_text('{"version": "v1"}', encoding="utf-8")
    return folder / "models"


def fill(store: str) -> tuple[list[str], str]:
    """Import histories whose lengths are spread evenly on a logarithmic scale.

    Returns:
        The users, and how fast they were imported.
    """
    generator = np.random.default_rng(0)
    rows = []
    for user, length in enumerate(np.geomspace(FEWEST, MOST, USERS).astype(int).tolist()):
        items = generator.integers(0, ITEMS, length).tolist()
        rows += [(f"u{user}", f"i{item}", 1_700_000_000 + place) for place, item in enumerate(items)]
    frame = pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")
    engine = open_engine(store, timeout=60.0)
    migrate(engine)
    began = time.perf_counter()
    imported = import_events(engine, read_interactions(frame))
    engine.dispose()
    speed = imported.events / (time.perf_counter() - began)
    return [f"u{user}" for user in range(USERS)], f"bulk import: {speed:,.0f} events/s ({imported.events:,} events)"


@contextmanager
def server(
    models: Path, store: str, workers: int = 1, port: int | None = None, **settings: object
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`ssd4rec serve` in a process group of its own, ready to answer."""
    port = port or free_port()
    command = [sys.executable, "-m", "ssd4rec", "serve", str(models), "--store", store, "--port", str(port)]
    environment = os.environ | {"SSD4REC_LOG_REQUESTS": "false", "SSD4REC_RATE_LIMIT": "0"}
    environment |= {f"SSD4REC_{name.upper()}": str(value) for name, value in settings.items()}
    with started([*command, "--workers", str(workers)], environment, f"http://127.0.0.1:{port}/health/ready") as process:
        yield process, port


@contextmanager
def bare() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A FastAPI application of one route that returns a constant: the yardstick."""
    port = free_port()
    code = (
        "import fastapi, uvicorn\napp = fastapi.FastAPI()\n@app.get('/')\nasync def root():\n    return {'items': []}\n"
        f"uvicorn.run(app, port={port}, log_level='critical')"
    )
    with started([sys.executable, "-c", code], dict(os.environ), f"http://127.0.0.1:{port}/") as process:
        yield process, port


@contextmanager
def started(command: list[str], environment: dict[str, str], address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait until it answers, and end it."""
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
                pass
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def members(group: int) -> list[tuple[int, list[str]]]:
    """Return the processes of a group: their ids, and the fields of their `stat` after the name."""
    result = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[2]) == group:
                result.append((int(entry.name), fields))
    return result


def cpu_seconds(group: int) -> float:
    """Return the user and system time of a server and its workers."""
    ticks = sum(int(fields[11]) + int(fields[12]) for _, fields in members(group))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(group: int) -> float:
    """Return the resident MiB of a server and its workers."""
    return sum(int(fields[21]) for _, fields in members(group)) * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
