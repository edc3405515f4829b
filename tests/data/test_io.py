"""Every kind of file gives the same rows; every bad file gives one clear sentence."""

import gzip
import io
import json

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd4rec.data.io import read_table
from ssd4rec.errors import DataError

HEADER = b"user_id,item_id,timestamp\n"
ROWS = [("u1", "007", "5"), ("u2", "7", "6"), ("u1", " 7", "5")]


def choose(header):
    return {"user": header.index("user_id"), "item": header.index("item_id"), "time": header.index("timestamp")}


def rows_of(path):
    table = read_table(path, choose)
    return table.frame.select("user", "item", "time").rows()


def written(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def text(separator=",", end="\n", rows=ROWS):
    lines = [["user_id", "item_id", "timestamp"], *rows]
    return "".join(separator.join(line) + end for line in lines).encode()


def json_lines(rows=ROWS, end="\n"):
    named = (dict(zip(("user_id", "item_id", "timestamp"), row, strict=True)) for row in rows)
    return "".join(json.dumps({"text": 'so,\n"good"', "images": [{"url": 1}], **row}) + end for row in named).encode()


def parquet(frame=None):
    buffer = io.BytesIO()
    (frame if frame is not None else pl.DataFrame(ROWS, schema=["user_id", "item_id", "timestamp"], orient="row")).write_parquet(
        buffer
    )
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("log.csv", text()),
        ("log.CSV", text()),
        ("log.tsv", text("\t")),
        ("log.inter", text("\t")),
        ("log.txt", text(";")),
        ("log.jsonl", json_lines()),
        ("log.json", b"\xef\xbb\xbf" + json_lines(end="\r\n")),
        ("log.ndjson.gz", gzip.compress(json_lines(end="\n\n")[:-2])),
        ("log.csv", text("\t")),
        ("windows.csv", text(end="\r\n")),
        ("mark.csv", b"\xef\xbb\xbf" + text()),
        ("no-last-line-end.csv", text()[:-1]),
        ("trailing-blank.csv", text() + b"\n\r\n\n"),
        ("blank-between.csv", b"\n" + text().replace(b"\n", b"\r\n\r\n")),
        ("log.csv.gz", gzip.compress(text(), mtime=0)),
        ("log.inter.gz", gzip.compress(text("\t"), mtime=0)),
        ("gzip-without-saying.csv", gzip.compress(text(), mtime=0)),
        ("two-members.csv.gz", gzip.compress(text()[:20], mtime=0) + gzip.compress(text()[20:], mtime=0)),
        ("named-gz-but-plain.csv.gz", text()),
        ("quoted.csv", text(rows=[(f'"{user}"', item, f'"{time}"') for user, item, time in ROWS])),
        ("log.parquet", parquet()),
        ("log[1].pq", parquet()),
        ("log.parquet.gz", gzip.compress(parquet(), mtime=0)),
        ("parquet-without-saying.csv", parquet()),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, data):
    """Ids stay exactly as written: "007", "7" and " 7" are three."""
    assert rows_of(written(tmp_path, name, data)) == ROWS


def test_frames_give_the_same_rows():
    frame = pl.DataFrame(ROWS, schema=["user_id", "item_id", "timestamp"], orient="row")
    assert rows_of(frame) == ROWS
    assert rows_of(frame.lazy()) == ROWS
    assert rows_of(pd.DataFrame(ROWS, columns=["user_id", "item_id", "timestamp"])) == ROWS


def test_columns_may_lie_in_any_order(tmp_path):
    path = written(tmp_path, "log.csv", b",timestamp,rating,item_id,user_id\n0,5,1,007,u1\n")
    assert rows_of(path) == [("u1", "007", "5")]


def test_quoted_fields_hold_separators_quotes_and_line_ends(tmp_path):
    path = written(tmp_path, "log.csv", HEADER + b'"a,b","say ""x""",5\n"two\nlines",x,6\n')
    assert rows_of(path) == [("a,b", 'say "x"', "5"), ("two\nlines", "x", "6")]


def test_a_quote_inside_a_field_is_a_letter(tmp_path):
    assert rows_of(written(tmp_path, "log.csv", HEADER + b'u,7" single,5\n')) == [("u", '7" single', "5")]


def test_tab_separated_files_may_use_quotes_as_letters(tmp_path):
    """Only where quotes would swallow a line end; "enclosed" fields are unwrapped."""
    head = HEADER.replace(b",", b"\t")
    assert rows_of(written(tmp_path, "a.tsv", head + b'u\t"7\t5\nv\t"8\t6\n')) == [("u", '"7', "5"), ("v", '"8', "6")]
    assert rows_of(written(tmp_path, "b.tsv", head + b'u\t"7\t8"\t5\n')) == [("u", "7\t8", "5")]
    assert rows_of(written(tmp_path, "c.tsv", head + b'u\t"' + b"7" * 200_000 + b"\t5\n"))[0][0] == "u"


