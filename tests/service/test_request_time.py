"""A model that reads the time of a request answers for the time when it was asked, or for the one that is named."""

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from packed import randomized
from service_world import (
    WALK,
    default_recommender,
    live,
    preset_recommender,
    running,
    same_answer,
    save_model,
    send,
    slow_gains,
    without_budget,
)
from ssd4rec.layers.request_time import RequestTime
from ssd4rec.service import gate, recommending
from ssd4rec.service.experiments import position_of
from ssd4rec.service.ids import MICROSECONDS
from ssd4rec.service.products import vector_at
from ssd4rec.service.routes import explanations
from ssd4rec.service.store.connect import reading
from ssd4rec.serving.recommender import Recommender

NOW = int(datetime(2024, 5, 6, 18, tzinfo=UTC).timestamp())
LAST = NOW - 3000
LATER = NOW + 90 * 86400 + 7 * 3600  # another hour, another weekday, another gap


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that reads the time of a request."""
    folder = tmp_path_factory.mktemp("timed") / "model"
    save_model(folder, default_recommender(request_time=True))
    return folder


@pytest.fixture(scope="module")
def library(timed: Path) -> Recommender:
    """The library with the same model, whose answers are expected."""
    return Recommender.load(timed)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the service: its one entry, in seconds."""
    seconds = [float(NOW)]
    for module in (recommending, explanations):
        monkeypatch.setattr(module, "now", lambda: round(seconds[0] * MICROSECONDS))
    return seconds


@pytest.fixture
def client(timed: Path, store: str, clock: list[float]) -> Iterator[TestClient]:
    """A service with the history of one user, at NOW."""
    assert clock == [NOW]
    with running(timed, store) as connected:
        for place, item in enumerate(WALK):
            send(connected, "u", item, timestamp=LAST - 100 * (len(WALK) - 1 - place))
        yield connected


def recommend(client: TestClient, **body: object) -> dict[str, object]:
    """The answer to POST /v1/recommendations."""
    response = client.post("/v1/recommendations", json={"user_id": "u", "k": 5} | body)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_answer_is_for_the_time_when_it_was_asked(client: TestClient, library: Recommender, clock: list[float]) -> None:
    """By the short way, the route and a batch; an answer of an earlier time is not given again."""
    seen = []
    for moment in (NOW, NOW + 0.4, LATER, NOW):
        clock[0] = moment
        expected = library.recommend(WALK, 5, at=moment, last_event=LAST)
        short = client.get("/v1/users/u/recommendations?k=5").json()
        batch = client.post("/v1/recommendations/batch", json={"requests": [{"user_id": "u", "k": 5}] * 2}).json()
        for answer in (short, recommend(client), *(each["body"] for each in batch["answers"])):
            same_answer(answer, expected)
            assert answer["at"] == moment
        seen.append([item["score"] for item in short["items"]])
    assert seen[0] == seen[1] == seen[3] != seen[2]


def test_a_time_can_be_named(client: TestClient, library: Recommender) -> None:
    """As seconds or as a date-time, in a query and in a body."""
    expected = library.recommend(WALK, 5, at=LATER, last_event=LAST)
    text = datetime.fromtimestamp(LATER, UTC).isoformat()
    for at in (str(LATER), f"{LATER}.25", text, text.replace("+00:00", "Z")):
        same_answer(client.get("/v1/users/u/recommendations", params={"k": 5, "at": at}).json(), expected)
    for at in (LATER, LATER + 0.25, text):
        same_answer(recommend(client, at=at), expected)


def test_a_new_event_is_the_last_one(client: TestClient, library: Recommender) -> None:
    """The gap is that to the newest event, also to one that the catalog lacks and to one of a clock that is ahead."""
    for item, moment in (("i8", NOW - 60), ("nobody", NOW - 5), ("i2", NOW + 30)):
        send(client, "u", item, timestamp=moment)
        history = [event["item_id"] for event in client.get("/v1/users/u/events").json()["events"]]
        expected = library.recommend(history, 5, at=max(NOW, moment), last_event=moment)
        same_answer(client.get("/v1/users/u/recommendations?k=5").json(), expected)
    send(client, "u", "i6", timestamp=LAST)  # a late one changes the history, not its end
    history = [event["item_id"] for event in client.get("/v1/users/u/events").json()["events"]]
    assert history[-4:-2] == ["i6", "i8"]
    expected = library.recommend(history, 5, at=NOW + 30, last_event=NOW + 30)
    same_answer(client.get("/v1/users/u/recommendations?k=5").json(), expected)


