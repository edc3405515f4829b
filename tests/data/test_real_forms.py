"""Files as people have them: the right rows, or advice that works. Counts and orders are compared with pandas or by hand."""

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssd4rec.data.interactions import Columns, ReadOptions, read_interactions
from ssd4rec.data.io import read_table
from ssd4rec.errors import DataError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOVIELENS = [("1", "1193", 5, 978300760), ("1", "661", 3, 978302109), ("2", "1193", 4, 978298413)]


def read(tmp_path, data, name="log.csv", columns=None, **options):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_interactions(path, columns or Columns(), ReadOptions(**options))


def rows(interactions):
    return interactions.table.rows()


def notes(interactions):
    return " | ".join(interactions.read.notes)


def seconds(*moment):
    return int((datetime(*moment, tzinfo=UTC) - EPOCH).total_seconds())


# --- times -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1_461_974_400_123, 1_461_974_400_123_000])
def test_two_units_in_one_column_are_refused_by_row(tmp_path, number):
    """Seconds and milliseconds sorted together would be a wrong order."""
    lines = [f"u,{item},{1_461_974_400 + item}" for item in range(20)]
    lines[13] = f"u,13,{number}"
    with pytest.raises(DataError, match=f"line 15, column 'time': {number} looks like m.*seconds, but most times are seconds"):
        read(tmp_path, "user,item,time\n" + "\n".join(lines))


def test_a_sentinel_does_not_change_the_unit_of_the_others(tmp_path):
    """The end of the year 9999 in seconds has the size of milliseconds."""
    lines = [f"u,{item},{1_461_974_400 + item}" for item in range(20)] + ["u,20,253402300799"]
    result = read(tmp_path, "user,item,time\n" + "\n".join(lines))
    assert result.read.time == "seconds"
    assert "1 times are after tomorrow; the times were read as seconds" in notes(result)
    assert result.read.span == ("2016-04-30", "9999-12-31T23:59:59Z")


@pytest.mark.parametrize(
    ("text", "kind"),
    [("20160131180500", "datetime"), ("201601311805", "datetime"), ("20160131", "date"), ("1601311805", "datetime")],
)
@pytest.mark.parametrize("typed", [str, int])
def test_compact_times_are_dates_and_not_epochs(text, kind, typed):
    """Ten values: a single number of ten digits may be seconds."""
    last = {8: 1, 10: 10, 12: 10, 14: 10}[len(text)]
    values = [typed(int(text) - 10 * step if last == 10 else int(text) - step) for step in range(1)]
    values += [typed(int(text) - (minute if len(text) != 14 else 100 * minute)) for minute in range(1, 5)]
    day = text[:-4] if len(text) in (10, 12) else text[:-6] if len(text) == 14 else ""
    rest = {10: "12", 12: "12", 14: "12"}.get(len(text))
    if rest is not None:
        values += [typed(int(day + "12" + f"{minute:02}" + ("00" if len(text) == 14 else ""))) for minute in range(10, 20)]
    frame = pl.DataFrame({"user": ["u"] * len(values), "item": [str(each) for each in range(len(values))], "time": values})
    result = read_interactions(frame)
    assert result.read.time == kind
    assert result.table["time"][0] == seconds(2016, 1, 31, *((18, 5) if kind == "datetime" else ()))
    assert result.table["time"].arg_sort().to_list() == frame["time"].cast(pl.Int64).arg_sort().to_list()


def test_a_few_numbers_of_ten_digits_are_seconds():
    result = read_interactions(pl.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "time": [1601311805, 1601311806]}))
    assert result.read.time == "seconds"


def test_a_few_short_dates_are_noted_and_the_advice_works(tmp_path):
    """Three values are too few to be sure."""
    text = "user,item,time\na,1,1601311805\na,2,1602011230\nb,1,1512310001\n"
    result = read(tmp_path, text)
    assert result.read.time == "seconds"
    assert '1601311805 are read as seconds, 2020-09-28T16:50:05Z; if they are dates, add --time-format "%y%m%d%H%M"' in notes(
        result
    )
    dates = read(tmp_path, text, time_format="%y%m%d%H%M")
    assert dates.table["time"].to_list() == [
        seconds(2016, 1, 31, 18, 5),
        seconds(2016, 2, 1, 12, 30),
        seconds(2015, 12, 31, 0, 1),
    ]
    assert "if they are dates" not in notes(read(tmp_path, "user,item,time\na,1,1600000000\na,2,1600000099\n"))
    assert "if they are dates" in notes(read(tmp_path, "user,item,time\na,1,910112153\n"))  # the pattern reads nine digits too


@pytest.mark.parametrize("day", ["2016-01-31", "20160131", "31.01.2016"])
def test_a_date_next_to_an_hour(tmp_path, day):
    """The hour decides the order within a day; minutes and seconds too, if there are any."""
    result = read(tmp_path, f"user,item,date,hour\na,x,{day},23\na,y,{day},9\n")
    assert result.table["time"].to_list() == [seconds(2016, 1, 31, 23), seconds(2016, 1, 31, 9)]
    assert "the time is date and hour combined" in notes(result)
    finer = read(tmp_path, f"user,item,date,hr,minute,second\na,x,{day},9,5,7\na,y,{day},9,5,6\n")
    assert finer.table["time"].to_list() == [seconds(2016, 1, 31, 9, 5, 7), seconds(2016, 1, 31, 9, 5, 6)]
    whole = read(tmp_path, "user,item,date,hour\na,x,2016-01-31T10:30:00,10\na,y,2016-01-31T10:29:00,10\n")
    assert whole.table["time"].to_list() == [seconds(2016, 1, 31, 10, 30), seconds(2016, 1, 31, 10, 29)]
    with pytest.raises(DataError, match=r"the time in line 3 \(column 'date \+ hour'\) is '2016-01-31 25:00:00'"):
        read(tmp_path, "user,item,date,hour\na,x,2016-01-31,23\na,y,2016-01-31,25\n")


