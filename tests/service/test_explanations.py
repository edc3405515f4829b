"""Explanations of the library through the API."""

import pytest
from starlette.testclient import TestClient

from service_world import send
from ssd4rec.serving.recommender import Recommender

available = pytest.mark.skipif(not hasattr(Recommender, "explain"), reason="Recommender.explain does not exist yet")


@available
@pytest.mark.parametrize("level", ["parts", "weights", "effects", "counterfactual"])
def test_explanations_are_those_of_the_library(client: TestClient, recommender: Recommender, level: str) -> None:
    items = ["i3", "i4", "i5", "i9"]
    send(client, "u", *items)
    top = client.get("/v1/users/u/recommendations").json()["items"][0]["item_id"]
    expected = recommender.explain(items, top, level).as_dict()
    for body in ({"user_id": "u"}, {"history": items}):
        answer = client.post("/v1/explanations", json=body | {"item_id": top, "level": level})
        assert answer.status_code == 200, answer.text
        explanation = answer.json()["explanation"]
        assert (explanation["item_id"], explanation["level"]) == (top, level)
        assert explanation["score"] == pytest.approx(expected["score"], abs=1e-5)
        if level == "effects":
            changes = [event["score_change"] for event in explanation["events"]]
            assert changes == pytest.approx([event["score_change"] for event in expected["events"]], abs=1e-5)


@available
@pytest.mark.parametrize("level", ["parts", "weights", "effects"])
def test_reasons_come_with_the_recommendations(client: TestClient, level: str) -> None:
    send(client, "u", "i3", "nobody", "i4", "i5")
    answer = client.post("/v1/recommendations", json={"user_id": "u", "k": 3, "explain": level}).json()
    for item in answer["items"]:
        assert item["reasons"]
        if level == "parts":
            (parts,) = item["reasons"]
            assert sum(parts.values()) == pytest.approx(item["score"], abs=1e-5)
        else:
            assert {reason["item_id"] for reason in item["reasons"]} <= {"i3", "i4", "i5", None}
    cold = client.post("/v1/recommendations", json={"user_id": "new", "k": 3, "explain": level}).json()
    assert "no reasons" in cold["warnings"][-1]


def test_explanations_of_what_is_not_there(client: TestClient) -> None:
    send(client, "u", "i3")
    for body in ({"user_id": "nobody", "item_id": "i1"}, {"history": ["i1"], "item_id": "nobody"}):
        answer = client.post("/v1/explanations", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert client.post("/v1/explanations", json={"item_id": "i1"}).status_code == 422
