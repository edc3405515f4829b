"""A running service for tests: models of the cycle world, stores on SQLite and PostgreSQL, a client on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import polars as pl
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient

import served
import worlds
from ssd4rec.artifact import Artifact, save_artifact
from ssd4rec.config import load_config
from ssd4rec.configs import DEFAULT_PRESET
from ssd4rec.data.catalog import Catalog
from ssd4rec.evaluation.baselines import fit_baseline
from ssd4rec.fusion import ScoreFusion
from ssd4rec.service.app import create_app
from ssd4rec.service.live import gain
from ssd4rec.service.prequential import Budget
from ssd4rec.service.settings import ServiceSettings
from ssd4rec.serving.recommender import Recommendations, Recommender

POSTGRES_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []
ITEMS = 12
WALK = [f"i{n}" for n in (3, 4, 5, 9, 1, 3, 7)]  # events of a user


def save_model(folder: Path, recommender: Recommender, *, prefix: str = "i", seed: int | None = None) -> None:
    """Write a recommender of the cycle world with text ids and titles."""
    artifact = recommender.artifact
    ids = pl.Series("id", [f"{prefix}{index}" for index in range(len(artifact.catalog))])
    catalog = Catalog(ids, pl.Series("title", [f"Item {index}" for index in range(len(ids))]))
    if seed is not None:  # another model of the same shape
        generator = np.random.default_rng(seed)
        weight = artifact.model.table.weight
        noise = generator.normal(0.0, 0.5, tuple(weight.shape)).astype("float32")
        weight.data += weight.data.new_tensor(noise)
    save_artifact(folder, artifact.model, catalog, artifact.config, {}, artifact.training_counts, artifact.fusion)


def settings(models: Path, store: str, **values: object) -> ServiceSettings:
    """Settings for tests: no log, no page, and a busy machine is no reason to refuse a request."""
    defaults = {"models": models, "store": store, "log_requests": False, "page": False, "poll_seconds": 0.1, "rate_limit": 0.0}
    defaults["queue_seconds"] = 60.0
    return ServiceSettings.model_validate(defaults | values)


@contextmanager
def running(models: Path, store: str, *, client: str = "127.0.0.1", **values: object) -> Iterator[TestClient]:
    """A service in this process, and a client of it."""
    app = create_app(settings(models, store, **values))
    with TestClient(app, base_url="http://127.0.0.1", client=(client, 50000), raise_server_exceptions=False) as connected:
        yield connected


def send(client: httpx.Client, user: str, *items: str, **fields: object) -> dict[str, object]:
    """Post events of a user, one after the other in time."""
    events = [{"user_id": user, "item_id": item, **fields} for item in items]
    answer = client.post("/v1/events", json={"events": events})
    assert answer.status_code == 200, answer.text
    return answer.json()


def stored_history(client: httpx.Client, user: str) -> list[str]:
    """The items of a user in the order of the history, read page by page."""
    items: list[str] = []
    cursor = None
    while True:
        parameters = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"/v1/users/{user}/events", params=parameters)
        assert page.status_code == 200, page.text
        items += [event["item_id"] for event in page.json()["events"]]
        cursor = page.json()["next"]
        if cursor is None:
            return items


def same_answer(answer: dict[str, object], expected: Recommendations) -> None:
    """The same items and source; scores to 1e-5."""
    assert [item["item_id"] for item in answer["items"]] == [str(each.item) for each in expected.items]
    scores = [item["score"] for item in answer["items"]], [each.score for each in expected.items]
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-5)
    assert answer["source"] == expected.source


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(models: Path, store: str, *arguments: str, port: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`ssd4rec serve` as a process of its own, ready to answer; killed at the end."""
    port = port or free_port()
    command = [sys.executable, "-m", "ssd4rec", "serve", str(models), "--store", store, "--port", str(port), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SSD4REC_LOG_REQUESTS": "false", "SSD4REC_RATE_LIMIT": "0"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        address = f"http://127.0.0.1:{port}"
        try:
            wait_ready(process, address, log)
            yield process, address
        finally:
            kill_group(process)


def wait_ready(process: subprocess.Popen[bytes], address: str, log: object = None, seconds: float = 240.0) -> None:
    """Wait until a server answers that it is ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{address}/health/ready", timeout=5.0, verify=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    if log is not None:
        log.seek(0)
    raise AssertionError(f"the server did not become ready:\n{log.read().decode() if log is not None else ''}")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a server and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def memory_folder() -> str | None:
    """A folder in memory, if it has room for the files of some hundred databases; None: the usual one."""
    has_room = Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free > 4 << 30  # noqa: S108 - mkdtemp is safe there
    return "/dev/shm" if has_room else None  # noqa: S108


class PostgresServer:
    """A PostgreSQL server of its own in a temporary folder, stopped and removed at the end."""

    def __init__(self) -> None:
        self.bin = POSTGRES_BINARIES[-1]
        self.folder = Path(tempfile.mkdtemp(prefix="ssd4rec-postgres-", dir=memory_folder()))
        self.port = free_port()
        self._databases = 0
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        """Start, or start again."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c max_connections=60"
        self._run("pg_ctl", "-D", self.data, "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop as a crash does."""
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def new_database(self) -> str:
        """The address of an empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        engine = create_engine(self._address("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._address(name)

    def close(self) -> None:
        """Stop and remove."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _address(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(
            [self.bin / program, *arguments], check=True, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60, **user
        )


def default_recommender(**backbone: object) -> Recommender:
    """An untrained model of one Bi-SSD layer, which reads event by event."""
    return served.recommender(**({"layers": 1} | backbone))


def preset_recommender(kind: str = "fusion", *more: str) -> Recommender:
    """An untrained model of the default preset that uses everything which it may add to the scores.

    Args:
        kind: "repeat logits": no fusion; "fusion"; "max_length": with fusion, and the model reads the last four events only.
        more: settings.
    """
    sizes = ["backbone.width=16", "backbone.state_dim=8", "backbone.head_width=8", "data.min_interactions=1"]
    newest = ["data.max_length=4"] if kind == "max_length" else []
    base = served.recommender_of(load_config(DEFAULT_PRESET, [*sizes, *newest, *more])).artifact
    world = worlds.world(worlds.cycle())
    pairs = fit_baseline("sequential-rules", world.histories, world.split.train, len(world.catalog))
    fusion = None if kind == "repeat logits" else ScoreFusion(pairs, 0.7, -2.0)
    return Recommender(Artifact(base.model, base.catalog, base.config, {}, base.training_counts, fusion))


def live(client: TestClient, events: int, ranked: int = 0) -> dict:
    """Return the live metrics of the active model, once so many events were counted and ranked."""
    deadline = time.monotonic() + 60
    service = client.app.state.service
    while True:
        while service.prequential._groups:
            time.sleep(0.005)
        service.scorer.call(lambda: None).result()  # what was taken from the queue is finished
        service.maintenance.store_sums()
        (model,) = [each for each in client.get("/v1/models").json()["models"] if each["active"]]
        if model["live"] and model["live"]["events"] >= events and model["live"]["ranked_events"] >= ranked:
            return model["live"]
        assert time.monotonic() < deadline, model
        time.sleep(0.01)


def slow_gains(recommender: Recommender, history: list[str], times: list[int] | None = None) -> list[tuple[float, float]]:
    """Rank each event but the first in the complete list of recommendations after the events before it, at its time if known."""
    exclude_seen = recommender.artifact.config.evaluation.exclude_seen
    gains = []
    for place in range(1, len(history)):
        known = {} if times is None else {"at": times[place], "last_event": times[place - 1]}
        ranked = recommender.recommend(history[:place], len(recommender.artifact.catalog), exclude_seen=exclude_seen, **known)
        items = [each.item for each in ranked.items]
        gains.append(gain(items.index(history[place]) + 1 if history[place] in items else None))
    return gains


def without_budget(client: TestClient) -> None:
    """Let a service rank every event, however long it takes."""
    client.app.state.service.prequential._budget = Unlimited(1.0)


class Unlimited(Budget):
    """A budget that is never spent."""

    is_spent = False