@pytest.mark.parametrize("kind", [pl.Date, pl.Datetime("us"), pl.Datetime("ns")])
def test_a_date_of_a_frame_next_to_an_hour(kind):
    """Dates of pandas are midnights; hours may be decimal numbers or text such as 9:05."""
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "date": [date(2016, 1, 31)] * 2, "hour": [23, 9]})
    frame = frame.with_columns(pl.col("date").cast(kind))
    expected = [seconds(2016, 1, 31, 23), seconds(2016, 1, 31, 9)]
    for source in (frame, frame.to_pandas(), frame.with_columns(pl.col("hour").cast(pl.Float64))):
        assert read_interactions(source).table["time"].to_list() == expected
    clock = frame.with_columns(hour=pl.Series(["23:15", "9:05"]))
    assert read_interactions(clock).table["time"].to_list() == [expected[0] + 900, expected[1] + 300]
    named = frame.rename({"hour": "time"}).with_columns(time=pl.Series(["23:15", "09:05"]))
    assert read_interactions(named).table["time"].to_list() == [expected[0] + 900, expected[1] + 300]


def test_dates_among_date_times_keep_the_time_of_day():
    """A column of Python objects is not cut to days."""
    times = [datetime(2020, 1, 1, 18, 5), date(2020, 1, 2), datetime(2020, 1, 1, 9)]
    frame = pd.DataFrame({"user": list("uuu"), "item": list("abc"), "time": pd.Series(times, dtype=object)})
    result = read_interactions(frame)
    assert [result.table["item"][row] for row in result.table["time"].arg_sort()] == ["c", "a", "b"]
    with pytest.raises(DataError, match="mixes times with and without a time zone; convert all of them to UTC"):
        read_interactions(frame.assign(time=pd.Series([*times[:2], datetime(2020, 1, 1, tzinfo=UTC)], dtype=object)))


def test_times_that_a_frame_cannot_mean_are_refused():
    """Times of day as Python objects, and lists of items without times."""
    frame = pd.DataFrame({"user": ["u"], "item": ["a"], "time": pd.Series([time(18, 5)], dtype=object)})
    with pytest.raises(DataError, match="column 'time' holds values of type time of day; expected text, numbers or times"):
        read_interactions(frame)
    lists = pl.DataFrame({"user": ["u", "u"], "item": [["a"], ["b"]], "time": [[1], None]})
    with pytest.raises(DataError, match="row 2 has lists of items and times of different lengths"):
        read_interactions(lists)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["12/13/2010 8:26", "1/2/2011 18:05"], [(2010, 12, 13, 8, 26), (2011, 1, 2, 18, 5)]),
        (["13/12/2010", "02/01/2011"], [(2010, 12, 13), (2011, 1, 2)]),
        (["09 13, 2009", "01 2, 2010"], [(2009, 9, 13), (2010, 1, 2)]),
        (["Tue Apr 03 18:00:09 +0000 2012", "Tue Apr 03 20:00:09 +0200 2012"], [(2012, 4, 3, 18, 0, 9)] * 2),
        (["31 Jan 2016, 18:05", "1 Feb 2016, 09:00"], [(2016, 1, 31, 18, 5), (2016, 2, 1, 9)]),
        (["2016/01/31 18:05:00", "2016/02/01 00:00:00"], [(2016, 1, 31, 18, 5), (2016, 2, 1)]),
    ],
)
def test_the_only_format_that_fits_is_used_and_named(values, expected):
    result = read_interactions(pl.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "time": values}))
    assert result.table["time"].to_list() == [seconds(*moment) for moment in expected]
    assert "are read as" in notes(result)


def test_ambiguous_day_and_month_need_a_time_format(tmp_path):
    """The advice is an option that works."""
    text = "user,item,time\nu,a,01/02/2016\nu,b,03/04/2016\n"
    with pytest.raises(
        DataError, match=r'fit several formats; choose one with --time-format "%d/%m/%Y" or --time-format "%m/%d/%Y"'
    ):
        read(tmp_path, text)
    assert read(tmp_path, text, time_format="%d/%m/%Y").table["time"].to_list() == [seconds(2016, 2, 1), seconds(2016, 4, 3)]
    assert read(tmp_path, text, time_format="%m/%d/%Y").table["time"].to_list() == [seconds(2016, 1, 2), seconds(2016, 3, 4)]
    with pytest.raises(DataError, match=r"line 2 .* is '01/02/2016'; expected times in the format %Y"):
        read(tmp_path, text, time_format="%Y-%m-%d")


