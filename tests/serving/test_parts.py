"""Batch jobs in parts: shards, engines and a single process write the same bytes."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import served
import worlds
from ssd4rec.artifact import save_artifact
from ssd4rec.data.out_of_core.build import build_folder
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.models.next_item import make_model
from ssd4rec.serving.arrow import ArrowRecommender, BatchOptions
from ssd4rec.serving.batch import recommend_users
from ssd4rec.serving.parts import PartsFolder, Shard, check_coverage, make_job
from ssd4rec.serving.recommender import Recommender
from ssd4rec.serving.spark_engine import recommend_in_spark, sequences_of

OPTIONS = BatchOptions(k=5)
USERS = 2_500


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    world, config = worlds.world(worlds.cycle()), worlds.config()
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    save_artifact(folder / "model", make_model(config, len(world.catalog)), world.catalog, config, {}, counts)
    rows = [(f"u{user}", (user + step) % 14, step) for user in range(USERS) for step in range(2 + user % 5)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(folder / "log.parquet")
    job = make_job(folder / "model", folder / "log.parquet", folder / "whole", OPTIONS, users_per_part=1024)
    job.open().run()
    return folder


def parts_of(artifact):
    """The arguments of `save_artifact` after the folder."""
    return artifact.model, artifact.catalog, artifact.config, {}, artifact.training_counts


def job_of(folder, out):
    return make_job(folder / "model", folder / "log.parquet", out, OPTIONS, users_per_part=1024)


def test_the_parts_are_the_file_of_one_process(folder, tmp_path):
    recommend_users(Recommender.load(folder / "model"), folder / "log.parquet", tmp_path / "file.parquet", k=5)
    parts = [pl.read_parquet(path) for path in sorted((folder / "whole").glob("part-*.parquet"))]
    assert len(parts) == 3
    assert pl.concat(parts).equals(pl.read_parquet(tmp_path / "file.parquet"))
    manifest = json.loads((folder / "whole" / "manifest.json").read_text())
    assert (manifest["users"], manifest["rows"]) == (USERS, sum(len(part) for part in parts))
    assert list(check_coverage(folder / "whole")) == []


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_equal_the_whole(folder, tmp_path, count):
    for index in reversed(range(1, count + 1)):
        coverage = job_of(folder, tmp_path / "out").open().run(Shard(index, count))
    assert coverage.missing == ()
    assert contents(tmp_path / "out") == contents(folder / "whole")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_parts_at_a_time(tmp_path, kind):
    """Each user has a gap of its own; the parts are the file of one process."""
    save_artifact(tmp_path / "model", *parts_of(served.recommender(request_time=True).artifact))
    frame = pl.DataFrame(
        [(f"u{user}", (user + step) % 12, 1_715_000_000 + 977 * user + 61 * step) for user in range(40) for step in range(3)],
        schema=["user_id", "item_id", "timestamp"],
        orient="row",
    )
    frame.write_parquet(tmp_path / "log.parquet")
    source, at = tmp_path / "log.parquet", "2024-06-01T08:30"
    if kind == "folder":
        source = tmp_path / "sequences"
        build_folder([tmp_path / "log.parquet"], source, memory=10**6, min_interactions=1)
    make_job(tmp_path / "model", source, tmp_path / "out", BatchOptions(k=5, at=at)).open().run()
    recommend_users(Recommender.load(tmp_path / "model"), tmp_path / "log.parquet", tmp_path / "file.parquet", k=5, at=at)
    assert pl.read_parquet(tmp_path / "out" / "part-00000.parquet").equals(pl.read_parquet(tmp_path / "file.parquet"))
    with pytest.raises(DataError, match="another job"):
        make_job(tmp_path / "model", source, tmp_path / "out", BatchOptions(k=5)).open()
    with pytest.raises(DataError, match="cannot read the moment"):
        make_job(tmp_path / "model", source, tmp_path / "other", BatchOptions(k=5, at="soon")).open()


def test_a_time_that_is_not_read_or_not_in_the_data_is_refused(folder, tmp_path):
    """Before any part is written."""
    with pytest.raises(ConfigError, match="does not read the time of a request"):
        make_job(folder / "model", folder / "log.parquet", tmp_path / "out", BatchOptions(k=5, at=10**9)).open()
    save_artifact(tmp_path / "model", *parts_of(served.recommender(request_time=True).artifact))
    with pytest.raises(ConfigError, match="needs data with times of a calendar"):
        make_job(tmp_path / "model", folder / "log.parquet", tmp_path / "out", BatchOptions(k=5, at=10**9)).open()
    batch = pa.table({"user": ["a"], "items": [[1]]})
    with pytest.raises(DataError, match="the columns user, items and last_event"):
        ArrowRecommender(tmp_path / "model", BatchOptions(k=5, at=10**9))(batch)


def test_finished_parts_are_skipped_and_missing_ones_named(folder, tmp_path):
    first = job_of(folder, tmp_path / "out").open().run(Shard(1, 2))
    assert first.missing == (1,)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(DataError, match="not finished"):
        list(check_coverage(tmp_path / "out"))
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert job_of(folder, tmp_path / "out").open().run().missing == ()
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in times} == times
    assert contents(tmp_path / "out") == contents(folder / "whole")


def test_a_manifest_notices_changed_and_missing_parts(folder, tmp_path):
    job_of(folder, tmp_path / "out").open().run()
    (tmp_path / "out" / "part-00000.parquet").unlink()
    with (tmp_path / "out" / "part-00002.parquet").open("ab") as file:
        file.write(b"!")
    assert list(check_coverage(tmp_path / "out")) == ["part-00000.parquet is missing", "part-00002.parquet was changed"]


def test_another_job_does_not_join_a_folder(folder, tmp_path):
    job_of(folder, tmp_path / "out").open()
    with pytest.raises(DataError, match=r"another job \(other options"):
        make_job(folder / "model", folder / "log.parquet", tmp_path / "out", BatchOptions(k=6), users_per_part=1024).open()


@pytest.mark.thorough
def test_a_folder_of_sequences_gives_what_the_file_gives(folder, tmp_path):
    build_folder([folder / "log.parquet"], tmp_path / "sequences", memory=10**6, min_interactions=1)
    job = make_job(folder / "model", tmp_path / "sequences", tmp_path / "out", OPTIONS, users_per_part=1024)
    job.open().run()
    parts = {name: data for name, data in contents(folder / "whole").items() if name.startswith("part-")}
    assert {name: data for name, data in contents(tmp_path / "out").items() if name in parts} == parts
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="ssd4rec data build"):
        make_job(folder / "model", tmp_path / "empty", tmp_path / "other", OPTIONS).open()


def test_shards_are_parsed():
    assert Shard.parse("2/8") == Shard(2, 8)
    assert [list(Shard(index, 3).parts(7)) for index in (1, 2, 3)] == [[0, 3, 6], [1, 4], [2, 5]]
    for text in ("0/2", "3/2", "2", "a/b", "1/0", "-1/2"):
        with pytest.raises(ConfigError, match="--shard is i/n"):
            Shard.parse(text)


def test_parts_are_of_whole_blocks_of_users(folder, tmp_path):
    recommender = ArrowRecommender(folder / "model", OPTIONS)
    with pytest.raises(ConfigError, match="multiple of 1,024"):
        PartsFolder(tmp_path, recommender, [], users_per_part=1000)


def test_a_batch_without_its_columns_is_refused(folder):
    with pytest.raises(DataError, match="columns user and items"):
        ArrowRecommender(folder / "model", OPTIONS)(pa.table({"user": ["a"], "history": [[1]]}))


def test_empty_and_unknown_histories_in_a_batch(folder):
    batch = pa.table({"user": ["a", "b", "c"], "items": pa.array([[], [777], [3, 4]], pa.list_(pa.int64()))})
    result = ArrowRecommender(folder / "model", OPTIONS).recommend(batch)
    assert (result.users, result.popular_users, result.unknown_interactions) == (3, 2, 1)
    assert result.table["user_id"].to_pylist() == [user for user in "abc" for _ in range(5)]
    expected = Recommender.load(folder / "model").recommend([3, 4], 5)
    assert result.table["item_id"].to_pylist()[10:] == [each.item for each in expected.items]


def workers_of(process):
    """Process ids of Ray's map workers under a Ray that a process started."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
    return [each for each, name in names.items() if name.startswith(b"ray::Map") and parents.get(parents[each]) == process]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_ray_writes_the_same_bytes_with_two_workers_one_of_them_killed(folder, tmp_path):
    pytest.importorskip("ray")
    rows = [(f"u{user}", (user + step) % 12, step) for user in range(70_000) for step in range(2 + user % 5)]
    log, out = tmp_path / "log.parquet", tmp_path / "out"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(log)
    make_job(folder / "model", log, tmp_path / "whole", OPTIONS).open().run()
    command = ["ssd4rec", "recommend", folder / "model", "--users", log, "--out", out, "-k", 5, "--engine", "ray", "--workers", 2]
    killed = None
    with subprocess.Popen([sys.executable, "-m", *map(str, command)], stdout=subprocess.PIPE, text=True) as process:
        while killed is None and process.poll() is None:
            time.sleep(0.01)
            parts = len(list(out.glob("part-*")))
            if parts and (workers := workers_of(process.pid)):
                os.kill(workers[0], signal.SIGKILL)
                killed = parts
        shown = process.communicate(timeout=300)[0]
    assert process.returncode == 0
    assert killed is not None
    assert killed < 9
    assert "9 of 9 parts complete" in shown
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Spark's own
def test_spark_gives_what_one_process_gives(folder, monkeypatch):
    pytest.importorskip("pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    sql = importlib.import_module("pyspark.sql")
    spark = (
        sql.SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "3")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    try:
        log = spark.read.parquet(str(folder / "log.parquet"))
        sequences = sequences_of(log, "user_id", "item_id", "timestamp")
        rows = recommend_in_spark(sequences, str(folder / "model"), OPTIONS).collect()
        with pytest.raises(DataError, match="user"):
            recommend_in_spark(log, str(folder / "model"), OPTIONS)
    finally:
        spark.stop()
    result = pl.DataFrame([tuple(row) for row in rows], schema=["user_id", "item_id", "score", "rank"], orient="row")
    expected = pl.concat([pl.read_parquet(path) for path in sorted((folder / "whole").glob("part-*.parquet"))])
    result, expected = result.sort("user_id", "rank"), expected.sort("user_id", "rank")
    assert result.drop("score").equals(expected.drop("score"))
    assert (result["score"] - expected["score"]).abs().max() < 1e-6
