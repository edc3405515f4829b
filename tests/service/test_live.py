"""Live metrics: every event is ranked before it is read, and the sums of all processes are one."""

import math
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from service_world import WALK as ITEMS
from service_world import live, running, send, slow_gains, without_budget
from ssd4rec.service import states
from ssd4rec.service.live import GROUPS, equal_share_groups, live_metrics, population_stability
from ssd4rec.service.prequential import AT_ONCE, Budget
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.user_state import ScoreJob
from ssd4rec.serving.recommender import Recommender


@pytest.mark.parametrize("way", ["one batch", "one by one", "with recommendations", "without a cached state"])
def test_every_event_is_ranked_by_the_state_before_it(client: TestClient, recommender: Recommender, way: str) -> None:
    without_budget(client)
    if way == "one batch":
        send(client, "u", *ITEMS)
    for count, item in enumerate(() if way == "one batch" else ITEMS, 1):
        send(client, "u", item)
        if way == "with recommendations":
            client.get("/v1/users/u/recommendations")
        elif way == "without a cached state":
            live(client, count, count - 1)
            client.app.state.service.models.active.states._drop("u")
    measured, expected = live(client, len(ITEMS), len(ITEMS) - 1), slow_gains(recommender, ITEMS)
    assert (measured["events"], measured["ranked_events"]) == (len(ITEMS), len(ITEMS) - 1)
    assert measured["hit_rate"] == pytest.approx(np.mean([hit for hit, _ in expected]))
    assert measured["ndcg"] == pytest.approx(np.mean([ndcg for _, ndcg in expected]))
    assert measured["hit_rate_interval"][0] <= measured["hit_rate"] <= measured["hit_rate_interval"][1]
    answer = client.get("/v1/users/u/recommendations").json()  # the state that ranking left behind is right
    assert [each["item_id"] for each in answer["items"]] == [each.item for each in recommender.recommend(ITEMS).items]


def test_a_long_batch_of_a_user_is_ranked_in_parts(models: Path, tmp_path: Path, recommender: Recommender) -> None:
    items = [f"i{(7 * n) % 12}" for n in range(2 * AT_ONCE + 5)]
    with running(models, f"sqlite:///{tmp_path / 'events.db'}") as client:
        without_budget(client)
        send(client, "u", *items)
        measured = live(client, len(items), len(items) - 1)
        assert measured["ranked_events"] == len(items) - 1
        assert measured["ndcg"] == pytest.approx(np.mean([ndcg for _, ndcg in slow_gains(recommender, items)]))


def test_a_long_history_without_a_cached_state_is_not_read(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "LONGEST_READ", 3)
    with running(models, f"sqlite:///{tmp_path / 'events.db'}") as client:
        without_budget(client)
        send(client, "u", *ITEMS[:5])
        assert live(client, 5)["ranked_events"] == 4
        client.app.state.service.models.active.states._drop("u")
        send(client, "u", "i1")
        assert live(client, 6)["ranked_events"] == 4
        client.get("/v1/users/u/recommendations")
        send(client, "u", "i2")
        assert live(client, 7)["ranked_events"] == 5


def test_late_events_duplicates_and_unknown_items(client: TestClient) -> None:
    without_budget(client)
    send(client, "u", "i3", "i4", timestamp=1_700_000_000)
    assert live(client, 2)["ranked_events"] == 1
    send(client, "u", "i5", timestamp=1_600_000_000)  # late: it was not the next event
    send(client, "u", "i5", timestamp=1_700_000_000, event_id="e")
    send(client, "u", "i5", timestamp=1_700_000_000, event_id="e")
    send(client, "u", "nowhere", timestamp=1_700_000_001)
    measured = live(client, 4)
    assert (measured["events"], measured["ranked_events"]) == (4, 3)
    assert measured["unknown_share"] == 0.25


def test_sums_of_several_processes_are_added_and_exported(models: Path, store: str) -> None:
    with running(models, store) as one, running(models, store) as other:
        for client in (one, other):
            without_budget(client)
            send(client, f"u{id(client)}", *ITEMS)
            live(client, len(ITEMS))
        measured = live(one, 2 * len(ITEMS))
        assert measured["ranked_events"] == 2 * (len(ITEMS) - 1)
        one.get("/v1/users/nobody/recommendations")
        assert live(one, 1)["popular_share"] == 1.0
        one.app.state.service.maintenance._sums_at = 0.0
        one.app.state.service.maintenance._live()
        text = one.get("/metrics").text
        assert 'ssd4rec_prequential_ndcg{model="first"}' in text
        assert 'ssd4rec_prequential_events_total{outcome="ranked"}' in text
        points = one.get("/v1/models/first/live").json()["points"]
        assert sum(point["events"] for point in points) == 2 * len(ITEMS)
        assert one.get("/v1/models/none/live").status_code == 404


def test_a_spent_budget_skips_events_and_keeps_counting(models: Path, store: str) -> None:
    with running(models, store, prequential_share=0.0) as client:
        send(client, "u", *ITEMS)
        assert client.get("/v1/models").json()["models"][0]["live"] is None
    with running(models, store) as client:
        client.app.state.service.prequential._budget = Budget(0.0)
        send(client, "u", *ITEMS)
        measured = live(client, len(ITEMS))
        assert (measured["ranked_events"], measured["ndcg"]) == (0, None)


def test_a_budget_is_a_share_of_the_time() -> None:
    moment = 100.0
    budget = Budget(0.1, clock=lambda: moment)
    assert not budget.is_spent
    budget.spend(0.3)
    assert budget.is_spent
    moment += 1.9
    assert budget.is_spent
    moment += 0.2
    assert not budget.is_spent


def test_ties_count_against_the_item(recommender: Recommender) -> None:
    model = ServedModel("v", Path(), recommender)
    state = model.read(model.indices(["i3", "i4"]))
    scores = next(model._candidates([ScoreJob(state, 1, exclude_seen=False, excluded=None, only_known=False)]))[1][0].tolist()
    for index, score in enumerate(scores, start=1):
        (rank,) = model.rank_targets([state], np.array([index]))
        assert rank == (sum(other >= score for other in scores) if math.isfinite(score) else None)
    assert model.rank_targets([state], np.array([0])) == [None]


def test_groups_of_equal_shares() -> None:
    counts = np.array([0, *(1000 // rank for rank in range(1, 500))])
    groups, shares = equal_share_groups(counts)
    assert sum(shares) == pytest.approx(1.0)
    assert max(shares) < 0.2
    assert (np.diff(groups[1:][np.argsort(-counts[1:], kind="stable")]) >= 0).all()
    assert set(groups[1:].tolist()) <= set(range(GROUPS))


def test_population_stability() -> None:
    shares = [0.1] * GROUPS
    assert population_stability(shares, [0.0] * GROUPS) is None
    assert population_stability(shares, [100.0] * GROUPS) == pytest.approx(0.0, abs=1e-9)
    moved = [0.0, 200.0, *([100.0] * (GROUPS - 2))]
    assert population_stability(shares, moved) > 0.25
    assert live_metrics({}, shares).ndcg is None