@pytest.mark.parametrize("zone", ["+99:99", "-16:00", "+02:60"])
def test_impossible_zones_are_refused(tmp_path, zone):
    with pytest.raises(DataError, match="the time in line 2"):
        read(tmp_path, f"user,item,time\nu,a,2016-01-31T18:05:00{zone}\n")


# --- columns -----------------------------------------------------------------------------------------------------------------


def test_year_month_and_day_are_combined(tmp_path):
    """The day of the month alone would be a wrong order."""
    result = read(tmp_path, "user_id,item_id,year,month,day\nu,a,2016,1,31\nu,b,2016,2,1\nu,c,2015,12,24\n")
    assert result.table["time"].to_list() == [seconds(2016, 1, 31), seconds(2016, 2, 1), seconds(2015, 12, 24)]
    text = "user_id,item_id,month,day\nu,a,1,31\n"
    with pytest.raises(DataError, match="the time is split over 'month', 'day'; choose one with --time NAME"):
        read(tmp_path, text)
    assert read(tmp_path, text, columns=Columns(time="month")).read.time == "number"


@pytest.mark.parametrize("clock", [("930", "1805"), ("9:30", "18:05"), ("09:30:00", "18:05:00")])
@pytest.mark.parametrize("day", ["2016-01-31", "20160131", "31/01/2016"])
def test_a_time_of_day_is_combined_with_its_date(tmp_path, clock, day):
    text = f"user_id,item_id,date,time\nu,a,{day},{clock[1]}\nu,b,{day},{clock[0]}\n"
    expected = [seconds(2016, 1, 31, 18, 5), seconds(2016, 1, 31, 9, 30)]
    assert read(tmp_path, text).table["time"].to_list() == expected
    renamed = text.replace("date,time", "bought,hour_of_day")
    assert read(tmp_path, renamed, columns=Columns(time="bought+hour_of_day")).table["time"].to_list() == expected


def test_a_whole_time_next_to_a_date_is_used_alone(tmp_path):
    result = read(tmp_path, "user_id,item_id,date,time\nu,a,2016-01-31,1454263500\n")
    assert result.table["time"].to_list() == [1454263500]


def test_a_number_next_to_a_date_is_ambiguous(tmp_path):
    text = "user_id,item_id,date,time\nu,a,2016-01-31,64800\nu,b,2016-02-01,300\n"
    with pytest.raises(DataError, match="choose one with --time time or --time date"):
        read(tmp_path, text)
    assert read(tmp_path, text, columns=Columns(time="date")).read.time == "date"
    assert read(tmp_path, text, columns=Columns(time="time")).read.time == "number"


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("t_dat,customer_id,article_id,price", ("customer_id", "article_id", "t_dat")),
        ("InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID", ("CustomerID", "StockCode", "InvoiceDate")),
        ("timestamp,visitorid,event,itemid", ("visitorid", "itemid", "timestamp")),
        ("event_time,event_type,product_id,price,user_id,user_session", ("user_id", "product_id", "event_time")),
        ("rating,asin,parent_asin,user_id,timestamp", ("user_id", "parent_asin", "timestamp")),
        ("uts,artist,track,user", ("user", "track", "uts")),
    ],
)
def test_common_names(tmp_path, header, columns):
    values = ["2016-01-31" if name in {"t_dat", "InvoiceDate"} else "1454263500" for name in header.split(",")]
    result = read(tmp_path, f"{header}\n{','.join(values)}\n")
    assert tuple(result.read.columns.values()) == columns
    assert ("parent_asin" in notes(result)) == ("parent_asin" in header)


def test_a_file_of_one_person(tmp_path):
    """The advice of the message works."""
    text = "endTime,artistName,trackName,msPlayed\n2020-01-01 18:05,A,x,1\n2020-01-01 18:09,B,y,1\n"
    with pytest.raises(DataError, match="a file of one person without a user column: --constant-user me"):
        read(tmp_path, text)
    result = read(tmp_path, text, constant_user="me")
    assert [row[:2] for row in rows(result)] == [("me", "x"), ("me", "y")]


# --- placeholders and duplicates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["NA", "nan", "None", "null", "NULL", r"\N", "N/A", "<NA>", "-1", "0"])
def test_placeholder_users_are_reported_and_can_be_dropped(tmp_path, word):
    lines = [f"{word if row % 5 else f'u{row}'},i{row % 7},s{row},{row}" for row in range(200)]
    text = "user_id,item_id,session_id,time\n" + "\n".join(lines)
    result = read(tmp_path, text)
    warning = next(note for note in result.read.notes if "placeholder" in note)
    assert warning.startswith(
        f"80.0% of the rows have a placeholder ({word!r}) as user id, and are read as one user; drop these rows"
    )
    assert "--user session_id" in warning
    dropped = read(tmp_path, text, drop_missing=True)
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    assert dropped.read.rows == (frame["user_id"] != word).sum() == 40
    assert dropped.read.filters == ("rows without user dropped: 160 of 200",)
    assert read(tmp_path, text, columns=Columns(user="session_id")).read.users == 200


def test_user_zero_of_numbered_users_is_a_user(tmp_path):
    lines = [f"{row % 10},{row},{row}" for row in range(100)]
    assert "placeholder" not in notes(read(tmp_path, "user,item,time\n" + "\n".join(lines)))


