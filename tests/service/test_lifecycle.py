"""Model versions: swapped under load without an error, followed by other processes, each page from its own model."""

import json
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service_world import default_recommender, running, same_answer, save_model, send
from ssd4rec.service.answering import LoadedModel
from ssd4rec.serving.recommender import Recommender

HISTORY = ["i3", "i4", "i5"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two versions; the first one is active."""
    folder = tmp_path / "models"
    save_model(folder / "v1", default_recommender())
    save_model(folder / "v2", default_recommender(), seed=1)
    (folder / "active.json").write_text('{"version": "v1"}')
    return folder


def wait_for(client: TestClient, version: str) -> None:
    deadline = time.monotonic() + 60
    while client.get("/health/ready").json().get("model") != version:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.thorough
def test_a_swap_under_load_costs_no_request(folder: Path, store: str) -> None:
    expected = {version: Recommender.load(folder / version).recommend(HISTORY) for version in ("v1", "v2")}
    with running(folder, store) as client:
        send(client, "u", *HISTORY)
        answers, stop = [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answers.append(client.get("/v1/users/u/recommendations"))

        thread = threading.Thread(target=ask)
        thread.start()
        for version in ("v2", "v1", "v2"):
            assert client.post(f"/v1/models/{version}/activate").json()["active"]
        stop.set()
        thread.join()
        for answer in answers:
            assert answer.status_code == 200, answer.text
            same_answer(answer.json(), expected[answer.json()["model"]["version"]])
        assert json.loads((folder / "active.json").read_text()) == {"version": "v2", "gate": "passed"}
        same_answer(client.get("/v1/users/u/recommendations").json(), expected["v2"])


def test_events_that_arrive_while_a_model_warms_are_read_before_it_answers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(folder, f"sqlite:///{tmp_path / 'events.db'}", prequential_share=0.0) as client:
        users = [f"u{number}" for number in range(3)]
        for user in users:
            send(client, user, *HISTORY)
            client.get(f"/v1/users/{user}/recommendations")
        models, rests = client.app.state.service.models, 0
        old = models.active

        def rest(active: LoadedModel, _: float) -> None:
            nonlocal rests
            assert active is old
            if rests in {4, 9}:  # after u2, the first user of the first pass, and at the end of the second pass
                send(client, "u2", "i7")
            rests += 1

        monkeypatch.setattr(models, "_rest", rest)
        models.switch("v2", force=True)
        assert rests == 4 + 3 * len(users)  # histories, and three passes
        positions = {user: models.active.states._entries[user].position for user in users}
        assert positions == {"u0": 3, "u1": 3, "u2": 5}


@pytest.mark.thorough
def test_other_processes_follow(folder: Path, store: str) -> None:
    with running(folder, store) as one, running(folder, store) as other:
        send(one, "u", *HISTORY)
        other.get("/v1/users/u/recommendations")
        one.post("/v1/models/v2/activate")
        wait_for(other, "v2")
        same_answer(other.get("/v1/users/u/recommendations").json(), Recommender.load(folder / "v2").recommend(HISTORY))


def test_a_next_page_is_of_the_model_of_its_answer(folder: Path, store: str) -> None:
    library = Recommender.load(folder / "v1")
    with running(folder, store) as client:
        send(client, "u", *HISTORY)
        first = client.get("/v1/users/u/recommendations", params={"k": 3}).json()
        client.post("/v1/models/v2/activate")
        second = client.get(first["next"]).json()
        assert second["model"]["version"] == "v1"
        pages = [item["item_id"] for page in (first, second) for item in page["items"]]
        assert pages == [each.item for each in library.recommend(HISTORY, 6).items]
    with running(folder, store) as client:  # after a restart the old version is not loaded
        refused = client.get(first["next"])
        assert (refused.status_code, refused.json()["code"]) == (409, "model_replaced")


def test_a_model_that_is_trained_again_in_place_is_loaded(models: Path, store: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model(folder, Recommender.load(models))
    with running(folder, store) as client:
        send(client, "u", *HISTORY)
        before = client.get("/v1/users/u/recommendations", params={"k": 3}).json()
        save_model(folder, Recommender.load(models), seed=5)
        deadline = time.monotonic() + 60
        while client.get("/v1/users/u/recommendations").json()["model"] == before["model"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        same_answer(client.get("/v1/users/u/recommendations").json(), Recommender.load(folder).recommend(HISTORY))
        refused = client.get(before["next"])
        assert (refused.status_code, refused.json()["code"]) == (409, "model_replaced")


@pytest.mark.thorough
def test_states_are_dropped_where_memory_ends(models: Path, store: str, recommender: Recommender) -> None:
    with running(models, store) as client:
        states = client.app.state.service.models.active.states
        states._limit = 20_000
        for user in range(30):
            send(client, f"u{user}", "i3", f"i{user % 12}")
            same_answer(client.get(f"/v1/users/u{user}/recommendations").json(), recommender.recommend(["i3", f"i{user % 12}"]))
            assert states.bytes <= 20_000
        assert 0 < len(states) < 30
        assert states.bytes == sum(entry.state.bytes for entry in states._entries.values())


def test_metrics(client: TestClient) -> None:
    send(client, "u", "i3")
    client.get("/v1/users/u/recommendations")
    text = client.get("/metrics").text
    for name in (
        'ssd4rec_http_request_duration_seconds_count{method="POST",route="/v1/events",status="200"}',
        'ssd4rec_stage_seconds_count{stage="state"}',
        'ssd4rec_events_total{outcome="accepted"}',
        "ssd4rec_event_commit_seconds_count",
        'ssd4rec_state_reads_total{kind="reread"}',
        'ssd4rec_recommendations_total{source="model",variant="default"}',
        'ssd4rec_queue_depth{queue="scorer"}',
        "ssd4rec_model_info{",
    ):
        assert name in text
    assert "u1" not in text
