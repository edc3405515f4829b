"""The routes about the catalog as a whole, against the library's own answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from service_world import running, send
from ssd4rec.evaluation.concentration import measure_concentration, popularity_groups
from ssd4rec.service.insights import MAP_SIZE, project_items
from ssd4rec.serving.recommender import Recommender

HISTORIES = {"ann": ["i1", "i2", "i3"], "bob": ["i4", "i5"], "cy": ["i9", "nothing known"], "dan": ["unknown"]}


@pytest.fixture
def sqlite(models: Path, tmp_path: Path):
    with running(models, f"sqlite:///{tmp_path / 'events.db'}") as client:
        yield client


def fill(client: TestClient) -> None:
    for user, items in HISTORIES.items():
        send(client, user, *items)


def test_the_catalog_without_users(sqlite: TestClient, recommender: Recommender) -> None:
    answer = sqlite.get("/v1/catalog").json()
    assert (answer["users"], answer["recommended"], answer["more"]) == (0, None, [])
    assert answer["consumed"]["total"] == int(recommender.artifact.training_counts[1:].sum())


def test_the_catalog_counts_what_the_library_recommends(sqlite: TestClient, recommender: Recommender) -> None:
    fill(sqlite)
    answer = sqlite.get("/v1/catalog").json()
    lists = [recommender.recommend(history, 10).items for history in HISTORIES.values()]
    ids = [f"i{index}" for index in range(answer["catalog_size"])]
    counts = np.array([sum(str(each.item) == item for best in lists for each in best) for item in ids])
    expected = measure_concentration(counts)
    assert (answer["users"], answer["recommended"]["total"]) == (4, expected.total)
    assert answer["recommended"]["gini"] == pytest.approx(expected.gini)
    assert answer["recommended"]["coverage"] == pytest.approx(np.count_nonzero(counts) / len(ids))
    groups = popularity_groups(recommender.artifact.training_counts[1:])
    assert [each["items"] for each in answer["groups"]] == [int((groups == g).sum()) for g in (3, 2, 1, 0) if (groups == g).any()]
    assert sum(each["recommended"] for each in answer["groups"]) == pytest.approx(1.0)
    for item in [*answer["more"], *answer["less"], *answer["tail"]]:
        assert item["recommended"] == counts[ids.index(item["item_id"])]
        assert item["title"] == f"Item {item['item_id'][1:]}"


def test_the_audience_of_an_item(sqlite: TestClient) -> None:
    fill(sqlite)
    for item in ("i6", "i3"):
        answer = sqlite.get(f"/v1/items/{item}/audience").json()
        ranks = {}
        for user in ("ann", "bob", "cy"):
            best = sqlite.get(f"/v1/users/{user}/recommendations?k=100").json()["items"]
            ranks.update((user, each["rank"]) for each in best if each["item_id"] == item)
        assert {each["user_id"]: each["rank"] for each in answer["users"]} == ranks
        assert [each["rank"] for each in answer["users"]] == sorted(ranks.values())
        assert answer["reached"] == sum(rank <= 10 for rank in ranks.values())
    assert sqlite.get("/v1/items/nothing/audience").status_code == 404


def test_an_erased_user_is_in_no_audience(sqlite: TestClient) -> None:
    fill(sqlite)
    assert "ann" in [each["user_id"] for each in sqlite.get("/v1/items/i6/audience").json()["users"]]
    assert sqlite.delete("/v1/users/ann").status_code == 204
    answer = sqlite.get("/v1/items/i6/audience").json()
    assert "ann" not in [each["user_id"] for each in answer["users"]]
    assert answer["sampled_users"] == len(HISTORIES) - 1


def test_the_map_is_the_principal_plane(sqlite: TestClient, recommender: Recommender) -> None:
    answer = sqlite.get("/v1/map").json()
    vectors = recommender.artifact.model.item_vectors.detach().numpy().astype(np.float64)
    centered = vectors - vectors.mean(0)
    _, singular, right = np.linalg.svd(centered, full_matrices=False)
    assert answer["explained_variance"] == pytest.approx((singular**2 / (singular**2).sum())[:2].tolist())
    plane = centered @ right[:2].T
    for name, axis in zip("xy", plane.T, strict=True):
        assert abs(np.corrcoef(answer[name], axis)[0, 1]) > 0.999
    assert max(max(answer["x"]) - min(answer["x"]), max(answer["y"]) - min(answer["y"])) == MAP_SIZE
    assert answer["training_interactions"] == recommender.artifact.training_counts[1:].tolist()


def test_the_map_does_not_fail_on_equal_vectors() -> None:
    flat = project_items(np.ones((3, 4), np.float32))
    assert (len(set(flat.x.tolist())), flat.explained) == (1, (0.0, 0.0))
    assert torch.tensor(flat.x).min() >= 0


def test_names_on_the_map(sqlite: TestClient) -> None:
    answer = sqlite.get("/v1/map/items?index=2&item_id=i4&item_id=nothing").json()
    assert [(each["index"], each["item_id"], each["title"]) for each in answer["items"]] == [
        (2, "i2", "Item 2"),
        (4, "i4", "Item 4"),
    ]
    assert sqlite.get("/v1/map/items?index=99999").status_code == 422
