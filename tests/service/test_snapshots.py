"""Snapshots: answers from them are those of the library, and nothing of a removed event is left in them."""

import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient

from service_world import default_recommender, preset_recommender, running, same_answer, save_model, send, stored_history
from ssd4rec.service.answering import Query
from ssd4rec.service.ids import now
from ssd4rec.service.schemas import RecommendationsIn
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.snapshots import pack, unpack
from ssd4rec.service.store.connect import open_engine, reading, writing
from ssd4rec.service.store.removal import DAY
from ssd4rec.service.store.snapshots import Snapshot, remove_unused_snapshots, save_snapshots
from ssd4rec.serving.recommender import Recommender

FEWEST = 3
KINDS = {
    "plain": default_recommender,
    "default preset": preset_recommender,
    "max_length": lambda: preset_recommender("max_length"),  # reads the last events again
}


def save_all(client: TestClient) -> None:
    """Store all snapshots that wait."""
    service = client.app.state.service
    for loaded in service.models.every():
        service.snapshots.store(loaded, idle_seconds=0.0)


def saved(store: str, expected: int) -> list[Any]:
    """Wait for snapshots: the thread of the service may be storing those that `save_all` did not find any more."""
    deadline = time.monotonic() + 20
    while len(stored := rows(store)) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(stored) == expected
    return stored


def rows(store: str, query: str = "SELECT user_key, generation, position FROM snapshots") -> list[Any]:
    engine = create_engine(store)
    with engine.connect() as connection:
        result = list(connection.execute(text(query)))
    engine.dispose()
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_state_is_the_same_state(kind: str) -> None:
    model = ServedModel("v", Path(), KINDS[kind]())
    state = model.read(np.array([3, 0, 5, 1, 3]))
    again = unpack(pack(state), model)
    new = np.array([2, 7])
    for one, other in ((state, again), (model.step(state, new), model.step(again, new))):
        assert one.indices.tolist() == other.indices.tolist()
        np.testing.assert_array_equal(one.vector.numpy(), other.vector.numpy())
    assert unpack(b"nonsense", model) is None
    assert unpack(pack(state)[:-8], model) is None


@pytest.mark.parametrize("kind", KINDS)
def test_histories_read_together_are_those_read_alone(kind: str) -> None:
    model = ServedModel("v", Path(), KINDS[kind]())
    histories = [np.array(each, dtype=np.int64) for each in ([3, 0, 5, 1], [], [0, 0], [7], [2, 2, 9, 4, 11, 6])]
    new = np.array([2, 7])
    for some in (histories, histories[:2], histories[1:3]):
        for together, indices in zip(model.read_together(some), some, strict=True):
            alone = model.read(indices)
            for one, other in ((together, alone), (model.step(together, new), model.step(alone, new))):
                assert one.indices.tolist() == other.indices.tolist()
                assert (one.vector is None) == (other.vector is None)
                if one.vector is not None:
                    np.testing.assert_allclose(one.vector.numpy(), other.vector.numpy(), rtol=1e-9, atol=1e-9)


def test_waiting_requests_are_read_together(models: Path, tmp_path: Path, recommender: Recommender) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    with running(models, store, prequential_share=0.0) as client:
        histories = {f"u{number}": [f"i{number}", "i3", "nothing", f"i{number + 2}"] for number in range(5)}
        for user, history in histories.items():
            send(client, user, *history)
        service = client.app.state.service
        busy = service.scorer.call(lambda: time.sleep(0.2))
        answers = {
            user: service.scorer.submit(Query(RecommendationsIn(user_id=user, k=4), now())) for user in [*histories, "nobody"]
        }
        busy.result()
        for user, answer in answers.items():
            expected = recommender.recommend(histories.get(user, []), 4)
            assert [row.item_id for row in answer.result().rows] == [each.item for each in expected.items]
        assert len(service.models.active.states) == len(histories)


def test_what_a_state_depends_on_is_in_the_identity(tmp_path: Path) -> None:
    identities = []
    for number, (seed, prefix) in enumerate([(None, "i"), (None, "i"), (1, "i"), (None, "j")]):
        save_model(tmp_path / str(number), default_recommender(), prefix=prefix, seed=seed)
        identities.append(ServedModel("v", Path(), Recommender.load(tmp_path / str(number))).identity)
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3


