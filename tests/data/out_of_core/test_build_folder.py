import gzip
import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from ssd4rec.data.folder import open_folder, save_folder
from ssd4rec.data.interactions import Columns, read_interactions
from ssd4rec.data.out_of_core.build import build_folder
from ssd4rec.data.out_of_core.memory import parse_size
from ssd4rec.data.sequences import build_sequences
from ssd4rec.errors import ConfigError, DataError

MB = 10**6


def make_log(rows=6000, seed=0, ids="text"):
    """Zipf items, repeated rows and simultaneous events."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, rows // 12, rows)
    items = np.minimum(rng.zipf(1.3, rows), rows // 8)
    times = 1_600_000_000 + rng.integers(0, rows // 4, rows)
    frame = pl.DataFrame({"user_id": users, "item_id": items, "rating": rng.integers(1, 6, rows), "timestamp": times})
    frame = pl.concat([frame, frame.sample(rows // 20, seed=seed)])
    if ids == "text":
        frame = frame.with_columns(pl.format("u{}", "user_id").alias("user_id"), pl.format("{}", "item_id").alias("item_id"))
    return frame


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def in_memory(source, folder, k=5, ties="file", columns=Columns()):  # noqa: B008
    interactions = read_interactions(source, columns)
    sequences, catalog = build_sequences(interactions, k, tie_order=ties)
    save_folder(folder, sequences, catalog, interactions.read)
    return contents(folder)


@pytest.mark.parametrize("memory", [MB, 2000 * MB])
@pytest.mark.parametrize("ties", ["file", "item"])
@pytest.mark.parametrize("k", [1, 5, 9])
@pytest.mark.parametrize("ids", ["text", "integers"])
def test_same_bytes_as_in_memory(tmp_path, memory, ties, k, ids):
    source = tmp_path / "log.parquet"
    make_log(ids=ids).write_parquet(source, row_group_size=1500)
    report = build_folder([source], tmp_path / "streamed", memory=memory, min_interactions=k, tie_order=ties)
    assert contents(tmp_path / "streamed") == in_memory(source, tmp_path / "whole", k, ties)
    assert report.filtering.k == k
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".inter", ".csv.gz"])
def test_text_files(tmp_path, suffix):
    separator = "," if ".csv" in suffix else "\t"
    text = make_log().write_csv(separator=separator)
    source = tmp_path / f"log{suffix}"
    source.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    build_folder([source], tmp_path / "streamed", memory=MB)
    assert contents(tmp_path / "streamed") == in_memory(source, tmp_path / "whole")


def test_quoted_fields_with_line_breaks(tmp_path):
    log = make_log(20_000).with_columns(pl.format('a, "{}"\nb', "item_id").alias("item_id"))
    source = tmp_path / "log.csv"
    log.write_csv(source)
    build_folder([source], tmp_path / "streamed", memory=MB)
    assert contents(tmp_path / "streamed") == in_memory(source, tmp_path / "whole")


def test_several_files_are_one_table(tmp_path):
    log = make_log()
    folder = tmp_path / "log"
    (folder / "day=1").mkdir(parents=True)
    log[:2500].write_parquet(folder / "day=1" / "part-0.parquet")
    log[2500:2600].write_parquet(folder / "day=1" / "part-1.parquet")
    log[2600:].write_parquet(folder / "day=2.parquet")
    (folder / "_SUCCESS").touch()
    build_folder([folder], tmp_path / "streamed", memory=MB)
    streamed, expected = contents(tmp_path / "streamed"), in_memory(log, tmp_path / "whole")
    streamed.pop("read.json"), expected.pop("read.json")  # they name their sources
    assert streamed == expected
    assert open_folder(tmp_path / "streamed").read.rows == len(log)


def test_an_address_is_opened_by_fsspec(tmp_path):
    source = tmp_path / "log.parquet"
    make_log().write_parquet(source)
    build_folder([f"file://{source}"], tmp_path / "streamed", memory=MB)
    build_folder([source], tmp_path / "local", memory=MB)
    streamed, local = contents(tmp_path / "streamed"), contents(tmp_path / "local")
    streamed.pop("read.json"), local.pop("read.json")
    assert streamed == local


LATE_CHANGES = {
    "decimals": ["1650882384"] * 5000 + ["1650882385.125"] * 5 + ["1650882386.5"] * 2000,
    "more decimals": ["1650882384.5"] * 5000 + ["1650882385.125001"] * 5 + ["1650882386.5"] * 2000,
    "dates with a time of day": ["2020-01-01"] * 5000 + ["2020-01-02T10:00:00"] + ["2020-01-03"] * 2000,
    "fractions of date-times": ["2020-01-01T10:00:00"] * 5000 + ["2020-01-02T10:00:00.25"] + ["2020-01-03T00:00:00"] * 2000,
    "plain numbers": [str(number) for number in range(7000)],
    "exponents": ["1650882384"] * 5000 + ["1.650882385e9"] + ["1650882386"] * 2000,
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", LATE_CHANGES)
def test_the_unit_of_all_times_is_that_of_the_whole_table(tmp_path, name):
    times = LATE_CHANGES[name]
    users = [f"u{number % 60}" for number in range(len(times))]
    items = [f"i{number % 37}" + (" " if number == 6000 else "") for number in range(len(times))]
    source = tmp_path / "log.csv"
    pl.DataFrame({"user": users, "item": items, "time": times}).write_csv(source)
    build_folder([source], tmp_path / "streamed", memory=MB, min_interactions=1)
    assert contents(tmp_path / "streamed") == in_memory(source, tmp_path / "whole", 1)


def test_a_late_value_in_another_unit_is_refused_by_both(tmp_path):
    times = ["1650882384"] * 5000 + ["1650882384000"] + ["1650882385"] * 2000
    source = tmp_path / "log.csv"
    pl.DataFrame({"user": ["u"] * len(times), "item": ["i"] * len(times), "time": times}).write_csv(source)
    with pytest.raises(DataError, match="1650882384000 looks like milliseconds, but most times are seconds"):
        build_folder([source], tmp_path / "streamed", memory=MB, min_interactions=1)
    with pytest.raises(DataError, match="1650882384000 looks like milliseconds, but most times are seconds"):
        read_interactions(source)


def test_a_warning_that_counts_rows_has_no_number(tmp_path):
    times = np.where(np.arange(6000) % 50 == 0, 0, 1_600_000_000 + np.arange(6000))
    pl.DataFrame({"user": np.arange(6000) % 60, "item": np.arange(6000) % 37, "time": times}).write_parquet(
        tmp_path / "log.parquet"
    )
    report = build_folder([tmp_path / "log.parquet"], tmp_path / "out", memory=MB)
    assert [note for note in report.read.notes if note.startswith("some times are before")]


def test_floats_with_late_fractions(tmp_path):
    times = np.concatenate([np.arange(5000) + 1.6e9, np.arange(3000) / 8 + 1.6e9])
    source = tmp_path / "log.parquet"
    log = pl.DataFrame({"user": np.arange(8000) % 70, "item": np.arange(8000) % 31, "time": times})
    log.write_parquet(source, row_group_size=1000)
    build_folder([source], tmp_path / "streamed", memory=MB)
    assert contents(tmp_path / "streamed") == in_memory(source, tmp_path / "whole")


def test_without_times_the_rows_are_in_order(tmp_path):
    source = tmp_path / "log.csv"
    make_log().drop("timestamp").write_csv(source)
    build_folder([source], tmp_path / "streamed", memory=MB)
    assert contents(tmp_path / "streamed") == in_memory(source, tmp_path / "whole")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["u,i,5"] * 3000 + ["u,,5"], "item ids .* are missing"),
        (["u,i,5"] * 3000 + ["u,i,never"], "'never'"),
        (["u,i,5"] * 3000 + ["u,i"], "line .* has 2 fields, expected 3"),
        (["u,i,5"] * 3, "nothing is left when every user"),
        ([], "no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, lines, message):
    source = tmp_path / "log.csv"
    source.write_text("\n".join(["user,item,time", *lines]) + "\n")
    with pytest.raises(DataError, match=message):
        build_folder([source], tmp_path / "out", memory=MB)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"user,item,time\ru,i,5\r", "uses single carriage returns as line ends"),
        (b"\n\nuser,\xff,time\nu,i,5\n", r"line 3 is not UTF-8 text \(byte 0xff at offset 7\)"),
        ("user,item,time\n".encode("utf-16"), "is UTF-16 text; expected UTF-8"),
        (b"user,it\0em,time\nu,i,5\n", "line 1 has a NUL byte at offset 7"),
        (b"\xef\xbb\xbf\n\n", "has no rows; expected a line of column names"),
    ],
)
def test_a_header_that_cannot_be_read_is_named(tmp_path, data, message):
    (tmp_path / "log.csv").write_bytes(data)
    with pytest.raises(DataError, match=rf"log\.csv:? {message}"):
        build_folder([tmp_path / "log.csv"], tmp_path / "out", memory=MB)


def test_files_of_different_types_are_refused(tmp_path):
    make_log(ids="text").write_parquet(tmp_path / "a.parquet")
    make_log(ids="integers").write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="same types"):
        build_folder([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out", memory=MB)


def test_sizes():
    assert [parse_size(text) for text in ("2GB", "1 MB", "1GiB", "1.5g", "2000000")] == [2 * 10**9, MB, 2**30, 15 * 10**8, 2 * MB]
    for text in ("two", "5", "-1GB", "2 XB", ""):
        with pytest.raises(ConfigError, match="memory must be"):
            parse_size(text)


BUILD = """
import sys
from pathlib import Path
from ssd4rec.data.out_of_core.build import build_folder
def slowly(stage, done, total):
    import time
    time.sleep(0.02)
    print(stage, flush=True)
