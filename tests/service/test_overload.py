"""More requests than can be answered: some are refused at once, nobody waits for long."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service_world import WALK, running, send
from ssd4rec.service.answering import Query
from ssd4rec.service.ids import now
from ssd4rec.service.middleware import RequestGate
from ssd4rec.service.overload import Backlog, Overload, queue_length
from ssd4rec.service.problems import Problem
from ssd4rec.service.schemas import RecommendationsIn
from ssd4rec.service.scorer import Scorer


def test_requests_beyond_the_limit_are_refused_at_once() -> None:
    async def run() -> None:
        release, entered = asyncio.Event(), 0

        async def app(scope: Any, _: Any, send: Any) -> None:
            nonlocal entered
            entered += 1
            if scope["path"] == "/slow":
                await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        gate: Any = RequestGate(app, 1000, Overload(3), log_requests=False)
        transport = httpx.ASGITransport(gate)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            slow = [asyncio.create_task(client.get("/slow")) for _ in range(3)]
            while entered < 3:
                await asyncio.sleep(0)
            refused = await client.get("/slow")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["code"] == "queue_full"
            assert entered == 3
            assert (await client.get("/health/live")).status_code == 200
            release.set()
            assert [each.status_code for each in await asyncio.gather(*slow)] == [200] * 3
            assert (await client.get("/slow")).status_code == 200

    asyncio.run(run())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how many connections wait")
def test_connections_that_are_not_accepted_yet_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd4rec.service.overload.EVERY_SECONDS", 3600.0)
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        before = Backlog().waiting
        waiting = [socket.create_connection(listener.getsockname()) for _ in range(5)]
        backlog = Backlog()
        assert (queue_length(listener.fileno()), backlog.waiting) == (5, before + 5)
        accepted, _ = listener.accept()
        assert queue_length(listener.fileno()) == 4
        assert backlog.waiting == before + 5  # it does not look each time
        monkeypatch.setattr("ssd4rec.service.overload.EVERY_SECONDS", 0.0)
        assert backlog.waiting == before + 4
        for each in (accepted, *waiting):
            each.close()


def test_a_backlog_refuses_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async def app(_: Any, __: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        gate: Any = RequestGate(app, 1000, Overload(3), log_requests=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://127.0.0.1") as client:
            for waiting, status in ((2, 200), (3, 503), (0, 200)):
                monkeypatch.setattr(Backlog, "waiting", waiting)
                assert (await client.get("/")).status_code == status
            monkeypatch.setattr(Backlog, "waiting", 1000)
            assert (await client.get("/health/live")).status_code == 200

    asyncio.run(run())


def test_a_history_that_waited_too_long_is_not_read(models: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    with running(models, store, queue_seconds=0.2, prequential_share=0.0) as client:
        send(client, "u", *WALK)
        scorer = client.app.state.service.scorer
        busy = keep_busy(scorer)
        late = scorer.submit(Query(RecommendationsIn(user_id="u", k=3), now()))
        with pytest.raises(Problem, match="waited") as refused:
            late.result()
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        busy.result()
        assert scorer.submit(Query(RecommendationsIn(user_id="u", k=3), now())).result().best.source == "model"
        keep_busy(scorer)
        assert (
            scorer.submit(Query(RecommendationsIn(user_id="u", k=3), now())).result().best.source == "model"
        )  # late, but its history has been read


def test_more_histories_than_may_wait(models: Path, tmp_path: Path) -> None:
    with running(models, f"sqlite:///{tmp_path / 'events.db'}", queue_requests=2) as client:
        scorer = client.app.state.service.scorer
        scorer.call(lambda: time.sleep(0.1))
        outcomes = [refusal(lambda: scorer.submit(Query(RecommendationsIn(user_id="u", k=3), now()))) for _ in range(4)]
        assert "queue_full" in outcomes
        assert shed(client, "scorer") >= 1


def keep_busy(scorer: Scorer) -> "Future[None]":
    """Keep the scoring thread busy for 0.4 s from now."""
    started = threading.Event()

    def work() -> None:
        started.set()
        time.sleep(0.4)

    future = scorer.call(work)
    assert started.wait(10)
    return future


def refusal(work: Callable[[], object]) -> str | None:
    """Return the code with which a call is refused, if it is."""
    try:
        work()
    except Problem as problem:
        return problem.code
    return None


def shed(client: TestClient, queue: str) -> float:
    """Return how many requests a queue refused."""
    name = f'ssd4rec_shed_total{{queue="{queue}"}}'
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(lines[0].split()[-1]) if lines else 0.0