def test_empty_ids_are_refused_and_the_advice_works(tmp_path):
    text = "user,item,time\na,x,1\n,y,2\n  ,z,3\nb,,4\n"
    with pytest.raises(DataError, match=r"2 of 4 user ids \(column 'user'\) are missing, the first in line 3; .* --drop-missing"):
        read(tmp_path, text)
    assert rows(read(tmp_path, text, drop_missing=True)) == [("a", "x", 1)]


def test_duplicates_can_be_dropped(tmp_path):
    lines = "a,x,1\nb,x,1\na,x,1\na,x,2\n"
    assert read(tmp_path, f"user,item,time\n{lines}").read.rows == 4
    result = read(tmp_path, f"user,item,time\n{lines}", duplicates="drop")
    assert rows(result) == [("a", "x", 1), ("b", "x", 1), ("a", "x", 2)]
    assert result.read.filters == ("duplicates dropped: 1 rows",)


def test_a_table_appended_to_itself_is_noticed_without_times(tmp_path):
    text = "user,item\n" + "a,x\nb,y\na,z\n" * 2
    assert "3 duplicates; drop them with --set data.duplicates=drop" in notes(read(tmp_path, text))
    assert rows(read(tmp_path, text, duplicates="drop")) == [("a", "x", 0), ("b", "y", 1), ("a", "z", 2)]


# --- text ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|", "::", " ", "   ", "~"])
@pytest.mark.parametrize("header", [True, False])
def test_separators(tmp_path, separator, header):
    lines = [separator.join(map(str, row)) for row in MOVIELENS]
    lines = [separator.join(("user_id", "item_id", "rating", "timestamp")), *lines] if header else lines
    options = {"separator": "~"} if separator == "~" else {}
    result = read(tmp_path, "\n".join(lines), name="ratings.dat", **options)
    assert rows(result) == [(user, item, time) for user, item, _, time in MOVIELENS]
    assert ("no header: the columns are taken as user, item, rating, time" in notes(result)) != header


def test_the_advice_for_an_unusual_separator_works(tmp_path):
    text = "user_id~item_id~time\na~x~1\n"
    with pytest.raises(DataError, match="if the columns are separated by another character, name it with --separator"):
        read(tmp_path, text)
    assert rows(read(tmp_path, text, separator="~")) == [("a", "x", 1)]


def test_the_first_line_of_excel_and_comments(tmp_path):
    assert rows(read(tmp_path, "sep=;\nuser;item;time\na,1;x;5\n")) == [("a,1", "x", 5)]
    assert rows(read(tmp_path, "# made by hand\n# today\nuser,item,time\na,x,1\n# half\nb,y,2\n")) == [
        ("a", "x", 1),
        ("b", "y", 2),
    ]
    assert rows(read(tmp_path, "# user item time\na x 1\n")) == [("a", "x", 1)]
    assert rows(read(tmp_path, "% sym\n% 3 2\nuser item time\na x 1\n")) == [("a", "x", 1)]
    with pytest.raises(DataError, match="line 4 has 2 fields"):
        read(tmp_path, "# one\nuser,item,time\na,x,1\nb,y\n")


def test_names_by_position(tmp_path):
    """The first event is an event."""
    text = "U100,N8668,2019-11-11 09:00\nU100,N8669,2019-11-12 10:00\n"
    with pytest.raises(DataError, match=r"the first line looks like data, not like column names: .*--columns user,item,time"):
        read(tmp_path, text)
    with pytest.raises(DataError, match="the first line looks like data"):
        read(tmp_path, text, columns=Columns(user="U100", item="N8668"))
    result = read(tmp_path, text, names=("user", "item", "time"))
    assert rows(result) == [("U100", "N8668", seconds(2019, 11, 11, 9)), ("U100", "N8669", seconds(2019, 11, 12, 10))]
    swapped = read(tmp_path, text, names=("item", "user", "_"))
    assert rows(swapped) == [("N8668", "U100", 0), ("N8669", "U100", 1)]
    with pytest.raises(DataError, match="--columns names 2 columns, but the first line has 3 fields"):
        read(tmp_path, text, names=("user", "item"))
    with pytest.raises(DataError, match=r"has a header \(user,item|has a header \(user, item"):
        read(tmp_path, "user,item,time\na,x,1\n", names=("user", "item", "time"))


def test_amazon_2018_has_the_item_first(tmp_path):
    """The files of 2014 have the user first; the ids tell them apart."""
    text = "B00000IV35,A1D4G1SNUZWQOT,5.0,1462320000\n0307141985,A3NSN9WOX8470M,4.0,1462320001\n"
    assert [row[:2] for row in rows(read(tmp_path, text))] == [("A1D4G1SNUZWQOT", "B00000IV35"), ("A3NSN9WOX8470M", "0307141985")]
    old = "A39HTATAQ9V7YF,0205616461,5.0,1369699200\nA3JM6GV9MNOF9X,0558925278,3.0,1355443200\n"
    assert [row[:2] for row in rows(read(tmp_path, old))] == [("A39HTATAQ9V7YF", "0205616461"), ("A3JM6GV9MNOF9X", "0558925278")]


def test_long_lines_and_fields(tmp_path):
    """The csv module alone stops at 131,072 characters."""
    header = "user,item,time," + ",".join(f"feature_{number}" for number in range(20_000))
    result = read(tmp_path, f"{header}\n" + "a,x,1," + ",".join("0" * 20_000) + "\n")
    assert rows(result) == [("a", "x", 1)]
    assert rows(read(tmp_path, f'user,item,time,text\na,x,1,"{"y" * 200_000}\nz"\n')) == [("a", "x", 1)]


