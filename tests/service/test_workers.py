"""Several processes on one store: each answers as if it were alone; killed ones lose nothing that was acknowledged."""

import random
import resource
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from service_world import PostgresServer, free_port, kill_group, same_answer, server, stored_history, wait_ready
from ssd4rec.serving.recommender import Recommender

pytestmark = pytest.mark.slow
ROUNDS = 500  # a write and a read each


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_two_workers_answer_with_every_acknowledged_event(
    kind: str, models: Path, recommender: Recommender, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    if kind == "postgresql":
        store = request.getfixturevalue("postgres").new_database()
    chance = random.Random(1)  # noqa: S311 - not a secret
    expected: dict[str, list[str]] = {f"u{n}": [] for n in range(5)}
    with server(models, store, "--workers", "2") as (_, address):
        processes = set()
        # a connection for each request: either process may take it
        with httpx.Client(base_url=address, timeout=60, verify=False, headers={"Connection": "close"}) as client:
            for _ in range(ROUNDS):
                user, item = f"u{chance.randrange(5)}", f"i{chance.randrange(12)}"
                answer = client.post("/v1/events", json={"events": [{"user_id": user, "item_id": item}]})
                assert answer.json()["accepted"] == 1
                processes.add(answer.headers["x-process"])
                expected[user].append(item)
                answer = client.get(f"/v1/users/{user}/recommendations", params={"k": 4})
                processes.add(answer.headers["x-process"])
                same_answer(answer.json(), recommender.recommend(expected[user], 4))
        assert len(processes) == 2
        with httpx.Client(base_url=address, timeout=60, verify=False) as client:
            for user, items in expected.items():
                assert stored_history(client, user) == items
            assert b"ssd4rec_events_total" in client.get("/metrics").content


def test_two_servers_on_one_sqlite_file(models: Path, recommender: Recommender, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    with server(models, store) as (_, one), server(models, store) as (_, other):
        items = []
        for count in range(40):
            items.append(f"i{count * 5 % 12}")
            body = {"events": [{"user_id": "u", "item_id": items[-1]}]}
            assert httpx.post(f"{(one, other)[count % 2]}/v1/events", json=body, timeout=60, verify=False).json()["accepted"] == 1
            for address in (one, other):
                answer = httpx.get(f"{address}/v1/users/u/recommendations", timeout=60, verify=False).json()
                same_answer(answer, recommender.recommend(items))


class _Load:
    """Writers who note which events were acknowledged, and repeat those that were not."""

    def __init__(self, address: str, threads: int = 3) -> None:
        self.acknowledged: set[str] = set()
        self.sent: dict[str, dict[str, object]] = {}
        self._address, self._stop = address, threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        chance, count = random.Random(number), 0  # noqa: S311 - not a secret
        with httpx.Client(base_url=self._address, timeout=30, verify=False) as client:
            while not self._stop.is_set():
                events = []
                for _ in range(chance.randrange(1, 6)):
                    count += 1
                    event_id = f"{number}-{count}"
                    user, item = f"u{chance.randrange(6)}", f"i{chance.randrange(12)}"
                    events.append({"event_id": event_id, "user_id": user, "item_id": item, "timestamp": chance.randrange(10**6)})
                    self.sent[event_id] = events[-1]
                while not self._stop.is_set():
                    try:
                        answer = client.post("/v1/events", json={"events": events})
                    except httpx.TransportError:
                        time.sleep(0.05)
                        continue
                    if answer.status_code == 200:
                        assert answer.json()["accepted"] + answer.json()["duplicates"] == len(events)
                        self.acknowledged.update(event["event_id"] for event in events)
                        break
                    assert answer.status_code == 503, answer.text
                    time.sleep(0.05)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_kill_9_loses_and_doubles_nothing(
    kind: str, models: Path, recommender: Recommender, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    if kind == "postgresql":
        store = request.getfixturevalue("postgres").new_database()
    port, chance = free_port(), random.Random(2)  # noqa: S311 - not a secret
    load = _Load(f"http://127.0.0.1:{port}")
    try:
        for _ in range(4):
            with server(models, store, "--workers", "2" if kind == "postgresql" else "1", port=port) as (process, _):
                time.sleep(1 + 2 * chance.random())
                kill_group(process)
        with (
            server(models, store, port=port) as (process, address),
            httpx.Client(base_url=address, timeout=60, verify=False) as client,
        ):
            time.sleep(1)
            load.stop()
            check_store(client, load, recommender)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
    finally:
        load.stop()


def check_store(client: httpx.Client, load: _Load, recommender: Recommender) -> None:
    """Every acknowledged event is stored once, in order; the answers are those of the library."""
    stored: list[str] = []
    for user in (f"u{n}" for n in range(6)):
        history, cursor = [], None
        while True:
            page = client.get(f"/v1/users/{user}/events", params={"limit": 500} | ({"cursor": cursor} if cursor else {})).json()
            history += page["events"]
            cursor = page["next"]
            if cursor is None:
                break
        stored += [event["event_id"] for event in history]
        times = [event["timestamp"] for event in history]
        assert times == sorted(times)
        for event in history:
            sent = load.sent[event["event_id"]]
            assert (event["item_id"], event["timestamp"], user) == (sent["item_id"], sent["timestamp"], sent["user_id"])
        answer = client.get(f"/v1/users/{user}/recommendations").json()
        same_answer(answer, recommender.recommend([event["item_id"] for event in history]))
    assert len(stored) == len(set(stored))
    assert load.acknowledged <= set(stored)
    assert len(load.acknowledged) > 20


def test_a_database_that_goes_away_and_comes_back(models: Path, recommender: Recommender, postgres: PostgresServer) -> None:
    store = postgres.new_database()
    with (
        server(models, store, "--workers", "2") as (process, address),
        httpx.Client(base_url=address, timeout=60, verify=False) as client,
    ):
        body = {"events": [{"event_id": "e1", "user_id": "u", "item_id": "i1"}]}
        assert client.post("/v1/events", json=body).json()["accepted"] == 1
        postgres.stop()
        try:
            for _ in range(4):
                refused = client.post("/v1/events", json={"events": [{"event_id": "e2", "user_id": "u", "item_id": "i2"}]})
                assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
                assert refused.headers["retry-after"]
                assert client.get("/v1/users/u/recommendations").status_code == 503
            assert client.get("/health/live").status_code == 200
            assert client.get("/health/ready").status_code == 503
        finally:
            postgres.start()
        wait_ready(process, address)
        deadline = time.monotonic() + 30
        body["events"].append({"event_id": "e2", "user_id": "u", "item_id": "i2"})
        while (answer := client.post("/v1/events", json=body)).status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert answer.json() == {"accepted": 1, "duplicates": 1, "rejected": []}
        same_answer(client.get("/v1/users/u/recommendations").json(), recommender.recommend(["i1", "i2"]))


def test_a_file_that_cannot_grow_loses_nothing(models: Path, recommender: Recommender, tmp_path: Path) -> None:
    """A full disk, as a limit of the size of files: it is reached by the write-ahead log, during a commit."""
    path, acknowledged = tmp_path / "events.db", []
    with (
        server(models, f"sqlite:///{path}") as (process, address),
        httpx.Client(base_url=address, timeout=60, verify=False) as client,
    ):
        unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        largest = max(file.stat().st_size for file in tmp_path.iterdir())
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest + 300_000, unlimited[1]))
        for batch in range(100):
            events = [{"event_id": f"{batch}-{n}" + "x" * 100, "user_id": "u", "item_id": f"i{n % 12}"} for n in range(100)]
            answer = client.post("/v1/events", json={"events": events})
            if answer.status_code != 200:
                break
            acknowledged += [event["item_id"] for event in events]
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json"), answer.text
        assert answer.json()["code"] in {"store_full", "store_unavailable"}
        same_answer(client.get("/v1/users/u/recommendations").json(), recommender.recommend(acknowledged))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert client.post("/v1/events", json={"events": events}).json()["accepted"] == 100
        assert stored_history(client, "u") == acknowledged + [event["item_id"] for event in events]


def test_sigterm_finishes_accepted_requests(models: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    with server(models, store) as (process, address):
        load = _Load(address)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        load.stop()
    with server(models, store) as (_, address), httpx.Client(base_url=address, timeout=60, verify=False) as client:
        stored = {
            event["event_id"]
            for user in (f"u{n}" for n in range(6))
            for event in client.get(f"/v1/users/{user}/events", params={"limit": 1000}).json().get("events", [])
        }
        assert load.acknowledged <= stored
        assert load.acknowledged
