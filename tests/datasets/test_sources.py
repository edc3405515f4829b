"""Sources of data: files, frames, named data sets, and addresses of stores."""

import polars as pl
import pytest

from ssd4rec.config import DataConfig
from ssd4rec.datasets.sources import check_name, open_source
from ssd4rec.errors import DataError

LOG = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"], "event": ["buy", "view", "buy"], "time": [3, 2, 1]})


def test_a_file_is_read_with_all_settings(tmp_path):
    LOG.write_csv(tmp_path / "log.csv")
    config = DataConfig(time_format="%Y-%m-%d")
    interactions, titles = open_source(str(tmp_path / "log.csv"), DataConfig(where="event = 'buy'"))
    assert interactions.table["item"].to_list() == ["x", "x"]
    assert titles is None
    with pytest.raises(DataError, match="times in the format %Y-%m-%d"):
        open_source(tmp_path / "log.csv", config)


def test_a_frame_and_titles():
    titles = pl.DataFrame({"item_id": ["x"], "title": ["Ex"]})
    interactions, read_titles = open_source(LOG, DataConfig(), titles)
    assert interactions.read.rows == 3
    assert read_titles.rows() == [("x", "Ex")]


def test_titles_next_to_a_file_are_read_or_explained(tmp_path, caplog):
    LOG.select(pl.col("user_id").alias("user_id:token"), pl.col("item_id").alias("item_id:token")).write_csv(
        tmp_path / "log.inter", separator="\t"
    )
    (tmp_path / "log.item").write_text("item_id:token\tmovie_title:token_seq\nx\tEx\n")
    assert open_source(tmp_path / "log.inter", DataConfig())[1].rows() == [("x", "Ex")]
    (tmp_path / "log.item").write_text("item_id:token\tyear:token\nx\t1999\n")
    assert open_source(tmp_path / "log.inter", DataConfig())[1] is None
    assert "no titles: " in caplog.text


def test_a_name_of_nothing_is_refused():
    with pytest.raises(DataError, match=r"'ml-100' is neither a file nor a named data set; the named data sets are .*ml-100k"):
        check_name("ml-100")
    check_name("ml-100k")
    check_name("missing.csv")  # reading it gives the reason