def test_nul_bytes_are_refused_and_the_advice_works(tmp_path):
    text = b"user,item,time\na,x,1\n" + b"\0" * 512 + b"b,y,2\n"
    with pytest.raises(DataError, match=r"line 3 has a NUL byte at offset 21.*tr -d"):
        read(tmp_path, text)
    assert rows(read(tmp_path, text.replace(b"\0", b""))) == [("a", "x", 1), ("b", "y", 2)]


# --- sequences ----------------------------------------------------------------------------------------------------------------

SEQUENCES = {"1": ["5", "7", "2"], "2": ["9"], "3": ["7", "7"]}


@pytest.mark.parametrize("separator", [" ", "\t", ","])
@pytest.mark.parametrize("layout", ["auto", "sequences"])
def test_one_user_a_line(tmp_path, separator, layout):
    """The form of SASRec's, BERT4Rec's and S3Rec's repositories."""
    text = "".join(separator.join([user, *items]) + "\n" for user, items in SEQUENCES.items())
    result = read(tmp_path, text, name="Beauty.txt", layout=layout)
    assert [row[:2] for row in rows(result)] == [(user, item) for user, items in SEQUENCES.items() for item in items]
    assert result.read.time == "file order"


def test_sequences_of_one_length_need_the_option(tmp_path):
    text = "1 5 7 2 8 3\n2 9 7 1 4 4\n"
    with pytest.raises(DataError, match="the first line looks like data"):
        read(tmp_path, text, name="log.txt")
    assert [row[:2] for row in rows(read(tmp_path, text, name="log.txt", layout="sequences"))] == [
        *(("1", item) for item in "57283"),
        *(("2", item) for item in "97144"),
    ]


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json", "frame", "pandas"])
def test_list_columns(tmp_path, suffix, times):
    """As NVTabular, Transformers4Rec and MIND's converters write them."""
    data = [{"user_id": user, "item_id": items} for user, items in SEQUENCES.items()]
    if times:
        data = [row | {"timestamp": [100 - place for place, _ in enumerate(row["item_id"])]} for row in data]
    path = tmp_path / f"log.{suffix}"
    if suffix == "parquet":
        pl.DataFrame(data).write_parquet(path)
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, data)))
    elif suffix == "json":
        path.write_text(json.dumps(data, indent=1))
    source = pl.DataFrame(data) if suffix == "frame" else pd.DataFrame(data) if suffix == "pandas" else path
    result = read_interactions(source)
    assert [row[:2] for row in rows(result)] == [(user, item) for user, items in SEQUENCES.items() for item in items]
    if times:
        assert result.table["time"].to_list() == [100, 99, 98, 100, 100, 99]
    assert "holds lists" in notes(result)


@pytest.mark.parametrize("form", ["[{}]", "({})", "[{}, ]"])
@pytest.mark.parametrize("quote", ["", "'"])
def test_lists_as_text(tmp_path, form, quote):
    cells = [form.format(", ".join(f"{quote}{item}{quote}" for item in items)) for items in SEQUENCES.values()]
    text = "user,items\n" + "".join(f'{user},"{cell}"\n' for user, cell in zip(SEQUENCES, cells, strict=True))
    if form == "[{}, ]" and not quote:
        return
    result = read(tmp_path, text, columns=Columns(item="items"))
    assert [row[:2] for row in rows(result)] == [(user, item) for user, items in SEQUENCES.items() for item in items]


def test_ids_that_a_spreadsheet_rounded_are_noted(tmp_path):
    """Twelve digits became six: different users are one."""
    text = "user,item\n1.23457E+11,1\n1.23457E+11,2\n"
    assert "user ids such as '1.23457E+11' look like rounded by a spreadsheet" in notes(read(tmp_path, text))


def test_rows_without_a_time_can_be_left_out(tmp_path):
    """The advice of the error works, in files and frames."""
    condition = "time IS NOT NULL"
    text = "user,item,time\na,1,1500000000\na,2,\nb,1,1500000001\n"
    frame = pd.DataFrame({"user": ["a", "a", "b"], "item": [1, 2, 1], "time": [1500000000, np.nan, 1500000001]})
    with pytest.raises(DataError, match=f'line 3 .* is missing; .* leave such rows out with --where "{condition}"'):
        read(tmp_path, text)
    with pytest.raises(DataError, match=f'row 2 .* is missing; .* leave such rows out with --where "{condition}"'):
        read_interactions(frame)
    expected = [1500000000, 1500000001]
    assert read(tmp_path, text, where=condition).table["time"].to_list() == expected
    assert read_interactions(frame, Columns(), ReadOptions(where=condition)).table["time"].to_list() == expected


def test_numbers_with_grouped_digits_are_not_times(tmp_path):
    with pytest.raises(DataError, match=r"is '1,555,917,522'; .*; write the numbers without separators between the digits"):
        read(tmp_path, 'user,item,time\nu1,i1,"1,555,917,522"\n')


