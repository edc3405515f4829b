"""Ids as they came, times as exact integers, and a report of how the table was understood."""

import datetime

import pandas as pd
import polars as pl
import pytest

from ssd4rec.data.interactions import Columns, read_interactions, read_titles
from ssd4rec.data.timestamps import Clock
from ssd4rec.errors import DataError


def csv(tmp_path, text, name="log.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recbole_file(tmp_path):
    """Tokens are text, times come as floats, the rating is left alone."""
    text = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n007\t242\t3\t881250949.0\n"
    result = read_interactions(csv(tmp_path, text, "log.inter"))
    assert result.table.rows() == [("196", "242", 881250949), ("007", "242", 881250949)]
    assert result.table.schema == {"user": pl.String, "item": pl.String, "time": pl.Int64}
    assert (result.read.rows, result.read.users, result.read.items) == (2, 2, 1)
    assert result.read.columns == {"user": "user_id", "item": "item_id", "time": "timestamp"}
    assert (result.read.time, result.read.notes) == ("seconds", ())
    assert result.read.source == str(tmp_path / "log.inter")


def test_rows_keep_their_order_and_repeats(tmp_path):
    text = "user,item,ts\nb,x,9\na,x,7\nb,x,9\nb,x,8\n"
    assert read_interactions(csv(tmp_path, text)).table.rows() == [("b", "x", 9), ("a", "x", 7), ("b", "x", 9), ("b", "x", 8)]


def test_without_times_the_order_of_the_rows_is_used_with_a_warning(tmp_path):
    result = read_interactions(csv(tmp_path, "user,item,when\nb,x,9\na,x,7\n"))
    assert result.table["time"].to_list() == [0, 1]
    assert result.read.clock == Clock("file order")
    assert result.read.notes == ("no time column: the order of the rows is used (columns user, item, when; --time names one)",)


def test_named_columns(tmp_path):
    result = read_interactions(csv(tmp_path, "who,what,when\nb,x,2016-01-31\n"), Columns("who", "what", "when"))
    assert result.table.rows() == [("b", "x", 16_831 * 86_400)]
    assert (result.read.time, result.read.columns) == ("date", {"user": "who", "item": "what", "time": "when"})


def test_small_times_are_plain_numbers_with_a_warning(tmp_path):
    result = read_interactions(csv(tmp_path, "user,item,time\nb,x,1\nb,y,2277\n"))
    assert result.read.notes == ("times from 1 to 2277 are read as plain numbers, not as moments of a calendar",)


@pytest.mark.parametrize("dtype", [pl.Int64, pl.UInt32, pl.Int8, pl.String, pl.Float64])
def test_frames_keep_their_types(dtype):
    ids = pl.Series(["7", "8"]).cast(dtype)
    table = read_interactions(pl.DataFrame({"user_id": ids, "item_id": ids})).table
    assert table.schema == {"user": dtype, "item": dtype, "time": pl.Int64}
    assert table["item"].to_list() == ids.to_list()


def test_float_ids_stay_floats_with_a_warning():
    """7.0 may be a 7 that pandas made a float because of a missing value; only the user knows."""
    result = read_interactions(pl.DataFrame({"user_id": [1, 2], "item_id": [7.0, 8.0]}))
    assert result.read.notes[1].startswith("item ids are decimal numbers such as 7.0 and are used as they are; cast them")


def test_ids_with_blanks_are_unchanged_with_a_warning(tmp_path):
    """A request for "b" would find no such user."""
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\na, x,1\nb ,y,2\n")
    result = read_interactions(tmp_path / "log.csv")
    assert result.table["user"].to_list() == ["a", "b "]
    assert result.read.notes[-2:] == (
        "user ids begin or end with a blank, such as 'b ', and are used as they are: requests need the blank too",
        "item ids begin or end with a blank, such as ' x', and are used as they are: requests need the blank too",
    )


def test_categories_are_text():
    frame = pd.DataFrame({"user_id": pd.Categorical(["b", "a"]), "item_id": ["x", "y"]})
    result = read_interactions(frame)
    assert result.table.rows() == [("b", "x", 0), ("a", "y", 1)]
    assert result.table.schema["user"] == pl.String


def test_pandas_times():
    """With a zone, moved to UTC."""
    moments = pd.to_datetime(["2020-01-01T02:00:00+02:00", "2020-01-02T00:00:00Z"], utc=True)
    result = read_interactions(pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": moments}))
    per_second = result.read.clock.ticks
    start = int(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC).timestamp())
    assert result.table["time"].to_list() == [start * per_second, (start + 86_400) * per_second]
    assert result.read.time == "datetime"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"user_id": [1, None, None], "item_id": [1, 2, 3]},
            r"2 of 3 user ids \(column 'user_id'\) are missing, the first in row 2",
        ),
        ({"user_id": [1.0, float("nan")], "item_id": [1, 2]}, r"1 of 2 user ids .* the first in row 2; remove these rows"),
        ({"user_id": [None, None], "item_id": [1, 2]}, r"2 of 2 user ids"),
        ({"user_id": [1, 2], "item_id": ["", "a"]}, r"1 of 2 item ids \(column 'item_id'\) are missing, the first in row 1"),
        ({"user_id": [[1]], "item_id": [1]}, r"column 'user_id' holds List\(Int64\); ids must be text or numbers"),
        ({"user_id": [1], "item_id": [b"1"]}, r"column 'item_id' holds Binary; ids must be text or numbers"),
        ({"user_id": [1], "item_id": [1], "time": [None]}, r"the time in row 1 \(column 'time'\) is missing; expected whole or"),
        ({"user_id": [1], "item_id": [1], "time": [[1]]}, r"column 'time': a column of type List\(Int64\) does not hold times"),
    ],
)
def test_bad_values_are_named(frame, message):
    with pytest.raises(DataError, match=f"polars frame: .*{message}"):
        read_interactions(pl.DataFrame(frame))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,time\na,x,1\n,x,2\n", r"log.csv: 1 of 2 user ids \(column 'user'\) are missing, the first in line 3"),
        (
            "user,item,time\na,x,1\n\na,x,soon\n",
            r"log.csv: the time in line 4 \(column 'time'\) is 'soon'; expected .* ISO dates",
        ),
        ("user,item,time\na,x,1\na,x,\n", r"log.csv: the time in line 3 \(column 'time'\) is missing"),
        (
            "user,item,time\na,x,2020-01-01T00:00:00.123456789\na,x,9999-12-31\n",
            r"log.csv: the time in line 3 \(column 'time'\) is '9999-12-31'; expected at most 7 decimals of a second",
        ),
        ("user,rating\na,x\n", r"log.csv: no item column found"),
    ],
)
def test_bad_values_of_a_file_are_named_by_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_interactions(csv(tmp_path, text))


def test_titles(tmp_path):
    """Text as written, nothing where there is none."""
    text = 'item_id:token\tmovie_title:token_seq\tclass:token_seq\n007\t"A ""Great"" film"\tx\n8\t\ty\n'
    result = read_titles(csv(tmp_path, text, "log.item"))
    assert result.rows() == [("007", 'A "Great" film'), ("8", None)]
    assert result.columns == ["id", "title"]


def test_titles_of_frames_keep_id_types():
    assert read_titles(pl.DataFrame({"movieId": [7], "title": ["Seven"]})).rows() == [(7, "Seven")]
    assert read_titles(pl.DataFrame({"id": pl.Series(["a"], dtype=pl.Categorical), "name": [3]})).rows() == [("a", "3")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,genres\n1,x\n", r"items.csv: no column of item titles found"),
        ("item_id,title\n,x\n", r"items.csv: 1 of 1 item ids"),
    ],
)
def test_bad_title_files_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_titles(csv(tmp_path, text, "items.csv"))