names = st.text(st.characters(codec="utf-8", exclude_characters='\r\n\t,;"\ufeff\x00'), min_size=1)


@given(st.lists(st.tuples(names, names, names), min_size=1, max_size=20), st.sampled_from([",", "\t", ";"]))
def test_any_text_is_read_as_written(tmp_path_factory, rows, separator):
    path = tmp_path_factory.mktemp("any") / "log.csv"
    path.write_bytes(text(separator, rows=rows))
    assert rows_of(path) == rows


def test_mixed_values_of_json_lines_become_text(tmp_path):
    late = json_lines([("a", 1, 5)] * 500 + [("b", "x", 5.5)])
    table = read_table(written(tmp_path, "log.jsonl", late), choose)
    assert table.frame.row(0) == ("a", "1", "5")
    assert table.frame.row(500) == ("b", "x", "5.5")


def test_a_field_that_a_json_line_lacks_is_missing(tmp_path):
    path = written(tmp_path, "log.jsonl", b'{"user_id": 1, "item_id": 2}\n{"user_id": 3, "item_id": 4, "timestamp": 5}\n')

    assert rows_of(path) == [(1, 2, None), (3, 4, 5)]


def test_rows_are_named_by_line_in_text_and_by_row_elsewhere(tmp_path):
    """Blank lines and quoted line ends count as lines."""
    table = read_table(written(tmp_path, "log.csv", b"\n" + HEADER + b'\n"a\nb",2,3\n4,5,6\n'), choose)
    assert [table.where(0), table.where(1)] == ["line 4", "line 6"]
    assert read_table(pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": [3]}), choose).where(0) == "row 1"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.csv", b"", r"empty.csv is empty; expected a line of column names and rows"),
        ("empty.parquet", b"", r"empty.parquet is empty; expected"),
        ("empty.csv.gz", gzip.compress(b"", mtime=0), r"empty.csv.gz is empty; expected"),
        ("blank.csv", b"\n\r\n", r"blank.csv has no rows; expected"),
        ("header.csv", HEADER, r"header.csv has a header and no rows: user_id, item_id, timestamp"),
        ("header.csv", HEADER + b"\r\n\n", r"has a header and no rows"),
        (
            "rows.parquet",
            parquet(pl.DataFrame({"user_id": [], "item_id": [], "timestamp": []})),
            r"has no rows, only the columns",
        ),
        ("few.csv", HEADER + b"1,2,3\n1,2\n", r"few.csv: line 3 has 2 fields, expected 3 as in the header \(user_id, item_id"),
        ("many.csv", HEADER + b"1,2,3\n\n1,2,3,4\n", r"many.csv: line 4 has 4 fields, expected 3 .*correct or remove the line"),
        ("one.tsv", HEADER.replace(b",", b"\t") + b"1\r\n", r"line 2 has 1 field, expected 3"),
        ("quote.csv", HEADER + b'1,"2,3\n1,2,3\n', r"line 2 has 2 fields, .*close the quote that is opened there"),
        (
            "open.csv",
            HEADER + b'1,2,3\n1,2,"3\n1,2,4\n',
            r"a quoted field that begins after line 2 is not closed .*a quote inside",
        ),
        ("two.csv", HEADER + b'1,2,"3\n1,2,"4\n', r"a quoted field that begins after line 1 is not closed"),
        ("long.csv", HEADER + b'1,"' + b"2" * 200_000, r"line 2 has 2 fields, expected 3 as in the header"),
        ("latin.csv", HEADER + b"1,caf\xe9,3\n", r"latin.csv: line 2 is not UTF-8 text \(byte 0xe9 at offset 31\); save"),
        ("other.csv", b"user_id,item_id,timestamp,title\n1,2,3,\xff\n", r"line 2 is not UTF-8 text"),
        ("utf16.csv", HEADER.decode().encode("utf-16"), r"utf16.csv is UTF-16 text; expected UTF-8"),
        ("mac.csv", b"user_id,item_id\r1,2\r", r"uses single carriage returns as line ends"),
        ("cut.csv.gz", gzip.compress(text() * 99, mtime=0)[:-9], r"cut.csv.gz: the gzip file is cut short after \d+ bytes"),
        (
            "bad.csv.gz",
            gzip.compress(text(), mtime=0)[:12] + b"\0" * 40,
            r"bad.csv.gz: the gzip file is damaged \(.*copy or download",
        ),
        ("cut.parquet", parquet()[:-30], r"cut.parquet: the Parquet file is cut short after [\d,]+ bytes"),
        ("cut.parquet.gz", gzip.compress(parquet()[:-30], mtime=0), r"the Parquet file is cut short"),
        ("bad.parquet", b"PAR1" + b"\0" * 99 + b"PAR1", r"bad.parquet: the Parquet file is damaged \(.*copy or write it again"),
        ("text.parquet", HEADER, r"text.parquet is not a Parquet file: it begins with b'user', expected b'PAR1'"),
        ("cut.jsonl", json_lines()[:-5], r"cut.jsonl: line 3 is not JSON \(.*expected objects with user"),
        ("array.json", b"[" + json_lines()[:-1] + b"]", r"the array is not JSON"),
        ("numbers.jsonl", json_lines() + b"\n7\n", r"line 5 is a JSON int, not an object; expected objects"),
        ("blank.jsonl", b"\n \n", r"blank.jsonl is empty; expected objects"),
        ("latin.jsonl", json_lines() + b'{"user_id": "caf\xe9"}\n', r"latin.jsonl: line 4 is not UTF-8 text"),
        ("log.xlsx", b"PK", r"log.xlsx is a spreadsheet; export it as CSV"),
        ("log.gz", gzip.compress(text(), mtime=0), r"unknown kind of file \(suffix none\)"),
    ],
)
def test_bad_files_are_named_with_what_to_do(tmp_path, name, data, message):
    path = written(tmp_path, name, data)
    with pytest.raises(DataError, match=message) as raised:
        read_table(path, choose)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_parquet_file_damaged_in_its_middle(tmp_path):
    frame = pl.DataFrame({name: [str(number) for number in range(5000)] for name in ("user_id", "item_id", "timestamp")})
    data = parquet(frame)
    path = written(tmp_path, "mid.parquet", data[:20] + b"\xff" * 400 + data[420:])
    with pytest.raises(DataError, match=r"mid.parquet: the Parquet file is damaged"):
        read_table(path, choose)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match=r"no such file: .*nothing.csv"):
        read_table(tmp_path / "nothing.csv", choose)