def test_advice_on_formats_works(tmp_path):
    """An unusual format is named; a JSON file has no separator; ids in the index of a frame."""
    text = 'user,item,time\na,1,"Sun, 31 Jan 2016 18:05:00 GMT"\n'
    with pytest.raises(DataError, match="name another format with --time-format"):
        read(tmp_path, text)
    result = read(tmp_path, text, time_format="%a, %d %b %Y %H:%M:%S GMT")
    assert result.table["time"].to_list() == [seconds(2016, 1, 31, 18, 5)]
    with pytest.raises(DataError, match="Available columns: 'data'; choose with --user NAME --item NAME"):
        read(tmp_path, '{"data": [1, 2]}', "log.json")
    indexed = pd.DataFrame({"item": [1, 2]}, index=pd.Index(["a", "b"], name="user"))
    with pytest.raises(DataError, match=r"if the ids are the index of the frame, pass frame.reset_index\(\)"):
        read_interactions(indexed)
    assert read_interactions(indexed.reset_index()).read.users == 2


@pytest.mark.parametrize("cell", ["N1 N2 N3", "1|2|3", "10;20"])
def test_cells_that_look_like_lists_are_noted(tmp_path, cell):
    """They may be ids; a title with a blank is not a list."""
    assert f"item ids look like lists, such as {cell!r}" in notes(read(tmp_path, f"user\titem\na\t{cell}\nb\t{cell} 7\n"))
    assert "look like lists" not in notes(read(tmp_path, "user\titem\na\tToy Story (1995)\nb\tHeat 2\n"))


def test_recbole_sequence_files(tmp_path):
    """A row is a prefix and its next item: the whole sequence is read once."""
    head = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    text = head + "1\t5\t7\n1\t5 7\t2\n2\t9 4\t4\n"
    expected = [*(("1", item) for item in "572"), *(("2", item) for item in "944")]
    assert [row[:2] for row in rows(read(tmp_path, text, name="log.inter"))] == expected
    with pytest.raises(DataError, match="line 3 is not a prefix of the longest sequence of user '1'"):
        read(tmp_path, head + "1\t5 7 8\t7\n1\t6\t2\n", name="log.inter")
    only = "session_id:token\titem_id_list:token_seq\n1\t5 7 2\n2\t9\n"
    assert [row[:2] for row in rows(read(tmp_path, only, name="log.inter"))] == [*(("1", item) for item in "572"), ("2", "9")]


# --- exact ids ----------------------------------------------------------------------------------------------------------------


def test_json_ids_are_not_rounded_or_merged(tmp_path):
    """One decimal among large integers, unsigned 64-bit numbers, and numbers next to text."""
    large = [9007199254740992, 9007199254740993, 2**63, 2**64 - 1]
    lines = [json.dumps({"user": "u", "item": item, "time": row}) for row, item in enumerate(large)]
    assert read(tmp_path, "\n".join(lines), name="a.jsonl").table["item"].to_list() == large
    decimal = [*lines, '{"user": "u", "item": 1.5, "time": 9}']
    assert read(tmp_path, "\n".join(decimal), name="b.jsonl").read.items == 5
    mixed = ['{"user": "u", "item": 1}', '{"user": "u", "item": "1"}']
    with pytest.raises(DataError, match="column 'item' holds both the text and the number 1; give all values one type"):
        read(tmp_path, "\n".join(mixed), name="c.jsonl")
    with pytest.raises(DataError, match="line 1 has the key 'item' twice; keep one of the two values"):
        read(tmp_path, '{"user": "u", "item": 1, "item": 2}', name="d.jsonl")


def test_unused_json_fields_never_refuse_a_file(tmp_path):
    """Nested, mixed, not a number, too deep or too long."""
    extra = ['{"a": [1, {"b": 2}]}', '"text"', "NaN", "1e999", "18446744073709551616", "null", "true"]
    lines = [f'{{"user": "u", "item": "i{row}", "time": {row}, "x": {value}}}' for row, value in enumerate(extra)]
    assert rows(read(tmp_path, "\n".join(lines), name="a.jsonl")) == [("u", f"i{row}", row) for row in range(len(extra))]
    digits = f'{{"user": "u", "item": "i", "time": 1, "x": {"9" * 10_000}}}'
    assert rows(read(tmp_path, digits, name="b.jsonl")) == [("u", "i", 1)]
    deep = '{"user": "u", "item": "i", "time": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    with pytest.raises(DataError, match="line 1 is nested too deeply"):
        read(tmp_path, deep, name="c.jsonl")


def test_unused_pandas_columns_never_refuse_a_frame():
    frame = pd.DataFrame({"user": ["u", "v"], "item": [1, 2], "time": [1, 2]})
    others = frame.assign(a=[1, "x"], b=[2**63, 1], c=[{"k": 1}, None], d=[object(), object()])
    assert rows(read_interactions(others)) == rows(read_interactions(frame)) == [("u", 1, 1), ("v", 2, 2)]


def test_surrogates_and_nul_do_not_merge_ids():
    frame = pd.DataFrame({"user": ["u"] * 2, "item": pd.Series(["a\0", "a"], dtype=object), "time": [1, 2]})
    assert read_interactions(frame).read.items == 2
    for values in (["\ud800", "\ud801"], ["a", "\ud800"]):
        with pytest.raises(DataError, match="has a lone surrogate, which is not text"):
            read_interactions(frame.assign(item=pd.Series(values, dtype=object)))


