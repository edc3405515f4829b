"""Import into a store, training from it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from sqlalchemy import select

import worlds
from service_world import running, send, stored_history
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.store_source import is_store, read_store
from ssd4rec.errors import DataError
from ssd4rec.service import importing
from ssd4rec.service.importing import import_events
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.schema import migrate
from ssd4rec.service.store.tables import imports, users


def world_frame() -> pl.DataFrame:
    frame = worlds.frame(worlds.cycle())
    return frame.sample(fraction=1.0, shuffle=True, seed=1).with_columns(pl.col("timestamp") + 1_700_000_000)


def histories(frame: pl.DataFrame) -> dict[str, list[str]]:
    grouped = frame.sort("timestamp", maintain_order=True).group_by("user_id", maintain_order=True).agg("item_id")
    return {str(user): [str(item) for item in items] for user, items in grouped.iter_rows()}


@pytest.mark.thorough
def test_an_import_is_the_histories_of_the_file(models: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "EVENTS_AT_ONCE", 100)
    frame, engine = world_frame(), open_engine(store)
    migrate(engine)
    calls: list[tuple[int, int]] = []
    imported = import_events(engine, read_interactions(frame), progress=lambda done, total: calls.append((done, total)))
    assert (imported.events, imported.resumed_at) == (len(frame), 0)
    assert calls[-1] == (len(frame), len(frame))
    assert len(calls) == -(-len(frame) // 100)
    again = import_events(engine, read_interactions(frame))
    assert (again.events, again.resumed_at) == (0, len(frame))
    with running(models, store) as client:
        for user, items in histories(frame).items():
            assert stored_history(client, user) == items
            send(client, user, "i1")
            assert stored_history(client, user) == [*items, "i1"]
    engine.dispose()


@pytest.mark.thorough
def test_an_interrupted_import_continues(models: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "EVENTS_AT_ONCE", 64)
    frame, engine = world_frame(), open_engine(store)
    migrate(engine)

    def interrupt(done: int, _: int) -> None:
        if done > 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_events(engine, read_interactions(frame), progress=interrupt)
    with engine.connect() as connection:
        assert connection.execute(select(imports)).one().rows_done == 256
    rest = import_events(engine, read_interactions(frame))
    assert (rest.events, rest.resumed_at) == (len(frame) - 256, 256)
    with running(models, store) as client:
        for user, items in histories(frame).items():
            assert stored_history(client, user) == items
    engine.dispose()


def test_an_import_of_older_events_is_late(models: Path, store: str) -> None:
    with running(models, store) as client:
        send(client, "u", "i1", "i2", timestamp=1_800_000_000 - 10**8)
        client.get("/v1/users/u/recommendations")
        engine = open_engine(store)
        older = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["i7", "i8"], "timestamp": [1_600_000_000, 1_600_000_001]})
        import_events(engine, read_interactions(older))
        assert stored_history(client, "u") == ["i7", "i8", "i1", "i2"]
        with engine.connect() as connection:
            assert connection.execute(select(users.c.generation)).scalar_one() == 1
        engine.dispose()


def test_the_store_as_interactions(models: Path, store: str) -> None:
    with running(models, store) as client:
        client.put("/v1/items/i3", json={"title": "A title"})
        send(client, "u2", "i3", "i4", timestamp=1_700_000_000)
        send(client, "u1", "i5", timestamp=1_700_000_001.5)
        send(client, "u2", "i1", timestamp=1_600_000_000)
    interactions, titles = read_store(store)
    rows = interactions.table.sort("user", "time", maintain_order=True).rows()
    assert [(user, item) for user, item, _ in rows] == [("u1", "i5"), ("u2", "i1"), ("u2", "i3"), ("u2", "i4")]
    seconds = np.array([time for _, _, time in rows]) / interactions.read.clock.ticks_per_second
    assert seconds.tolist() == [1_700_000_001.5, 1_600_000_000, 1_700_000_000, 1_700_000_000]
    assert "4 events, the newest received 20" in interactions.read.source
    assert titles.rows() == [("i3", "A title")]


@pytest.mark.parametrize("address", ["events.db", "ml-100k", "data/sqlite.csv"])
def test_names_that_are_no_addresses(address: str) -> None:
    assert not is_store(address)


def test_stores_that_cannot_be_read(new_store: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_store(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    engine = open_engine(new_store)
    with engine.begin():
        pass
    with pytest.raises(DataError, match="cannot be read as a store"):
        read_store(new_store)
    migrate(engine)
    with pytest.raises(DataError, match="contains no events"):
        read_store(new_store)
    engine.dispose()


@pytest.mark.slow
def test_the_commands_from_a_file_to_a_model(tmp_path: Path) -> None:
    world_frame().write_csv(tmp_path / "log.csv")
    store = f"sqlite:///{tmp_path / 'events.db'}"

    def run(*arguments: str) -> dict:
        command = [sys.executable, "-m", "ssd4rec", *arguments, "--json"]
        return json.loads(subprocess.run(command, capture_output=True, check=True, cwd=tmp_path).stdout)

    assert run("events", "import", "log.csv", "--store", store)["events"] == len(world_frame())
    report = run("train", store, "--out", "model", "--set", "training.max_epochs=1", "--set", "data.min_interactions=1")
    assert "events, the newest received" in report["data"]["read"]["source"]
    key = run("keys", "create", "me", "--store", store, "--scope", "admin")
    assert run("keys", "list", "--store", store)[0]["key_id"] == key["key_id"]
    assert run("models", "list", "model") == [{"version": "model", "active": True}]


def recipes() -> dict[str, str]:
    """The shell scripts of the guide: that of cron and systemd, and that of Kubernetes."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "retrain.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    script = next(text for kind, text in blocks if kind == "bash" and text.startswith("#!/bin/sh"))
    job = yaml.safe_load(next(text for kind, text in blocks if kind == "yaml"))
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["sh", "-euc"]
    return {"cron": script, "kubernetes": f"set -eu\n{container['args'][0]}"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cron", "kubernetes"])
def test_the_recipes_of_the_guide_retrain_and_activate(recipe: str, tmp_path: Path) -> None:
    engine = open_engine(store := f"sqlite:///{tmp_path / 'events.db'}")
    migrate(engine)
    import_events(engine, read_interactions(world_frame()))
    engine.dispose()
    program = tmp_path / "bin" / "ssd4rec"
    program.parent.mkdir()
    short = "--set training.max_epochs=1 --set data.min_interactions=1"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = train ]; then set -- "$@" {short}; fi\nexec {sys.executable} -m ssd4rec "$@"\n', encoding="utf-8"
    )
    program.chmod(0o755)
    models = tmp_path / "models"
    models.mkdir()
    script = (
        recipes()[recipe]
        .replace("/var/lib/ssd4rec", str(tmp_path))
        .replace("/models", str(models) if recipe == "kubernetes" else "/models")
    )
    environment = os.environ | {"SSD4REC_STORE": store, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    for number in (1, 2):  # the second one passes the gate against the first one
        result = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "is active" in result.stdout
        (version,) = [folder for folder in models.iterdir() if folder.is_dir() and folder.name.startswith("2")]
        choice = json.loads((models / "active.json").read_text(encoding="utf-8"))
        assert choice == {"version": version.name, "gate": "passed"}
        version.rename(older := models / f"1{number}-{version.name}")  # the next one may begin in the same minute
        (models / "active.json").write_text(json.dumps({"version": older.name}), encoding="utf-8")
    failed = subprocess.run(
        ["sh", "-c", script],
        env=environment | {"SSD4REC_STORE": "sqlite:///none.db"},
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert failed.returncode == 2
    assert len(list(models.glob("[0-9]*"))) == 2  # nothing half-written, and the old version stays
