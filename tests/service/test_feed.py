"""GET /v1/live: what is stored is streamed, once, to every reader; the stream ends with the service."""

import asyncio
import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from service_world import server
from ssd4rec.service import feed as feeds
from ssd4rec.service.feed import BUFFERED, Feed, LiveFeed, Message
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.schema import migrate


def follow(address: str, limit: int, received: list[tuple[str, dict[str, object]]]) -> None:
    with httpx.stream("GET", f"{address}/v1/live?limit={limit}", timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                received.append((kind, json.loads(line.removeprefix("data: "))))


@pytest.mark.slow
def test_events_and_answers_are_streamed_and_the_stream_ends_with_the_service(models: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    with server(models, store) as (process, address):
        received: list[tuple[str, dict[str, object]]] = []
        thread = threading.Thread(target=follow, args=(address, 3, received))
        thread.start()
        time.sleep(1.0)
        events = [{"user_id": "ann", "item_id": "i1", "timestamp": 1_767_200_000}, {"user_id": "ann", "item_id": "x"}]
        httpx.post(f"{address}/v1/events", json={"events": events})
        httpx.get(f"{address}/v1/users/ann/recommendations?k=3")
        thread.join(30)
        assert [kind for kind, _ in received] == ["interaction", "interaction", "answer"]
        first, second, answer = (body for _, body in received)
        assert (first["user_id"], first["item_id"], first["title"], first["timestamp"]) == ("ann", "i1", "Item 1", 1_767_200_000)
        assert (second["item_id"], second["title"]) == ("x", None)
        assert (answer["user_id"], answer["source"], len(answer["items"])) == ("ann", "model", 3)
        open_ended = threading.Thread(target=follow, args=(address, 1000, []))
        open_ended.start()
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)  # without the signal's handler: 30 seconds
        except subprocess.TimeoutExpired:
            pytest.fail("an open stream kept the service from stopping")
        open_ended.join(10)


def message(number: int) -> Message:
    return Message("interaction", (number,), number, {"item_id": "i1"})


def test_a_slow_reader_loses_the_oldest_messages_and_is_told_how_many() -> None:
    feed = Feed()
    feed.put([message(number) for number in range(BUFFERED)])
    feed.put([message(BUFFERED), message(BUFFERED + 1)])
    assert (len(feed.waiting), feed.waiting[0].received, feed.dropped) == (BUFFERED, 2, 2)


def test_each_row_is_sent_once_though_it_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.01)
    engine = open_engine(f"sqlite:///{tmp_path / 'events.db'}")
    migrate(engine)
    rows: list[Message] = []
    feed = LiveFeed(engine)
    monkeypatch.setattr(feed, "_read", lambda *_: list(rows))

    async def run() -> list[int]:
        numbers = []
        async for messages, _ in feed.messages(0.05):
            numbers += [each.received for each in messages]
            rows.append(message(feeds.now() + len(rows)))
            if len(rows) == 6:
                feed.close()
        return numbers

    numbers = asyncio.run(run())
    engine.dispose()
    assert len(numbers) == len(set(numbers)) >= 4