build_folder([sys.argv[1]], sys.argv[2], memory=10**6, progress=slowly, recorded_every=0)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["reading", "counting", "partitioning", "sorting"])
def test_a_killed_build_goes_on(tmp_path, stage):
    source, target = tmp_path / "log.parquet", tmp_path / "out"
    make_log(60_000).write_parquet(source, row_group_size=5000)
    reported = 0
    with subprocess.Popen([sys.executable, "-c", BUILD, source, target], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            reported += line.strip() == stage
            if reported == (3 if stage == "reading" else 1):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    stages = []
    report = build_folder([source], target, memory=MB, progress=lambda name, done, _: stages.append((name, done)))
    assert report.resumed
    if stage != "reading":
        assert not [name for name, _ in stages if name == "reading"]
    else:
        assert next(done for name, done in stages if name == "reading") > source.stat().st_size / 60 * 3
    assert contents(target) == in_memory(source, tmp_path / "whole")


@pytest.mark.thorough
def test_a_build_of_other_files_starts_over(tmp_path):
    source, target = tmp_path / "log.parquet", tmp_path / "out"
    make_log(20_000).write_parquet(source)

    class StopError(Exception):
        pass

    def stop(stage, _done, _all):
        if stage == "partitioning":
            raise StopError

    with pytest.raises(StopError):
        build_folder([source], target, memory=MB, progress=stop)
    make_log(20_000, seed=1).write_parquet(source)
    os.utime(source, (time.time() + 5, time.time() + 5))
    assert not build_folder([source], target, memory=MB).resumed
    assert contents(target) == in_memory(source, tmp_path / "whole")


@pytest.mark.parametrize(("stage", "name"), [("counting", "users-000000.parquet"), ("partitioning", "core.npz")])
def test_a_damaged_unfinished_build_is_named(tmp_path, stage, name):
    """Also one whose files were truncated: they are not mapped into memory."""
    make_log(300).write_csv(tmp_path / "log.csv")

    def stop(at, _done, _all):
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_folder([tmp_path / "log.csv"], tmp_path / "out", memory=MB, progress=stop)
    os.truncate(tmp_path / ".out.build" / name, 40)
    with pytest.raises(DataError, match=r"the unfinished build in .*\.out\.build is damaged .*remove this folder"):
        build_folder([tmp_path / "log.csv"], tmp_path / "out", memory=MB)


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists"):
        build_folder([tmp_path / "log.csv"], tmp_path / "out", memory=MB)


def test_a_damaged_folder_is_refused(tmp_path):
    make_log().write_parquet(tmp_path / "log.parquet")
    build_folder([tmp_path / "log.parquet"], tmp_path / "out", memory=MB)
    (tmp_path / "out" / "read.json").write_text("{}")
    with pytest.raises(DataError, match="build the folder again"):
        open_folder(tmp_path / "out")