def test_escaped_surrogates_in_json(tmp_path):
    text = '{"user": "u", "item": "\\ud800", "time": 1}\n{"user": "u", "item": "\\ud801", "time": 2}'
    with pytest.raises(DataError, match="lone surrogate"):
        read(tmp_path, text, name="a.jsonl")
    pair = '{"user": "u", "item": "\\ud83d\\ude00", "time": 1}'
    assert read(tmp_path, pair, name="b.jsonl").table["item"].to_list() == ["\U0001f600"]


# --- compression --------------------------------------------------------------------------------------------------------------


def compressed(data, suffix, name="log.csv"):
    if suffix == "zst":
        stream = pa.BufferOutputStream()
        with pa.CompressedOutputStream(stream, "zstd") as out:
            out.write(data)
        return stream.getvalue().to_pybytes()
    if suffix == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("README", b"about")
            archive.writestr(f"folder/{name}", data)
        return file.getvalue()
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[suffix](data)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst", "zip"])
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_compressed_files(tmp_path, suffix, name):
    frame = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "time": [1, 2]})
    buffer = io.BytesIO()
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[name.split(".")[1]](buffer)
    data = compressed(buffer.getvalue(), suffix, name)
    assert rows(read(tmp_path, data, name=f"{name}.{suffix}")) == frame.rows()
    with pytest.raises(DataError, match=r"cut short|damaged|not JSON|is empty|not UTF-8|fields"):
        read(tmp_path, data[: len(data) // 2], name=f"{name}.{suffix}")


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst", "zip"])
def test_files_that_expand_too_much_are_refused(tmp_path, suffix, monkeypatch):
    """And read with the option that the message names."""
    monkeypatch.setattr("ssd4rec.data.io.ALWAYS_ALLOWED", 1 << 12)
    data = compressed(b"user,item,time\n" + b"a,x,1\n" * 1_000_000, suffix)
    with pytest.raises(DataError, match=r"expand to more than [\d,]+, .* --set data.max_expansion=100000"):
        read(tmp_path, data, name=f"log.csv.{suffix}")
    assert read(tmp_path, data, name=f"log.csv.{suffix}", max_expansion=100_000).read.rows == 1_000_000


def test_spreadsheets_and_zip_files_of_several_tables(tmp_path):
    with pytest.raises(DataError, match="is a spreadsheet; export it as CSV"):
        read(tmp_path, b"PK\x03\x04", name="log.xlsx")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.csv", "user,item\n")
        archive.writestr("b.csv", "user,item\n")
    with pytest.raises(DataError, match=r"expected a zip file with one table, it holds a.csv, b.csv; extract the table"):
        read(tmp_path, file.getvalue(), name="log.zip")


# --- folders of parts ---------------------------------------------------------------------------------------------------------

PARTS = pl.DataFrame({"user_id": ["u1", "u2", "u1", "u3"], "item_id": [1, 2, 3, 4], "timestamp": [10, 20, 30, 40]})


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".csv.gz"])
def test_a_folder_of_parts_is_one_table(tmp_path, suffix):
    """As Spark and others write them: parts in the order of their names, hidden files next to them."""
    folder, names = tmp_path / "log", ["part-00000", "part-00001", "day=2/part-00002"]
    (folder / "day=2").mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000.crc").write_bytes(b"crc")
    for name, part in zip(names, [PARTS[:2], PARTS[2:3], PARTS[3:]], strict=True):
        path = folder / f"{name}{suffix}"
        match suffix:
            case ".parquet":
                part.write_parquet(path)
            case ".csv":
                part.write_csv(path)
            case ".jsonl":
                part.write_ndjson(path)
            case _:
                path.write_bytes(gzip.compress(part.write_csv().encode()))
    whole = read_interactions(PARTS if suffix in {".parquet", ".jsonl"} else PARTS.cast({"item_id": pl.String}))
    # "day=2" is before "part-00000"
    assert sorted(rows(read_interactions(folder))) == sorted(rows(whole))
    assert rows(read_interactions(folder))[0] == rows(whole)[3]


def test_a_bad_row_of_a_folder_is_named_with_its_file(tmp_path):
    PARTS.write_csv(tmp_path / "a.csv")
    PARTS.with_columns(timestamp=pl.Series(["10", "20", "soon", "40"])).write_csv(tmp_path / "b.csv")
    with pytest.raises(DataError, match=r"the time in line 4 of b\.csv \(column 'timestamp'\) is 'soon'"):
        read_interactions(tmp_path)


