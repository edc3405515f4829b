"""States that are read before somebody asks: those of recently active users, while requests are answered."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from starlette.testclient import TestClient

from service_world import default_recommender, running, same_answer, save_model, send
from ssd4rec.data.interactions import read_interactions
from ssd4rec.service import lifecycle
from ssd4rec.service.importing import import_events
from ssd4rec.service.store.connect import StoreError, open_engine, reading
from ssd4rec.service.store.schema import migrate
from ssd4rec.service.store.users import recent_users
from ssd4rec.serving.recommender import Recommender

USERS = [f"u{number}" for number in range(20)]  # u0 was active last


def history(user: str) -> list[str]:
    number = USERS.index(user)
    return [f"i{number % 12}", "i3", f"i{(number + 5) % 12}"]


def fill(store: str) -> None:
    """Import the histories of all users."""
    rows = [
        (user, item, 1_700_000_000 - 100 * USERS.index(user) + place)
        for user in USERS
        for place, item in enumerate(history(user))
    ]
    engine = open_engine(store)
    migrate(engine)
    import_events(engine, read_interactions(pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")))
    engine.dispose()


@contextmanager
def warmed_later(models: Path, store: str, **settings: object) -> Iterator[TestClient]:
    """A service that reads no state before it answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle, "START_SHARE", float("inf"))
        with running(models, store, **settings) as client:
            yield client


def wait_until_warm(client: TestClient) -> None:
    deadline = time.monotonic() + 60
    while client.app.state.service.warming.is_working:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def cached(client: TestClient) -> set[str]:
    return set(client.app.state.service.models.active.states.recent())


def test_imported_users_are_recent_by_their_events(store: str) -> None:
    fill(store)
    engine = open_engine(store)
    with reading(engine) as connection:
        assert recent_users(connection, 5) == USERS[:5]
    engine.dispose()


def test_an_older_import_does_not_make_a_user_less_recent(models: Path, store: str) -> None:
    with running(models, store) as client:
        send(client, "u7", "i1")
    fill(store)
    engine = open_engine(store)
    with reading(engine) as connection:
        assert recent_users(connection, 3) == ["u7", "u0", "u1"]
    engine.dispose()


def test_states_of_imported_users_are_read_in_the_background(
    models: Path, store: str, recommender: Recommender, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store)
    with caplog.at_level(logging.INFO, "ssd4rec"), warmed_later(models, store, warm_users=15, warm_share=0.9) as client:
        wait_until_warm(client)
        assert cached(client) == set(USERS[:15])
        assert "ssd4rec_users_to_warm 0.0" in client.get("/metrics").text
        reread = 'ssd4rec_state_reads_total{kind="reread"}'
        before = [line for line in client.get("/metrics").text.splitlines() if line.startswith(reread)]
        for user in USERS[:15]:
            same_answer(client.get(f"/v1/users/{user}/recommendations").json(), recommender.recommend(history(user)))
        assert before == [line for line in client.get("/metrics").text.splitlines() if line.startswith(reread)]
    assert "the states of 15 of 15 recently active users were read in" in caplog.text


def test_without_a_share_nothing_is_read_in_the_background(models: Path, store: str) -> None:
    fill(store)
    with warmed_later(models, store, warm_share=0) as client:
        assert client.app.state.service.warming is None
        assert len(client.app.state.service.models.active.unread) == len(USERS)
        assert cached(client) == set()


def test_reading_waits_for_requests_and_survives_an_outage(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    fill(store)
    with warmed_later(models, store, warm_share=0.9, snapshot_events=None) as client:
        service = client.app.state.service
        waits, read = service.scorer.call(lambda: time.sleep(0.5)), service.models.active.states.read_together
        failures = [StoreError("store_unavailable", "away")]

        def fail_once(*arguments: object) -> None:
            if failures:
                raise failures.pop()
            read(*arguments)

        monkeypatch.setattr(service.models.active.states, "read_together", fail_once)
        waits.result()
        wait_until_warm(client)
        assert not failures
        assert cached(client) == set(USERS)


def test_reading_ends_with_the_memory_and_with_the_model(tmp_path: Path) -> None:
    folder, store = tmp_path / "models", f"sqlite:///{tmp_path / 'events.db'}"
    for version, seed in (("v1", None), ("v2", 1)):
        save_model(folder / version, default_recommender(), seed=seed)
    (folder / "active.json").write_text('{"version": "v1"}', encoding="utf-8")
    fill(store)
    with warmed_later(folder, store, warm_share=0.01, snapshot_events=None) as client:
        service = client.app.state.service
        old, old.states._limit = service.models.active, 20_000
        deadline = time.monotonic() + 60
        while old.unread:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert 0 < len(old.states) < len(USERS)
        assert old.states.bytes <= 20_000
        old.unread = USERS
        service.models.switch("v2", force=True)
        assert cached(client) == set(USERS)  # read before it answered
        while service.warming.is_working:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert len(old.states) < len(USERS)
