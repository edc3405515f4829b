"""What does the service hold? Each part is one command, and adds its section to results/service/results.json and report.md.

    python benchmarks/bench_service.py load              open-loop load next to a bare FastAPI route; states cold, hot, swapped
    python benchmarks/bench_service.py ingest            acknowledged events/s in batches
    python benchmarks/bench_service.py kills --kills 20  SIGKILL under load, then every promise is checked
    python benchmarks/bench_service.py workers           two workers on PostgreSQL, writes and reads of the same users by turns
    python benchmarks/bench_service.py fuzz --requests 10000
    python benchmarks/bench_service.py soak --minutes 60
    python benchmarks/bench_service.py all               all but the soak

An untrained model with the options of the default preset (fading sum, repeat logits, score fusion; 12,000 items, D = 64) in
front of users with 10 to 10,000 events; one event to four recommendations. Server and load generator share the machine.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from common import RESULTS, arguments, where
from service_faults import fuzz, interleaved, kills
from service_load import REFUSED, Connections, Outcome, Request, get, open_loop, post
from service_servers import ITEMS, USERS, bare, cpu_seconds, fill, make_models, memory, server, use_tests
from ssd4rec._io import write_atomically
from ssd4rec.service.store.connect import open_engine, reading

FOLDER = RESULTS / "service"
INGEST_CONNECTIONS = 4
SWAP_SECONDS = 90.0  # of the load during which a model is swapped, at least
SLICE = 30.0  # seconds of the soak between two measurements

Rows = list[dict[str, Any]]


def main() -> None:
    """Run parts and publish their sections."""
    options = arguments(__doc__, _add)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end too
    parts = [name for name in PARTS if name != "soak"] if options.part == "all" else [options.part]
    print(f"about {sum(_estimate(part, options) for part in parts) / 60:.0f} minutes on an idle machine", flush=True)
    for part in parts:
        with tempfile.TemporaryDirectory() as temporary:
            began, before = time.perf_counter(), os.getloadavg()[0]
            rows, notes = PARTS[part](Path(temporary), options)
            notes.append(f"{time.perf_counter() - began:.0f} s; load average {before:.1f} before, {os.getloadavg()[0]:.1f} after")
        _publish(part, rows, notes, options)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--rates", type=float, nargs="+", default=[200.0, 50.0, 100.0, 400.0])
    parser.add_argument("--overload", type=float, default=800.0, help="requests a second that cannot be answered")
    parser.add_argument("--batch", type=int, default=500, help="events of a request of the ingest")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1000, help="writes and reads by turns")
    parser.add_argument("--requests", type=int, default=10_000, help="of the fuzzer")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the soak")
    parser.add_argument("--workers", type=int, default=1, help="processes; 2 for the part `workers`")
    parser.add_argument("--postgresql", action="store_true", help="a temporary PostgreSQL server in place of SQLite")


def _estimate(part: str, options: argparse.Namespace) -> float:
    """Seconds."""
    loads = 2 * len(options.rates) + 4.25
    return {
        "load": loads * options.seconds + 60,
        "ingest": options.seconds + 30,
        "kills": options.kills * 9 + 30,
        "workers": options.rounds * 0.03 + 30,
        "fuzz": options.requests * 0.03 + 30,
        "soak": options.minutes * 60 + 60,
    }[part]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _store(folder: Path, *, postgresql: bool) -> Iterator[str]:
    """The address of an empty store."""
    if not postgresql:
        yield f"sqlite:///{folder / 'events.db'}"
        return
    use_tests()
    from service_world import PostgresServer

    database = PostgresServer()
    try:
        yield database.new_database()
    finally:
        database.close()


def _load(folder: Path, options: argparse.Namespace) -> tuple[Rows, list[str]]:
    """Open-loop load; the yardstick is measured at each rate, next to the service."""
    models, rows, notes = make_models(folder), [], []
    with _store(folder, postgresql=options.postgresql) as store:
        users, note = fill(store)
        mixed = _mixed(users)
        with server(models, store, options.workers) as service, bare() as yardstick:
            first = options.rates[0]
            used = [memory(service[0].pid)]
            rows.append(_measured("cold states, nothing stored", service, first, options.seconds, mixed))
            _touch(service[1], users)
            used.append(memory(service[0].pid))
            for seed, rate in enumerate(options.rates, 1):
                plain = _measured("bare FastAPI route", yardstick, rate, options.seconds, lambda _: ("bare", get("/")))
                row = _measured("hot states", service, rate, options.seconds, mixed, seed)
                row["CPU / bare"] = f"{float(row['CPU ms/request']) / max(0.01, float(plain['CPU ms/request'])):.1f}"
                rows += [plain, row]
            used.append(memory(service[0].pid))
            with server(models, store, options.workers, keep_answers="false") as other:
                _touch(other[1], users)
                rows.append(_measured("hot states, every answer scored", other, first, options.seconds, mixed, seed=1))
            _touch(service[1], users)  # the other server has written events
            rows.append(_measured("overload", service, options.overload, options.seconds / 4, mixed, seed=98))
            seconds = max(options.seconds, SWAP_SECONDS)
            swap = threading.Timer(SWAP_SECONDS / 12, _activate, (service[1], notes))
            swap.start()
            rows.append(_measured("model swapped during the load", service, first, seconds, mixed, seed=99))
            swap.join()
            used.append(memory(service[0].pid))
        with server(models, store, options.workers, warm_users=0) as service:
            rows.append(_measured("cold states, snapshots stored", service, first, options.seconds, mixed, seed=97))
        notes.append(_size_of_snapshots(store))
    shown = " -> ".join(f"{each:,.0f}" for each in used)
    return rows, [note, *notes, f"memory of the server in MiB: {shown} (start, cold load, hot loads, swap)"]


def _activate(port: int, notes: list[str]) -> None:
    began = time.perf_counter()
    httpx.post(f"http://127.0.0.1:{port}/v1/models/v2/activate?force=true", timeout=300).raise_for_status()
    notes.append(f"the swap took {time.perf_counter() - began:.1f} s, most of it to read the states of active users")


def _size_of_snapshots(store: str) -> str:
    engine = open_engine(store)
    with reading(engine) as connection:
        query = "SELECT model, COUNT(*), SUM(LENGTH(state)), MIN(LENGTH(state)), MAX(LENGTH(state)) FROM snapshots GROUP BY model"
        rows = connection.exec_driver_sql(query).all()
    engine.dispose()
    shown = [
        f"{count} users, {total / count / 1024:.1f} KiB each ({low:,} to {high:,} bytes)" for _, count, total, low, high in rows
    ]
    return f"snapshots of each model: {'; '.join(shown)}"


def _mixed(users: Sequence[str]) -> Callable[[random.Random], tuple[str, Request]]:
    """One event to four recommendations."""

    def make(chance: random.Random) -> tuple[str, Request]:
        user = chance.choice(users)
        if chance.random() < 0.2:
            return "event", post("/v1/events", {"events": [{"user_id": user, "item_id": f"i{chance.randrange(ITEMS)}"}]})
        return "recommendation", get(f"/v1/users/{user}/recommendations?k=10")

    return make


def _touch(port: int, users: Sequence[str]) -> None:
    """Let the server read every user once."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, verify=False) as client:  # noqa: S501 - loopback
        for user in users:
            client.get(f"/v1/users/{user}/recommendations").raise_for_status()