def test_the_history_up_to_a_time(client: TestClient, library: Recommender) -> None:
    """`as_of` is the time of the request too, unless another one is named."""
    then = LAST - 150
    same_answer(recommend(client, as_of=then), library.recommend(WALK[:-2], 5, at=then, last_event=LAST - 200))
    named = library.recommend(WALK[:-2], 5, at=LATER, last_event=LAST - 200)
    same_answer(recommend(client, as_of=then, at=LATER), named)


def test_a_history_in_the_request(client: TestClient, library: Recommender) -> None:
    """With the time of its last event it is answered for now or the named time; else the time is not known."""
    history = {"user_id": None, "history": WALK}
    same_answer(recommend(client, **history, last_event=LAST), library.recommend(WALK, 5, at=NOW, last_event=LAST))
    named = library.recommend(WALK, 5, at=LATER, last_event=LAST)
    same_answer(recommend(client, **history, last_event=LAST, at=LATER), named)
    unknown = recommend(client, **history)
    same_answer(unknown, library.recommend(WALK, 5))
    assert unknown["at"] is None


def test_the_next_pages_are_for_the_time_of_the_first(client: TestClient, library: Recommender, clock: list[float]) -> None:
    """However late they are asked for, and whatever has happened meanwhile."""
    bodies = [{}, {"at": LATER + 0.5}, {"as_of": LAST - 150}, {"user_id": None, "history": WALK, "last_event": LAST}]
    firsts = [recommend(client, **body, k=3, exclude_seen=False) for body in bodies]
    send(client, "u", "i8", timestamp=NOW)
    clock[0] = LATER
    then = LAST - 150
    times = [(WALK, NOW, LAST), (WALK, LATER, LAST), (WALK[:-2], then, then - 50), (WALK, NOW, LAST)]
    for first, (history, at, last) in zip(firsts, times, strict=True):
        second = client.get(first["next"]).json()
        third = client.get(second["next"]).json()
        expected = library.recommend(history, 9, exclude_seen=False, at=at, last_event=last)
        same_answer({**first, "items": [item for page in (first, second, third) for item in page["items"]]}, expected)


@pytest.mark.parametrize(
    "body", [{"user_id": "u"}, {"user_id": None, "history": WALK, "last_event": LAST}], ids=["user", "history"]
)
@pytest.mark.parametrize("level", ["parts", "effects", "counterfactual"])
def test_explanations_are_of_the_scores_at_the_time(client: TestClient, library: Recommender, body: dict, level: str) -> None:
    for times in ({}, {"at": LATER}):
        at = times.get("at", NOW)
        expected = library.explain(WALK, "i8", level, at=at, last_event=LAST).as_dict()
        answer = client.post("/v1/explanations", json=body | times | {"item_id": "i8", "level": level}).json()["explanation"]
        assert (answer["score"], answer["rank"]) == (pytest.approx(expected["score"], abs=1e-5), expected["rank"])
        if level == "effects":
            changes = [[event["score_change"] for event in one["events"]] for one in (answer, expected)]
            assert changes[0] == pytest.approx(changes[1], abs=1e-5)


def test_reasons_are_of_the_scores_at_the_time(client: TestClient) -> None:
    for item in recommend(client, at=LATER, explain="parts")["items"]:
        assert sum(item["reasons"][0].values()) == pytest.approx(item["score"], abs=1e-5)