def test_files_of_a_folder_that_do_not_fit(tmp_path):
    PARTS.write_parquet(tmp_path / "a.parquet")
    PARTS.cast({"item_id": pl.String}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"not parts of one table: .*a\.parquet has .*b\.parquet has .*item_id \(String\)"):
        read_interactions(tmp_path)
    PARTS.rename({"item_id": "product_id"}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has user_id \(String\), product_id"):
        read_interactions(tmp_path)


def test_files_of_another_kind(tmp_path):
    with pytest.raises(DataError, match=r"unknown kind of file \(suffix \.pkl\); .* or export it as Parquet or CSV"):
        read(tmp_path, b"\x80", name="log.pkl")


# --- filters ------------------------------------------------------------------------------------------------------------------

EVENTS = "user,item,rating,time,Event Type\n" + "".join(
    f"u{row % 3},i{row % 5},{row % 5 + 1},{row},{'purchase' if row % 2 else 'view'}\n" for row in range(60)
)


@pytest.mark.parametrize(
    ("where", "query"),
    [
        ("rating >= 4", "rating >= 4"),
        ("rating >= 4 AND time < 30", "rating >= 4 and time < 30"),
        ("\"Event Type\" = 'purchase'", "`Event Type` == 'purchase'"),
        ("user IN ('u1', 'u2')", "user in ['u1', 'u2']"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "frame", "jsonl"])
def test_where_selects_the_rows_of_pandas(tmp_path, where, query, kind):
    frame = pd.read_csv(io.StringIO(EVENTS))
    expected = frame.query(query)
    if kind == "frame":
        result = read_interactions(frame, Columns(), ReadOptions(where=where))
    elif kind == "jsonl":
        result = read(tmp_path, frame.to_json(orient="records", lines=True), name="log.jsonl", where=where)
    else:
        result = read(tmp_path, EVENTS, where=where)
    assert rows(result) == list(expected[["user", "item", "time"]].itertuples(index=False, name=None))
    assert result.read.filters == (f"where {where}: {len(expected)} of 60 rows",)


def test_least_rating(tmp_path):
    result = read(tmp_path, EVENTS, min_rating=4)
    frame = pd.read_csv(io.StringIO(EVENTS))
    assert result.read.rows == (frame["rating"] >= 4).sum()
    with pytest.raises(DataError, match="--min-rating needs a rating column"):
        read(tmp_path, "user,item\na,x\n", min_rating=4)


def test_ratings_and_prices_may_be_decimals() -> None:
    """A number of an option and a decimal that is written alike are equal: 0.2 is not a little more than 0.2."""
    frame = pl.DataFrame({"user": ["a", "b", "c"], "item": ["x", "y", "z"], "rating": ["0.1", "0.2", "0.3"]})
    frame = frame.with_columns(pl.col("rating").cast(pl.Decimal(10, 1)))
    for options in (ReadOptions(min_rating=0.2), ReadOptions(where="rating >= 0.2")):
        assert [row[0] for row in rows(read_interactions(frame, Columns(), options))] == ["b", "c"]


@pytest.mark.parametrize("where", ["nonsense = 3", "rating >=", "rating > 99", "1; DROP TABLE self", "time(("])
def test_conditions_that_cannot_be_used(tmp_path, where):
    with pytest.raises(DataError, match=r"names no column|cannot be evaluated|no row is left"):
        read(tmp_path, EVENTS, where=where)


# --- Parquet ------------------------------------------------------------------------------------------------------------------


def test_a_parquet_file_with_an_unknown_time_zone(tmp_path):
    """The instants are UTC whatever the zone is called."""
    times = pa.array([1_454_263_500_000_000, 1_454_263_501_000_000], pa.timestamp("us", tz="Nowhere/Land"))
    table = pa.table({"user": ["a", "b"], "item": ["x", "y"], "time": times})
    pq.write_table(table, tmp_path / "log.parquet")
    assert read_interactions(tmp_path / "log.parquet").table["time"].to_list() == [1_454_263_500_000_000, 1_454_263_501_000_000]


@pytest.mark.parametrize("seed", range(5))
def test_damaged_parquet_files_are_one_clear_error(tmp_path, seed):
    frame = pl.DataFrame({name: [str(number) for number in range(500)] for name in ("user", "item", "time")})
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    data = np.frombuffer(buffer.getvalue(), dtype=np.uint8).copy()
    generator = np.random.default_rng(seed)
    places = generator.integers(4, len(data) - 4, 30)
    data[places] = generator.integers(0, 256, 30)
    (tmp_path / "log.parquet").write_bytes(data.tobytes())
    with suppress(DataError):  # any other error fails the test
        read_interactions(tmp_path / "log.parquet")


def test_a_parquet_file_with_text_that_is_not_utf8(tmp_path):
    """Polars panics on such text."""
    users = pa.array([b"a", b"\xd9a"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"user": users, "item": ["x", "y"]}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet: the Parquet file is damaged \(.*UTF8.*\); copy or write it again"):
        read_interactions(tmp_path / "log.parquet")


def test_a_parquet_file_that_is_cut_while_it_is_read(tmp_path):
    """A memory map would end the process with SIGBUS; the file is cut between its footer and its rows."""
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": range(5000), "item_id": range(5000)}).write_parquet(path)

    def cut_then_choose(header):
        os.truncate(path, 1000)
        return {"user": header.index("user_id"), "item": header.index("item_id")}

    with pytest.raises(DataError, match=r"log\.parquet: the Parquet file is damaged \(.*\); copy or write it again"):
        read_table(path, cut_then_choose)


def test_wrong_argument_types_are_data_errors(tmp_path):
    for source in (None, 7, [1], {"user": [1]}, np.array(3), object()):
        with pytest.raises(DataError, match="cannot read a value of type"):
            read_interactions(source)
    with pytest.raises(DataError, match="expected Columns and ReadOptions"):
        read_interactions(pl.DataFrame({"user": [1], "item": [1]}), {"user": "user"})
    with pytest.raises(DataError, match="must be named by text"):
        read_interactions(pl.DataFrame({"user": [1], "item": [1]}), replace(Columns(), user=3))
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    with pytest.raises(DataError, match="cannot be read"):
        read_interactions(loop)