def _measured(
    state: str,
    target: tuple[subprocess.Popen[bytes], int],
    rate: float,
    seconds: float,
    make: Callable[[random.Random], tuple[str, Request]],
    seed: int = 0,
) -> dict[str, Any]:
    process, port = target
    before = cpu_seconds(process.pid)
    outcome: Outcome = asyncio.run(open_loop(port, rate, seconds, make, seed))
    spent = cpu_seconds(process.pid) - before
    row = {
        "load": state,
        "req/s": f"{rate:g}",
        "p50 ms": f"{outcome.percentile(0.5):.1f}",
        "p99 ms": f"{outcome.percentile(0.99):.1f}",
        "p99.9 ms": f"{outcome.percentile(0.999):.1f}",
        "CPU ms/request": f"{1e3 * spent / max(1, outcome.answered):.2f}",
        "p99 ms of the generator": f"{outcome.delay(0.99):.1f}",
        "answered": outcome.answered,
        "not answered with 200": outcome.failures + sum(outcome.statuses.values()) - outcome.answered,
    }
    if outcome.statuses.get(503):
        row["refused with 503"] = outcome.statuses[503]
        row["p99 ms of refusals"] = f"{outcome.percentile(0.99, REFUSED):.1f}"
    _say(", ".join(f"{name} {value}" for name, value in row.items()))
    return row


