"""Metadata of items and the filters that read it."""

import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service_world import running, same_answer, send
from ssd4rec.serving.recommender import Recommender


def ids(answer: dict) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_an_item_of_the_catalog(client: TestClient) -> None:
    item = client.get("/v1/items/i3").json()
    assert (item["title"], item["categories"], item["hidden"], item["in_catalog"]) == ("Item 3", [], False, True)
    assert item["training_interactions"] > 0
    assert client.get("/v1/items/none").status_code == 404


def test_metadata_comes_back(client: TestClient) -> None:
    body = {"title": "New", "categories": ["a", "b"], "hidden": True, "available_from": 100, "available_until": 200.5}
    put = client.put("/v1/items/i3", json=body)
    assert put.status_code == 200, put.text
    assert client.get("/v1/items/i3").json() == put.json() == put.json() | body
    assert client.put("/v1/items/outside", json={}).json()["in_catalog"] is False
    refused = client.put("/v1/items/i3", json={"available_from": 5, "available_until": 5})
    assert refused.status_code == 422


@pytest.mark.thorough
def test_filters(models: Path, store: str, recommender: Recommender) -> None:
    with running(models, store) as client, running(models, store) as other:
        send(client, "u", "i3", "i4")
        client.put("/v1/items/i0", json={"hidden": True})
        client.put("/v1/items/i1", json={"categories": ["film", "old"]})
        client.put("/v1/items/i2", json={"categories": ["film"]})
        client.put("/v1/items/i5", json={"available_from": time.time() + 1000})
        client.put("/v1/items/i6", json={"available_until": time.time() - 1000})
        gone = ["i0", "i5", "i6"]
        for each in (client, other):  # the process that wrote the metadata, and another one
            answer = each.post("/v1/recommendations", json={"user_id": "u", "k": 12}).json()
            same_answer(answer, recommender.recommend(["i3", "i4"], 12, deny=gone))
            films = each.post("/v1/recommendations", json={"user_id": "u", "categories": {"any": ["film"]}}).json()
            same_answer(films, recommender.recommend(["i3", "i4"], allow=["i1", "i2"]))
            new = each.post("/v1/recommendations", json={"user_id": "u", "categories": {"none": ["old"]}, "k": 12}).json()
            same_answer(new, recommender.recommend(["i3", "i4"], 12, deny=[*gone, "i1"]))
            both = {"any": ["film"], "none": ["old"]}
            assert ids(each.post("/v1/recommendations", json={"user_id": "u", "categories": both}).json()) == ["i2"]
            nothing = each.post("/v1/recommendations", json={"user_id": "u", "categories": {"any": []}}).json()
            assert (ids(nothing), nothing["next"]) == ([], None)
            cold = each.get("/v1/users/new/recommendations", params={"k": 12}).json()
            assert not set(gone) & set(ids(cold))
            near = each.get("/v1/items/i3/similar", params={"k": 12}).json()
            assert not {*gone, "i3"} & set(ids(near))
        client.put("/v1/items/i0", json={"title": "Shown again"})
        for each in (client, other):
            answer = each.post("/v1/recommendations", json={"user_id": "u", "k": 12}).json()
            same_answer(answer, recommender.recommend(["i3", "i4"], 12, deny=["i5", "i6"]))
            assert {item["item_id"]: item["title"] for item in answer["items"]}["i0"] == "Shown again"


def test_allow_with_unknown_ids(client: TestClient, recommender: Recommender) -> None:
    answer = client.post("/v1/recommendations", json={"history": ["i3"], "allow": ["i5", "nobody"]}).json()
    same_answer(answer, recommender.recommend(["i3"], allow=["i5"]))
    assert answer["warnings"][0] == "1 ids of allow are not in the catalog and were ignored"


def test_similar_items_are_those_of_the_largest_cosine(client: TestClient, recommender: Recommender) -> None:
    vectors = recommender.artifact.model.item_vectors.detach()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    cosines = vectors @ vectors[3]
    expected = [f"i{index}" for index in cosines.argsort(descending=True).tolist() if index != 3][:4]
    answer = client.get("/v1/items/i3/similar", params={"k": 4}).json()
    assert ids(answer) == expected
    assert client.get("/v1/items/none/similar").status_code == 404