def test_a_restart_reads_the_snapshot_and_newer_events(models: Path, store: str, recommender: Recommender) -> None:
    with running(models, store, snapshot_events=FEWEST, prequential_share=0.0) as client:
        send(client, "u", "i1", "i2", "i3")
        send(client, "few", "i4")
        for user in ("u", "few"):
            client.get(f"/v1/users/{user}/recommendations")
        save_all(client)
        send(client, "u", "i9")
    ((_, _, position),) = rows(store)
    assert position == 3
    with running(models, store, snapshot_events=FEWEST, warm_users=0) as client:
        before = reads(client)
        same_answer(client.get("/v1/users/u/recommendations").json(), recommender.recommend(["i1", "i2", "i3", "i9"]))
        assert reads(client) == {**before, "step": before["step"] + 1}
        client.get("/v1/users/few/recommendations")
        assert reads(client)["reread"] == before["reread"] + 1
    ((_, _, position),) = rows(store)
    assert position == 4  # stored when the service stopped


def reads(client: TestClient) -> dict[str, float]:
    """How states were read so far, by kind."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("ssd4rec_state_reads_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


@pytest.mark.thorough
def test_missing_snapshots_are_made(models: Path, store: str) -> None:
    with running(models, store, snapshot_events=None) as client:
        send(client, "long", *["i1", "i2", "i3"] * 3)
        send(client, "short", "i1")
    assert rows(store) == []
    with running(models, store, snapshot_events=FEWEST, warm_users=0) as client:
        client.app.state.service.snapshots._make_missing()
        assert len(rows(store)) == 1
        assert len(client.app.state.service.models.active.states) == 0


@pytest.mark.thorough
def test_erasure_and_retention_remove_snapshots(models: Path, store: str, recommender: Recommender) -> None:
    with running(models, store, snapshot_events=FEWEST, retention_events=4) as client:
        for user in ("u", "v"):
            send(client, user, "i1", "i2", "i3", "i4", "i5")
            client.get(f"/v1/users/{user}/recommendations")
        states = client.app.state.service.models.active.states
        engine, model = open_engine(store), states.model.identity
        with reading(engine) as connection:
            entries = [states.read_aside(connection, user) for user in ("u", "v")]
        late = [Snapshot(*entry.read, pack(entry.state)) for entry in entries]
        client.delete("/v1/users/u")
        client.app.state.service.maintenance.remove_old()
        with writing(engine) as connection:
            save_snapshots(connection, model, late)  # one user was erased, the other trimmed
        assert rows(store) == []
        client.get("/v1/users/v/recommendations")
        save_all(client)
        saved(store, 1)
        send(client, "v", "i6")
        client.app.state.service.maintenance.remove_old()
        assert rows(store) == []
        same_answer(client.get("/v1/users/v/recommendations").json(), recommender.recommend(["i3", "i4", "i5", "i6"]))
        save_all(client)
        saved(store, 1)
        with writing(engine) as connection:
            connection.execute(text("UPDATE snapshots SET created = :old"), {"old": now() - 2 * DAY})
            assert remove_unused_snapshots(connection, [model]) == 0
            assert remove_unused_snapshots(connection, []) == 1
        engine.dispose()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_events_erasures_restarts_and_swaps(kind: str, tmp_path: Path, store: str) -> None:
    """Compare answers with the library's after random actions; each round is a process."""
    folder, library = tmp_path / "models", {}
    for version, seed in (("v1", None), ("v2", 5)):
        save_model(folder / version, KINDS[kind](), seed=seed)
        library[version] = Recommender.load(folder / version)
    (folder / "active.json").write_text('{"version": "v1"}', encoding="utf-8")
    chance, active = random.Random(kind), "v1"  # noqa: S311 - not a secret
    for _ in range(4):
        with running(folder, store, snapshot_events=FEWEST, warm_users=chance.choice([0, 10])) as client:
            for _ in range(25):
                user, action = f"u{chance.randrange(3)}", chance.random()
                if action < 0.45:  # some timestamps are late
                    items = [f"i{chance.randrange(14)}" for _ in range(chance.choice([1, 1, 2, 12]))]
                    send(client, user, *items, timestamp=now() / 1e6 - chance.choice([0, 0, 0, 50]))
                elif action < 0.5:
                    client.delete(f"/v1/users/{user}")
                elif action < 0.6:
                    save_all(client)
                elif action < 0.65:
                    active = {"v1": "v2", "v2": "v1"}[active]
                    assert client.post(f"/v1/models/{active}/activate?force=true").status_code == 200
                else:
                    seen = chance.random() < 0.5
                    history = stored_history(client, user) if client.get(f"/v1/users/{user}").status_code == 200 else []
                    answer = client.get(f"/v1/users/{user}/recommendations", params={"k": 5, "exclude_seen": seen}).json()
                    same_answer(answer, library[active].recommend(history, 5, exclude_seen=seen))
            if chance.random() < 0.3:  # as after a crash: what waits is lost
                for loaded in client.app.state.service.models.every():
                    loaded.states.take_changed(0.0, 10)
    shutil.rmtree(folder)