def test_a_folder_without_tables(tmp_path):
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(DataError, match=r"the folder .* has no file that could be a part of a table; expected \.csv, \.tsv"):
        read_table(str(tmp_path), choose)


def test_a_file_that_the_system_refuses(tmp_path, monkeypatch):
    """As when its permissions forbid it."""
    path = written(tmp_path, "log.csv", text())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(DataError, match=r"log.csv cannot be read: Permission denied"):
        read_table(path, choose)


def test_a_folder_that_may_not_be_searched(tmp_path, monkeypatch):
    """Whether the file is there cannot be known."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", refuse)
    with pytest.raises(DataError, match=r"locked/log.csv cannot be read: Permission denied$"):
        read_table(tmp_path / "locked" / "log.csv", choose)


def test_a_name_that_no_file_can_have(tmp_path):
    """Too long for a file system, below a file, or with a zero in it."""
    with pytest.raises(DataError, match=r"aaa.csv cannot be read: File name too long$"):
        read_table(tmp_path / ("a" * 300 + ".csv"), choose)
    written(tmp_path, "file", b"x")
    for name in ("file/log.csv", "a\0b.csv"):
        with pytest.raises(DataError, match=r"no such file: "):
            read_table(tmp_path / name, choose)


def test_values_that_are_neither_path_nor_frame():
    with pytest.raises(DataError, match=r"cannot read a value of type list; expected a path, a polars frame or a pandas frame"):
        read_table([1, 2], choose)
    with pytest.raises(DataError, match=r"cannot read a value of type Series; expected a path, a polars frame or a pandas frame"):
        read_table(pd.Series([1, 2]), choose)


def test_a_lazy_frame_whose_file_is_gone(tmp_path):
    """It is read when it is asked for, and its error is ours."""
    with pytest.raises(DataError, match="the polars frame cannot be read: "):
        read_table(pl.scan_csv(tmp_path / "gone.csv"), choose)


def test_a_pandas_column_of_several_types():
    """Numbers among text are text, unless two of them would become equal."""
    frame = pd.DataFrame({"user_id": ["a", 3], "item_id": [1, 2], "timestamp": [1, 2]})
    assert rows_of(frame) == [("a", 1, 1), ("3", 2, 2)]
    with pytest.raises(DataError, match="pandas frame: column 'user_id' holds both the text and the number 3; give all values"):
        read_table(frame.assign(user_id=["3", 3]), choose)
