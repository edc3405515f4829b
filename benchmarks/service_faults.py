"""Check the promises of the service: processes are killed, workers take turns, clients send nonsense."""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from service_servers import ITEMS, free_port, members, server, use_tests
from ssd4rec.artifact import load_artifact
from ssd4rec.serving.recommender import Recommender

WRITERS, WRITTEN_USERS = 3, 20


def kills(models: Path, store: str, count: int, workers: int, progress: Any) -> dict[str, Any]:
    """SIGKILL under load, again and again; then every promise is checked.

    With several workers every second kill hits one worker, which the others outlive.
    """
    chance, port = random.Random(3), free_port()  # noqa: S311 - not a secret
    acknowledged: set[str] = set()
    stop = threading.Event()
    writers = [threading.Thread(target=_write, args=(port, number, acknowledged, stop)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    slowest, done = 0.0, 0
    try:
        while done < count:
            began = time.perf_counter()
            with server(models, store, workers, port) as (process, _):
                slowest = max(slowest, time.perf_counter() - began)
                if workers > 1:
                    time.sleep(0.5 + chance.random())
                    children = [pid for pid, _ in members(process.pid) if pid != process.pid and _is_worker(pid)]
                    os.kill(chance.choice(children), signal.SIGKILL)
                    done += 1
                time.sleep(0.5 + 1.5 * chance.random())
                os.killpg(process.pid, signal.SIGKILL)
                done += 1
            progress(f"kill {done} of {count}: {len(acknowledged):,} events acknowledged")
        with server(models, store, 1, port) as (_, _):
            time.sleep(1.0)
            stop.set()
            for writer in writers:
                writer.join()
            lost, twice, wrong = _check(port, acknowledged, Recommender(load_artifact(models / "v1")))
    finally:
        stop.set()
    return {
        "kills": done,
        "workers": workers,
        "acknowledged events": len(acknowledged),
        "lost": lost,
        "stored twice": twice,
        f"of {WRITTEN_USERS} users with another answer than the library's": wrong,
        "slowest start s": round(slowest, 1),
    }


def _is_worker(pid: int) -> bool:
    """Whether a process is a worker, and not the helper of multiprocessing that watches for leaks."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _write(port: int, number: int, acknowledged: set[str], stop: threading.Event) -> None:
    chance, count = random.Random(number), 0  # noqa: S311 - not a secret
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False) as client:  # noqa: S501 - loopback
        while not stop.is_set():
            events = []
            for _ in range(chance.randrange(1, 20)):
                count += 1
                item, moment = f"i{chance.randrange(ITEMS)}", chance.randrange(10**9)
                event = {"event_id": f"{number}-{count}", "user_id": f"u{chance.randrange(WRITTEN_USERS)}", "item_id": item}
                events.append(event | {"timestamp": moment})
            while not stop.is_set():
                try:
                    if client.post("/v1/events", json={"events": events}).status_code == 200:
                        acknowledged.update(str(event["event_id"]) for event in events)
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.05)


def _check(port: int, acknowledged: set[str], recommender: Recommender) -> tuple[int, int, int]:
    stored, wrong = [], 0
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, verify=False) as client:  # noqa: S501 - loopback
        for user in (f"u{number}" for number in range(WRITTEN_USERS)):
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
            wrong += not _same(client, user, [event["item_id"] for event in events], recommender)
    return len(acknowledged - set(stored)), len(stored) - len(set(stored)), wrong


def _same(client: httpx.Client, user: str, history: list[str], recommender: Recommender, k: int = 10) -> bool:
    """Whether the service answers as the library does on a history."""
    answer, expected = client.get(f"/v1/users/{user}/recommendations", params={"k": k}).json(), recommender.recommend(history, k)
    scores = [item["score"] for item in answer["items"]], [each.score for each in expected.items]
    same = [item["item_id"] for item in answer["items"]] == [each.item for each in expected.items]
    return same and bool(np.allclose(*scores, rtol=1e-5, atol=1e-5))


def interleaved(models: Path, store: str, rounds: int, workers: int, progress: Any) -> dict[str, Any]:
    """Write and read the same users by turns; either worker takes each request."""
    recommender = Recommender(load_artifact(models / "v1"))
    chance, wrong, processes = random.Random(1), 0, set()  # noqa: S311 - not a secret
    histories: dict[str, list[str]] = {f"w{number}": [] for number in range(10)}
    with server(models, store, workers) as (_, port):
        options: dict[str, Any] = {"timeout": 60, "verify": False, "headers": {"Connection": "close"}}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", **options) as client:
            for turn in range(rounds):
                user, item = chance.choice(list(histories)), f"i{chance.randrange(ITEMS)}"
                answer = client.post("/v1/events", json={"events": [{"user_id": user, "item_id": item}]})
                answer.raise_for_status()
                processes.add(answer.headers["x-process"])
                histories[user].append(item)
                wrong += not _same(client, user, histories[user], recommender)
                if turn % 100 == 99:
                    progress(f"{turn + 1} of {rounds} writes and reads, {wrong} wrong answers")
    return {"writes and reads": rounds, "workers": workers, "processes that answered": len(processes), "wrong answers": wrong}


def fuzz(models: Path, store: str, requests: int, progress: Any) -> dict[str, Any]:
    """Send requests that the API's own description allows and forbids; the checks are those of the test of the contract."""
    use_tests()
    import schemathesis
    from test_contract import ROUTES
    from test_contract import fuzz as run

    sent: dict[str, int] = {}
    with server(models, store, max_k=1000) as (_, port):
        address = f"http://127.0.0.1:{port}"
        for mode in schemathesis.GenerationMode:
            examples = max(1, requests // ROUTES // 2)
            while sum(sent.values()) < requests and sent.get(mode.value, 0) < requests // 2:
                sent[mode.value] = sent.get(mode.value, 0) + run(address, examples, mode)
                progress(f"{sum(sent.values()):,} of {requests:,} requests")
                examples *= 2  # routes without parameters have few different requests; the others get more
    return {"requests": sum(sent.values()), **{f"{name} requests": count for name, count in sent.items()}, "violations": 0}
