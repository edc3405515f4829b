"""Recommendations for every user of a file."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import worlds
from ssd4rec.artifact import Artifact
from ssd4rec.config import DataConfig
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.models.next_item import make_model
from ssd4rec.serving import batch as module
from ssd4rec.serving.batch import recommend_users
from ssd4rec.serving.recommender import Recommender


@pytest.fixture(scope="module")
def recommender():
    return fresh()


def fresh():
    world, config = worlds.world(worlds.cycle()), worlds.config()
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    return Recommender(Artifact(make_model(config, len(world.catalog)).eval(), world.catalog, config, {}, counts))


FRAME = pl.DataFrame(
    {
        "user_id": ["b", "a", "b", "c", "a", "d"],
        "item_id": [3, 1, 2, 777, 4, 5],
        "timestamp": [9, 1, 5, 1, 2, 1],
    }
)


def test_each_user_gets_what_the_history_gets(recommender, tmp_path, monkeypatch):
    """Unsorted rows, several chunks: user b's history is 2 3, a's is 1 4; c knows nothing and gets the popular items."""
    monkeypatch.setattr(module, "USERS_AT_ONCE", 2)
    counts = recommend_users(recommender, FRAME, tmp_path / "recs.parquet", k=3)
    assert counts == {"users": 4, "rows": 12, "unknown_interactions": 1, "popular_users": 1}
    result = pl.read_parquet(tmp_path / "recs.parquet")
    assert result.columns == ["user_id", "item_id", "score", "rank"]
    assert result["rank"].to_list() == [1, 2, 3] * 4
    expected = recommender.recommend([[2, 3], [1, 4], [777], [5]], k=3)
    assert result["item_id"].to_list() == [each.item for result in expected for each in result.items]
    assert result["user_id"].to_list() == [user for user in "bacd" for _ in range(3)]


def test_events_of_one_time_are_read_in_the_order_that_the_model_learnt(tmp_path):
    """A model of `data.tie_order = "item"` reads 4 1 3, all of one moment, as 1 3 4, also where the file has its ids as text."""
    world, config = worlds.world(worlds.cycle()), worlds.config()
    config = config.model_copy(update={"data": DataConfig(min_interactions=1, tie_order="item")})
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    model = make_model(config, len(world.catalog)).eval()
    recommender = Recommender(Artifact(model, world.catalog, config, {}, counts))
    frame = pl.DataFrame({"user_id": ["u"] * 4, "item_id": [4, 1, 777, 3], "timestamp": [1] * 4})
    expected = [each.score for each in recommender.recommend([[1, 3, 4]], k=3)[0].items]
    for each in (frame, frame.with_columns(pl.col("item_id").cast(pl.String))):
        recommend_users(recommender, each, tmp_path / "recs.parquet", k=3)
        assert pl.read_parquet(tmp_path / "recs.parquet")["score"].to_list() == pytest.approx(expected)


def test_progress_counts_users(recommender, tmp_path):
    """The last call says that all are done."""
    calls = []
    recommend_users(recommender, FRAME, tmp_path / "recs.parquet", k=1, progress=lambda *call: calls.append(call))
    assert calls[-1] == (4, 4)


def test_nothing_half_written_is_left(recommender, tmp_path, monkeypatch):
    """Interrupted in the middle, the old file stays and no other."""
    target = tmp_path / "recs.parquet"
    target.write_text("old")
    monkeypatch.setattr(module, "USERS_AT_ONCE", 2)

    def interrupt(done, _):
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_users(recommender, FRAME, target, k=1, progress=interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["recs.parquet"]
    assert target.read_text() == "old"


def test_slips_are_answered(recommender, tmp_path):
    """k = 0, and a folder that cannot be made."""
    with pytest.raises(ConfigError, match="k must be a positive integer, found 0"):
        recommend_users(recommender, FRAME, tmp_path / "recs.parquet", k=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        recommend_users(recommender, FRAME, tmp_path / "file" / "recs.parquet")
    with pytest.raises(DataError, match="it is a folder; give the name of a file"):
        recommend_users(recommender, FRAME, tmp_path)
    with pytest.raises(DataError, match=r"1 interactions are with items that are not in the catalog, the first 777; leave"):
        recommend_users(recommender, FRAME, tmp_path / "recs.parquet", unknown_items="raise")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".TSV", "\t")])
def test_the_suffix_says_which_kind_of_file_is_written(recommender, tmp_path, monkeypatch, suffix, separator):
    """CSV and TSV hold what Parquet holds, under one header, a chunk after the other; an id may hold the separator."""
    monkeypatch.setattr(module, "USERS_AT_ONCE", 2)
    frame = FRAME.with_columns(pl.format("{},\t7", "user_id").alias("user_id"))
    recommend_users(recommender, frame, tmp_path / "recs.pq", k=3)
    recommend_users(recommender, frame, tmp_path / f"recs{suffix}", k=3)
    result = pl.read_csv(tmp_path / f"recs{suffix}", separator=separator)
    assert result.equals(pl.read_parquet(tmp_path / "recs.pq"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["recs.pq", f"recs{suffix}"])


@pytest.mark.parametrize("name", ["recs.xlsx", "recs.csv.gz", "recs"])
def test_a_suffix_of_another_kind_is_refused(recommender, tmp_path, name):
    """No Parquet under a name that says something else."""
    with pytest.raises(DataError, match=r"its suffix says .*, \.parquet, \.pq, \.csv, \.tsv; give e\.g\. .*\.parquet"):
        recommend_users(recommender, FRAME, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", [False, True])
def test_the_interactions_are_not_overwritten(recommender, tmp_path, link):
    """An `out` that is the file which is read, by its own name or by a link, is refused, and the file stays what it was."""
    source = target = tmp_path / "plays.parquet"
    FRAME.write_parquet(source)
    if link:
        target = tmp_path / "link.parquet"
        target.symlink_to(source)
    before = source.read_bytes()
    with pytest.raises(DataError, match=r"cannot write .*: it is .*plays\.parquet, the interactions that are read; give another"):
        recommend_users(recommender, source, target)
    assert source.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices")
def test_pipes_and_devices_are_not_replaced(recommender, tmp_path):
    """A pipe and a link to a device are not replaced by a file."""
    pipe, device = tmp_path / "pipe.parquet", tmp_path / "null.parquet"
    os.mkfifo(pipe)
    device.symlink_to("/dev/null")
    for target in (pipe, device):
        with pytest.raises(DataError, match="it is a pipe or a device; give the name of a file"):
            recommend_users(recommender, FRAME, target)
    assert pipe.is_fifo()
    assert device.is_symlink()


def test_a_name_that_no_file_can_have_is_answered(recommender, tmp_path):
    """308 letters, 250 (which leave no room for the name until the file is whole), and a link to itself."""
    loop = tmp_path / "loop.parquet"
    loop.symlink_to(loop)
    for target in (tmp_path / f"{'x' * 300}.parquet", tmp_path / f"{'x' * 242}.parquet", loop):
        with pytest.raises(DataError, match=r"cannot write .*; give another file"):
            recommend_users(recommender, FRAME, target)
    assert list(tmp_path.iterdir()) == [loop]


def test_a_locked_folder_is_answered(recommender, monkeypatch):
    """A folder without search permission gives one clear error."""

    def locked(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", locked)
        with pytest.raises(DataError, match=r"cannot write locked.recs\.parquet: Permission denied; give another file"):
            recommend_users(recommender, FRAME, Path("locked/recs.parquet"))


def test_no_folder_is_made_for_what_cannot_be_read(recommender, tmp_path):
    """Only when the interactions have been read is the folder of `out` made."""
    target = tmp_path / "new" / "folder" / "recs.parquet"
    with pytest.raises(DataError, match="no such file"):
        recommend_users(recommender, tmp_path / "nosuch.csv", target)
    assert list(tmp_path.iterdir()) == []
    recommend_users(recommender, FRAME, target, k=1)
    assert target.is_file()


def test_allow_deny_and_the_fall_back_go_for_every_user(recommender, tmp_path):
    """Only 6 and 8 are allowed, 8 is denied; users with unknown items get popular ones."""
    frame = pl.concat([FRAME, pl.DataFrame({"user_id": ["d"], "item_id": [778], "timestamp": [2]})])
    counts = recommend_users(recommender, frame, tmp_path / "recs.parquet", allow=[6, 8], deny=[8], unknown_items="popular")
    assert counts == {"users": 4, "rows": 4, "unknown_interactions": 2, "popular_users": 2}
    assert pl.read_parquet(tmp_path / "recs.parquet")["item_id"].to_list() == [6] * 4


def test_text_ids_come_back_as_text(recommender, tmp_path):
    """A CSV file has the item ids as text: they are read as the catalog's own type, the users stay as they are."""
    FRAME.with_columns(pl.format("0{}", "user_id").alias("user_id")).write_csv(tmp_path / "log.csv")
    recommend_users(recommender, tmp_path / "log.csv", tmp_path / "recs.parquet", k=1)
    result = pl.read_parquet(tmp_path / "recs.parquet")
    assert result["user_id"].to_list() == ["0b", "0a", "0c", "0d"]
    assert result.schema == {"user_id": pl.String, "item_id": pl.Int64, "score": pl.Float64, "rank": pl.Int64}