def test_stored_states_do_not_depend_on_the_time(timed: Path, tmp_path: Path, clock: list[float], library: Recommender) -> None:
    """A snapshot that was written at one time answers at another, after a restart."""
    store = f"sqlite:///{tmp_path / 'events.db'}"
    with running(timed, store, snapshot_events=2) as client:
        send(client, "u", *WALK, timestamp=LAST)
        client.get("/v1/users/u/recommendations")
    clock[0] = LATER
    with running(timed, store, snapshot_events=2, warm_users=0) as client:
        states = client.app.state.service.models.active.states
        states.model.read = lambda _: pytest.fail("the history is read again")
        same_answer(client.get("/v1/users/u/recommendations").json(), library.recommend(WALK, at=LATER, last_event=LAST))


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"user_id": "u", "at": LAST - 60}, "/at: it is 60 seconds before the last event of the history; name a later time"),
        ({"user_id": "u", "at": "tomorrow"}, "/at: a timestamp is seconds since 1970 or an ISO 8601 date-time"),
        ({"user_id": "u", "at": NOW * 1000}, "/at: timestamps are seconds since 1970; this number seems to be milliseconds"),
        ({"history": WALK, "at": NOW}, "at needs last_event: a history in the request has no timestamps"),
        ({"user_id": "u", "last_event": LAST}, "last_event needs a history: the store has the times of a user's events"),
    ],
)
def test_wrong_times(client: TestClient, body: dict[str, object], detail: str) -> None:
    """One clear problem, for recommendations and explanations."""
    for path, more in (("/v1/recommendations", {}), ("/v1/explanations", {"item_id": "i8"})):
        answer = client.post(path, json=body | more)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert detail in answer.json()["detail"]
    if "history" not in body and "at" in body:
        answer = client.get("/v1/users/u/recommendations", params={"at": body["at"]})
        assert answer.status_code == 422
        assert detail.replace("/at", "query:at") in answer.json()["detail"]
        assert [error["pointer"] for error in answer.json()["errors"]] == ["query:at"]


def test_a_model_that_does_not_read_times_warns_of_one(models: Path, tmp_path: Path, recommender: Recommender) -> None:
    """The model changes without the programs that ask it; the time of the last event of a history changes nothing."""
    with running(models, f"sqlite:///{tmp_path / 'events.db'}") as client:
        send(client, "u", *WALK, timestamp=LAST)
        version = client.get("/v1/users/u/recommendations").json()["model"]["version"]
        warning = f"at was not read: the model {version!r} does not read the time of a request"
        request = {"user_id": "u", "k": 3, "at": NOW}
        answers = [
            client.get("/v1/users/u/recommendations", params={"k": 3, "at": NOW}).json(),
            recommend(client, **request),
            client.post("/v1/recommendations/batch", json={"requests": [request]}).json()["answers"][0]["body"],
        ]
        for answer in answers:
            same_answer(answer, recommender.recommend(WALK, 3))
            assert (answer["warnings"], answer["at"]) == ([warning], None)
        assert warning in client.get(answers[0]["next"]).json()["warnings"]
        assert warning in recommend(client, user_id="nobody", at=NOW)["warnings"]
        item = {"user_id": "u", "item_id": "i8", "level": "parts"}
        explained, with_at = (client.post("/v1/explanations", json=item | more).json() for more in ({}, {"at": NOW}))
        assert (explained["warnings"], with_at["warnings"]) == ([], [warning])
        assert explained["explanation"] == with_at["explanation"]
        early = client.get("/v1/users/u/recommendations", params={"at": LAST - 60})
        assert (early.status_code, early.json()["errors"][0]["pointer"]) == (422, "query:at")
        with_time = recommend(client, user_id=None, history=WALK, last_event=LAST)
        assert with_time["items"] == recommend(client, user_id=None, history=WALK)["items"]
        assert with_time["at"] is None


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kind", ["ab", "interleaving"])
def test_an_experiment_with_a_model_that_does_not_read_times(timed: Path, models: Path, tmp_path: Path, kind: str) -> None:
    """Every user is answered, and a warning says where the time was not read."""
    folder = tmp_path / "models"
    shutil.copytree(timed, folder / "timed")
    shutil.copytree(models, folder / "plain")
    (folder / "active.json").write_text('{"version": "timed"}', encoding="utf-8")
    with running(folder, f"sqlite:///{tmp_path / 'events.db'}") as client:
        body = {"name": "e", "kind": kind, "treatment": "plain", "share": 0.5}
        client.post("/v1/experiments", json=body).raise_for_status()
        variants = set()
        for user in (f"u{number}" for number in range(12)):
            send(client, user, *WALK, timestamp=LAST)
            answer = client.get(f"/v1/users/{user}/recommendations", params={"k": 3, "at": LATER}).json()
            is_treated = position_of("e", user) < 0.5
            assert any("at was not read: the model 'plain'" in each for each in answer["warnings"]) == is_treated
            assert (answer["at"] is None) == (answer["model"]["version"] == "plain")
            variants.add(answer["variant"])
        assert len(variants) == 2


