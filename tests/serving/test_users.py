"""Recommendations for every user of a file."""

import polars as pl
import pytest

import worlds
from ssd4rec.artefact import Artefact
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.experiment import make_model, training_counts
from ssd4rec.serving import users as module
from ssd4rec.serving.recommender import Recommender
from ssd4rec.serving.users import recommend_users


@pytest.fixture(scope="module")
def recommender():
    world, config = worlds.world(worlds.cycle()), worlds.config()
    counts = training_counts(world.histories, world.split.train, len(world.catalogue))
    return Recommender(Artefact(make_model(config, len(world.catalogue)).eval(), world.catalogue, config, {}, counts))


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
    found = pl.read_parquet(tmp_path / "recs.parquet")
    assert found.columns == ["user_id", "item_id", "score", "rank"]
    assert found["rank"].to_list() == [1, 2, 3] * 4
    expected = recommender.recommend([[2, 3], [1, 4], [777], [5]], k=3)
    assert found["item_id"].to_list() == [each.item for result in expected for each in result.items]
    assert found["user_id"].to_list() == [user for user in "bacd" for _ in range(3)]


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
    with pytest.raises(ConfigError, match="1 or more; found 0"):
        recommend_users(recommender, FRAME, tmp_path / "recs.parquet", k=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        recommend_users(recommender, FRAME, tmp_path / "file" / "recs.parquet")
