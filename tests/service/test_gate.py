"""The gate before an activation: a version that is worse, empty or not finite does not answer."""

import json
import logging
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from service_world import default_recommender, running, save_model, send
from ssd4rec.artifact import save_artifact
from ssd4rec.cli import app
from ssd4rec.data.catalog import Catalog
from ssd4rec.errors import ArtifactError, DivergedError
from ssd4rec.service.problems import Problem
from ssd4rec.serving.recommender import Recommender

SQLITE = pytest.mark.parametrize("store", ["sqlite"], indirect=True)  # the other database makes no difference here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version `good` always recommends the item after the last one; `bad` recommends it last."""
    folder = tmp_path_factory.mktemp("gate")
    save_model(folder / "good", default_recommender())
    save_model(folder / "other", default_recommender(), seed=1)
    save_model(folder / "elsewhere", default_recommender(), prefix="x")
    broken = default_recommender()
    with torch.no_grad():
        broken.artifact.model.table.weight[3] = torch.nan
    save_model(folder / "broken", broken)
    (folder / "active.json").write_text('{"version": "good"}')
    return folder


def fill(client, folder: Path, users: int = 21) -> None:
    """Users whose last event is what `good` ranks first."""
    model = Recommender.load(folder / "good")
    histories = [[f"i{number % 12}", f"i{(number * 5 + 1) % 12}"] for number in range(users)]
    best = model.recommend(histories, 1, exclude_seen=model.artifact.config.evaluation.exclude_seen)
    events = [
        {"user_id": f"u{number}", "item_id": item}
        for number, (history, answer) in enumerate(zip(histories, best, strict=True))
        for item in (*history, answer.items[0].item)
    ]
    assert client.post("/v1/events", json={"events": events}).json()["accepted"] == 3 * users


@pytest.mark.thorough
def test_a_worse_version_is_refused_unless_forced(folder: Path, store: str, caplog: pytest.LogCaptureFixture) -> None:
    with running(folder, store) as client:
        fill(client, folder)
        client.post("/v1/recommendations", json={"history": ["i1"], "k": 3})
        client.get("/health/ready")
        refused = client.post("/v1/models/other/activate")
        assert (refused.status_code, refused.json()["code"]) == (409, "gate_failed"), refused.text
        assert "held-out NDCG@10" in refused.json()["detail"]
        assert client.get("/health/ready").json()["model"] == "good"
        assert json.loads((folder / "active.json").read_text())["version"] == "good"
        with caplog.at_level(logging.WARNING):
            forced = client.post("/v1/models/other/activate?force=true").json()
        assert forced["active"]
        assert "activated without the gate" in caplog.text
        back = client.post("/v1/models/good/activate").json()  # it is better than the other one
        assert [check["passed"] for check in back["checks"]] == [True] * 4
        details = {check["name"]: check["detail"] for check in back["checks"]}
        assert "21 users" in details["held-out NDCG@10"]
        assert "1 were answered" in details["recorded requests"]
        assert "0 were added and 0 removed" in details["catalog"]


@SQLITE
def test_another_catalog_and_broken_scores_are_refused(folder: Path, store: str) -> None:
    with running(folder, store) as client:
        refused = client.post("/v1/models/elsewhere/activate").json()
        assert "no item is in both" in refused["detail"]
        assert client.post("/v1/models/broken/activate").json()["code"] == "model_diverged"
        assert client.post("/v1/models/broken/activate?force=true").json()["code"] == "model_diverged"
        assert client.get("/v1/models/other/live").json()["code"] == "model_not_loaded"
        versions = {each["version"]: each["error"] for each in client.get("/v1/models").json()["models"]}
        assert "not finite" in versions["broken"]


@pytest.mark.thorough
@SQLITE
def test_a_choice_by_hand_passes_the_gate_too(folder: Path, store: str) -> None:
    with running(folder, store, poll_seconds=60.0) as client:
        fill(client, folder)
        models = client.app.state.service.models
        (folder / "active.json").write_text('{"version": "other"}')
        with pytest.raises(Problem, match="did not pass the gate"):
            models.look()
        assert models.active.model.version == "good"
        models.look()  # it is not tried again and again
        models.look_soon()  # but on SIGHUP it is
        deadline = time.monotonic() + 30
        while not models.failures:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert models.active.model.version == "good"
        (folder / "active.json").write_text('{"version": "other", "gate": "forced"}')
        models.look_soon()
        while models.active.model.version != "other":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (folder / "active.json").write_text('{"version": "good"}')  # better than the other one
        models.look()
        assert models.active.model.version == "good"


@pytest.mark.thorough
def test_the_command(folder: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    (folder / "active.json").write_text('{"version": "good", "gate": "passed"}')
    with running(folder, store) as client:
        fill(client, folder)
    run = CliRunner().invoke
    for arguments, error in (
        (["other", "--store", store], "did not pass the gate"),
        (["broken"], "did not pass the gate"),
        (["none"], "has no version"),
    ):
        failed = run(app, ["models", "activate", str(folder), *arguments])
        assert isinstance(failed.exception, ArtifactError)
        assert error in str(failed.exception)
    shown = run(app, ["models", "activate", str(folder), "other", "--store", store, "--force", "--json"])
    checks = json.loads(shown.stdout)["checks"]
    assert [check["passed"] for check in checks if check["name"] == "held-out NDCG@10"] == [False]
    assert json.loads((folder / "active.json").read_text()) == {"version": "other", "gate": "forced"}
    assert "good is active" in run(app, ["models", "activate", str(folder), "good", "--store", store]).stdout


@SQLITE
def test_a_start_with_broken_scores_is_refused(folder: Path, store: str) -> None:
    with pytest.raises(DivergedError, match="not finite"), running(folder / "broken", store):
        pass


@SQLITE
def test_items_that_were_never_trained_are_no_candidates(tmp_path: Path, store: str) -> None:
    """The filters of the service leave them out as the library does: unless they are allowed by name."""
    artifact = default_recommender().artifact
    counts = artifact.training_counts.copy()
    counts[[2, 5]] = 0
    catalog = Catalog(pl.Series("id", [f"i{index}" for index in range(12)]))
    save_artifact(tmp_path / "m", artifact.model, catalog, artifact.config, {}, counts)
    library = Recommender.load(tmp_path / "m")
    with running(tmp_path / "m", store) as client:
        send(client, "u", "i3", "i4")
        for body in ({}, {"deny": ["i0"]}, {"allow": ["i1", "i2", "i4"]}, {"exclude_seen": False}):
            answer = client.post("/v1/recommendations", json={"user_id": "u", "k": 12, **body}).json()
            expected = library.recommend(["i3", "i4"], 12, **body)
            assert [item["item_id"] for item in answer["items"]] == [each.item for each in expected.items]
        client.put("/v1/items/i7", json={"categories": ["a"]})
        client.put("/v1/items/i1", json={"categories": ["a"]})  # never trained
        only = client.post("/v1/recommendations", json={"user_id": "u", "categories": {"any": ["a"]}}).json()
        assert [item["item_id"] for item in only["items"]] == ["i7"]
        cold = client.get("/v1/users/nobody/recommendations?k=12").json()
        assert {"i1", "i4"} & {item["item_id"] for item in cold["items"]} == set()
        similar = client.get("/v1/items/i3/similar?k=12").json()
        assert {"i1", "i4"} & {item["item_id"] for item in similar["items"]} == set()