def test_a_user_to_whom_nothing_is_left_has_no_rows(recommender, tmp_path):
    """Users a and b have seen neither 5 nor 6, user d has seen 5: with only 5 allowed, d has no row."""
    recommend_users(recommender, FRAME, tmp_path / "recs.parquet", allow=[5])
    assert pl.read_parquet(tmp_path / "recs.parquet")["user_id"].to_list() == ["b", "a", "c"]


KILLED = """
import sys, time
import polars as pl
sys.path[:0] = sys.argv[2:]
import test_batch
users = [user for user in range(20) for _ in range(3)]
frame = pl.DataFrame({"user_id": users, "item_id": [1, 2, 3] * 20, "timestamp": [1, 2, 3] * 20})
test_batch.module.USERS_AT_ONCE = 2
def wait(done, total):
    print(done, flush=True)
    time.sleep(60 if done == 10 else 0)
test_batch.module.recommend_users(test_batch.fresh(), frame, sys.argv[1], k=2, progress=wait)
"""


@pytest.mark.thorough
def test_a_process_killed_in_the_middle_leaves_no_file_of_that_name(recommender, tmp_path):
    """Killed after ten of twenty users, no file exists, and leftovers do not disturb the next run."""
    target = tmp_path / "recs.parquet"
    command = [sys.executable, "-c", KILLED, target, str(Path(__file__).parent), *sys.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while child.stdout.readline() not in {"10\n", ""}:
            pass
        child.kill()
    assert not target.exists()
    recommend_users(recommender, FRAME, target, k=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["recs.parquet"]