def test_the_short_way_equals_the_layer() -> None:
    """At every edge between two bins of gaps and of hours, before and after 1970."""
    layer = randomized(RequestTime(4))
    gaps = [max(0, round(2 ** (half / 2)) + more) for half in range(70) for more in (-2, -1, 0, 1)]
    for place, gap in enumerate(gaps):
        at, vector = 3600 * (61 * place - 9000) - place % 2, torch.full((1, 4), 0.5 + place, dtype=torch.float64)
        expected = layer(vector, torch.tensor([[gap, at]]))
        actual = vector_at(layer.table.weight.detach().numpy(), vector, at, at - gap)
        torch.testing.assert_close(actual, expected, rtol=1e-14, atol=0)


@pytest.mark.thorough
@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kind", ["fusion", "max_length"])
def test_with_score_fusion_and_repeat_logits(kind: str, tmp_path: Path) -> None:
    """The default preset with the time: learned repeat logits depend on the state at the time."""
    save_model(tmp_path / "model", preset_recommender(kind, "backbone.request_time=true"))
    library = Recommender.load(tmp_path / "model")
    with running(tmp_path / "model", f"sqlite:///{tmp_path / 'events.db'}") as client:
        send(client, "u", *WALK, timestamp=LAST)
        for seen in (True, False):
            expected = library.recommend(WALK, 5, exclude_seen=seen, at=NOW, last_event=LAST)
            same_answer(recommend(client, exclude_seen=seen), expected)


def test_live_metrics_rank_each_event_at_its_time(timed: Path, tmp_path: Path, library: Recommender) -> None:
    """Like the evaluation with known times."""
    times = [LAST + step for step in (0, 5, 4000, 4000, 90_000, 10**6, 10**6 + 1)]
    events = [{"user_id": "u", "item_id": item, "timestamp": moment} for item, moment in zip(WALK, times, strict=True)]
    expected, unknown = (np.mean([ndcg for _, ndcg in slow_gains(library, WALK, each)]) for each in (times, None))
    assert expected != pytest.approx(unknown)
    with running(timed, f"sqlite:///{tmp_path / 'events.db'}") as client:
        without_budget(client)
        for some in (events[:2], events[2:]):
            client.post("/v1/events", json={"events": some}).raise_for_status()
        assert live(client, len(WALK), len(WALK) - 1)["ndcg"] == pytest.approx(expected)


def test_the_gate_ranks_the_last_events_at_their_times(timed: Path, tmp_path: Path, library: Recommender) -> None:
    """Where models read them."""
    times = [LAST, LAST + 70_000]
    with running(timed, f"sqlite:///{tmp_path / 'events.db'}") as client:
        model = client.app.state.service.models.active.model
        users = [(f"u{n}", [f"i{n % 12}", f"i{(5 * n + 1) % 12}"]) for n in range(21)]
        for user, items in users:
            for item, moment in zip(items, times, strict=True):
                send(client, user, item, timestamp=moment)
        with reading(client.app.state.service.engine) as connection:
            histories = gate._last_events(connection)
    expected = np.mean([slow_gains(library, items, times)[0][1] for _, items in users])
    assert gate._mean_ndcg(model, histories) == pytest.approx(expected)
    assert expected != pytest.approx(np.mean([slow_gains(library, items)[0][1] for _, items in users]))


def test_who_gets_an_item_now(client: TestClient, library: Recommender) -> None:
    """The lists of the sampled users are those of the moment."""
    for item in ("i8", "i2"):
        audience = client.get(f"/v1/items/{item}/audience").json()["users"]
        ranked = library.recommend(WALK, 12, at=int(time.time()), last_event=LAST).items
        assert [user["rank"] for user in audience] == [each.rank for each in ranked if each.item == item]