def _ingest(folder: Path, options: argparse.Namespace) -> tuple[Rows, list[str]]:
    async def run(port: int) -> tuple[int, float]:
        connections, accepted, began = Connections(port), 0, time.perf_counter()

        async def one(number: int) -> None:
            nonlocal accepted
            chance, count = random.Random(number), 0  # noqa: S311 - not a secret
            while time.perf_counter() < began + options.seconds:
                events = []
                for _ in range(options.batch):
                    count += 1
                    user = f"u{chance.randrange(10_000)}"
                    events.append({"event_id": f"{number}-{count}", "user_id": user, "item_id": f"i{chance.randrange(ITEMS)}"})
                status, body = await connections.send(post("/v1/events", {"events": events}))
                accepted += json.loads(body)["accepted"] if status == 200 else 0

        await asyncio.gather(*(one(number) for number in range(INGEST_CONNECTIONS)))
        connections.close()
        return accepted, time.perf_counter() - began

    models, rows = make_models(folder), []
    with _store(folder, postgresql=options.postgresql) as store:
        for share in (0.1, 0.0):  # with and without prequential metrics
            with server(models, store, options.workers, prequential_share=share) as (process, port):
                before = cpu_seconds(process.pid)
                accepted, seconds = asyncio.run(run(port))
                spent = cpu_seconds(process.pid) - before
            rows.append(
                {
                    "prequential metrics": "on" if share else "off",
                    "acknowledged events/s": f"{accepted / seconds:,.0f}",
                    "events": accepted,
                    "CPU us/event": f"{1e6 * spent / max(1, accepted):.0f}",
                    "batch": options.batch,
                    "connections": INGEST_CONNECTIONS,
                }
            )
    return rows, ["the store grows from empty; the second row adds to the events of the first"]


def _kills(folder: Path, options: argparse.Namespace) -> tuple[Rows, list[str]]:
    with _store(folder, postgresql=options.postgresql) as store:
        row = kills(make_models(folder), store, options.kills, options.workers, _say)
    return [{"store": "PostgreSQL" if options.postgresql else "SQLite", **row}], []


def _workers(folder: Path, options: argparse.Namespace) -> tuple[Rows, list[str]]:
    with _store(folder, postgresql=True) as store:
        return [interleaved(make_models(folder), store, options.rounds, max(2, options.workers), _say)], []


def _fuzz(folder: Path, options: argparse.Namespace) -> tuple[Rows, list[str]]:
    with _store(folder, postgresql=options.postgresql) as store:
        return [fuzz(make_models(folder), store, options.requests, _say)], ["a violation would have ended the run"]


def _soak(folder: Path, options: argparse.Namespace) -> tuple[Rows, list[str]]:
    models, rows, rate = make_models(folder), [], options.rates[0]
    with _store(folder, postgresql=options.postgresql) as store:
        users, note = fill(store)
        with server(models, store, options.workers) as service:
            _touch(service[1], users)
            began = time.perf_counter()
            while (elapsed := time.perf_counter() - began) < options.minutes * 60:
                seconds = min(SLICE, options.minutes * 60 - elapsed)
                row = _measured("soak", service, rate, seconds, _mixed(users), seed=len(rows))
                minute = round((time.perf_counter() - began) / 60, 1)
                rows.append({"minute": minute, "memory MiB": f"{memory(service[0].pid):,.0f}", **row})
    return rows, [note, f"{USERS} users; memory is the resident memory of the server"]


PARTS: dict[str, Callable[[Path, argparse.Namespace], tuple[Rows, list[str]]]] = {
    "load": _load,
    "ingest": _ingest,
    "kills": _kills,
    "workers": _workers,
    "fuzz": _fuzz,
    "soak": _soak,
}


def _publish(part: str, rows: Rows, notes: list[str], options: argparse.Namespace) -> None:
    """Print a section; with --save put it in place of the earlier one of the same name."""
    name = (
        (f"{part} of {options.minutes:g} minutes" if part == "soak" else part)
        + (" on PostgreSQL" if options.postgresql else "")
        + (f" with {options.workers} workers" if options.workers > 1 else "")
    )
    section = {**where("bench_service"), "threads": options.threads, "cores": os.cpu_count(), "rows": rows, "notes": notes}
    print(_report({name: section}))
    if options.save:
        file = FOLDER / "results.json"
        sections = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        sections[name] = section
        FOLDER.mkdir(exist_ok=True)
        write_atomically(file, json.dumps(sections, indent=1) + "\n")
        write_atomically(FOLDER / "report.md", "# The service under load and faults\n\n" + _report(sections))


def _report(sections: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, section in sections.items():
        rows = section["rows"]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        place = ", ".join(f"{key} {value}" for key, value in section.items() if key not in {"rows", "notes", "bench"})
        lines += [f"## {name}", "", place, "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
        lines += ["", *(f"* {note}" for note in section["notes"]), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
