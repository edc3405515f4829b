"""Experiments: stable assignment, fair interleaving, exposures and their results."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service_world import WALK, default_recommender, running, same_answer, save_model, send, slow_gains, without_budget
from ssd4rec.service.experiments import arm_of, position_of, team_draft
from ssd4rec.service.store.experiments import Experiment
from ssd4rec.serving.recommender import Recommender

HISTORY = ["i3", "i4", "i5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    save_model(folder / "v1", default_recommender())
    save_model(folder / "v2", default_recommender(), seed=1)
    (folder / "active.json").write_text('{"version": "v1"}')
    return folder


@pytest.fixture(scope="module")
def libraries(folder: Path) -> dict[str, Recommender]:
    return {version: Recommender.load(folder / version) for version in ("v1", "v2")}


def start(client: TestClient, kind: str, **fields: object) -> dict:
    answer = client.post("/v1/experiments", json={"name": "e1", "kind": kind, "treatment": "v2", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def result(client: TestClient) -> dict:
    (experiment,) = client.get("/v1/experiments").json()["experiments"]
    return experiment


def test_users_are_assigned_by_a_hash() -> None:
    places = [position_of("e", f"u{n}") for n in range(4000)]
    assert sum(place < 0.3 for place in places) / 4000 == pytest.approx(0.3, abs=0.03)
    assert position_of("e", "u1") == places[1]
    others = [position_of("other", f"u{n}") for n in range(4000)]
    both = sum(one < 0.5 and two < 0.5 for one, two in zip(places, others, strict=True))
    assert both / 4000 == pytest.approx(0.25, abs=0.03)  # experiments are independent
    experiment = Experiment("e", "ab", "v1", "v2", 0.3, 0)
    arms = Counter(arm_of(experiment, f"u{n}").variant for n in range(4000))
    assert arms["e/treatment"] == sum(place < 0.3 for place in places)


def test_team_draft_is_fair() -> None:
    chance = random.Random(0)  # noqa: S311 - not a secret
    first, second = [f"a{n}" for n in range(10)], [f"b{n}" for n in range(10)]
    tops: Counter[int] = Counter()
    for _ in range(2000):
        drafted = team_draft(first, second, 10, chance)
        teams = Counter(team for _, team in drafted)
        assert teams == {0: 5, 1: 5}
        tops[drafted[0][1]] += 1
    assert tops[0] / 2000 == pytest.approx(0.5, abs=0.04)
    same = team_draft(first, first, 10, chance)
    assert [item for item, _ in same] == first  # two equal lists are one
    assert [item for item, _ in team_draft(["a", "b"], ["b", "c"], 10, chance)].count("b") == 1
    assert len(team_draft(["a"], ["b", "c"], 10, chance)) == 3


@pytest.mark.thorough
def test_an_ab_split(folder: Path, libraries: dict[str, Recommender], store: str) -> None:
    with running(folder, store) as client:
        assert start(client, "ab")["control"] == "v1"
        seen = set()
        for number in range(12):
            user = f"u{number}"
            send(client, user, *HISTORY)
            answer = client.get(f"/v1/users/{user}/recommendations", params={"k": 3}).json()
            version = "v2" if position_of("e1", user) < 0.5 else "v1"
            assert (answer["model"]["version"], answer["variant"]) == (
                version,
                "e1/treatment" if version == "v2" else "e1/control",
            )
            same_answer(answer, libraries[version].recommend(HISTORY, 3))
            seen.add(version)
            if version == "v2":  # every treated user takes the first item and says where it was recommended
                send(client, user, answer["items"][0]["item_id"], recommendation_id=answer["recommendation_id"])
                following = client.get(answer["next"])
                assert (following.status_code, following.json()["variant"]) == (200, "e1/treatment")
            else:  # the others go their own way; a stranger's click counts for nothing
                send(client, user, "i11", recommendation_id="r-none")
        assert seen == {"v1", "v2"}
        client.get("/health/ready")  # what waited is on disk
        shown = result(client)
        control, treatment = shown["arms"]
        assert (control["clicked"], treatment["clicked"]) == (0, treatment["users"])
        assert treatment["answers"] == 2 * treatment["users"]
        assert control["users"] + treatment["users"] == 12
        assert treatment["click_through_interval"][0] > control["click_through_interval"][0]
        assert shown["click_through_difference"][0] < 0.5 < shown["click_through_difference"][1]
        assert treatment["hits"] >= treatment["users"]
        client.delete("/v1/users/u0")
        after = result(client)
        assert sum(arm["users"] for arm in after["arms"]) == 11  # erased exposures do not count


def test_interleaving(folder: Path, libraries: dict[str, Recommender], store: str) -> None:
    with running(folder, store) as client:
        start(client, "interleaving", share=1.0)
        send(client, "u", *HISTORY)
        answer = client.get("/v1/users/u/recommendations", params={"k": 4}).json()
        assert answer["variant"] == "e1/interleaved"
        lists = [[each.item for each in libraries[v].recommend(HISTORY, 12).items] for v in ("v1", "v2")]
        ids = [item["item_id"] for item in answer["items"]]
        assert ids[0] in {lists[0][0], lists[1][0]}
        assert len(set(ids)) == 4
        following = client.get(answer["next"]).json()
        assert not set(ids) & {item["item_id"] for item in following["items"]}
        # click what the treatment alone has among its first ones
        only = next((item for item in ids if item not in lists[0][:4]), None)
        clicked = only or ids[0]
        send(client, "u", clicked, recommendation_id=answer["recommendation_id"])
        client.get("/health/ready")
        shown = result(client)
        wins = shown["interleaving"]
        assert wins["control_wins"] + wins["treatment_wins"] + wins["ties"] == 1
        assert shown["arms"][0]["clicked"] == 1
        if only:
            assert wins["treatment_wins"] == 1
        explained = client.post("/v1/recommendations", json={"user_id": "u", "explain": "parts"}).json()
        assert any("interleaves" in warning for warning in explained["warnings"])
        cold = client.get("/v1/users/nobody/recommendations").json()
        assert (cold["variant"], cold["source"]) == ("default", "popular")


def test_a_shadow_ranks_the_same_events(folder: Path, libraries: dict[str, Recommender], store: str) -> None:
    with running(folder, store) as client:
        without_budget(client)
        start(client, "shadow")
        send(client, "u", *WALK)
        answer = client.get("/v1/users/u/recommendations").json()
        assert (answer["model"]["version"], answer["variant"]) == ("v1", "default")
        deadline = time.monotonic() + 30
        while (shown := result(client)["prequential"])["ranked_events"] < len(WALK) - 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        gains = {version: slow_gains(library, WALK) for version, library in libraries.items()}
        differences = [after[1] - before[1] for before, after in zip(gains["v1"], gains["v2"], strict=True)]
        assert shown["difference"] == pytest.approx(sum(differences) / len(differences))
        assert shown["interval"][0] <= shown["difference"] <= shown["interval"][1]
        assert 0.0 <= shown["p_value"] <= 1.0


def test_one_experiment_at_a_time_and_its_end(folder: Path, store: str) -> None:
    with running(folder, store) as one, running(folder, store) as other:
        for body, status in (
            ({"name": "e", "kind": "ab", "treatment": "v1"}, 422),
            ({"name": "e", "kind": "ab", "treatment": "none"}, 404),
            ({"name": "a/b", "kind": "ab", "treatment": "v2"}, 422),
            ({"name": "e", "kind": "other", "treatment": "v2"}, 422),
            ({"name": "e", "kind": "ab", "treatment": "v2", "share": 0.0}, 422),
        ):
            assert one.post("/v1/experiments", json=body).status_code == status, body
        start(one, "ab", share=1.0)
        body = {"name": "e2", "kind": "ab", "treatment": "v2"}
        assert other.post("/v1/experiments", json=body).json()["code"] == "experiment_running"
        assert one.post("/v1/experiments", json=body | {"name": "e1"}).json()["code"] == "experiment_exists"
        other.app.state.service.experiments.refresh()
        send(one, "u", *HISTORY)
        assert other.get("/v1/users/u/recommendations").json()["variant"] == "e1/treatment"
        assert one.post("/v1/experiments/none/end").json()["code"] == "experiment_not_found"
        assert one.post("/v1/experiments/e1/end").json()["ended"] is not None
        other.app.state.service.experiments.refresh()
        for client in (one, other):
            assert client.get("/v1/users/u/recommendations").json()["variant"] == "default"
            assert set(client.app.state.service.models._loaded) == {"v1"}
        assert one.post("/v1/experiments", json=body).status_code == 200  # the next one may start
