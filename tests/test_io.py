"""Atomic writes, locks and JSON."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import polars as pl
import pytest

from processes import dead_process
from ssd4rec import _io
from ssd4rec._io import as_json, atomic_folder, atomic_write, exclusive_lock, read_parquet, write_atomically


def test_the_file_gets_its_name_at_the_end_of_the_block(tmp_path):
    """Inside the block the old file is unchanged; after it there is only the new one."""
    target = tmp_path / "table.csv"
    write_atomically(target, "old")
    with atomic_write(target) as partial:
        partial.write_text("né", encoding="utf-8")
        assert target.read_text() == "old"
    assert target.read_text(encoding="utf-8") == "né"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_write_leaves_the_existing_file(tmp_path, error, existing):
    """The old file, or no file, and no part of the new one."""
    target = tmp_path / "table.csv"
    if existing:
        target.write_text("old")

    def write_half(partial):
        partial.write_text("half")
        raise error("stop")

    with pytest.raises(error, match="stop"), atomic_write(target) as partial:
        write_half(partial)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("table.csv", "old")] * existing


def test_the_first_error_is_reported(tmp_path):
    """Under a file, in a missing folder and over a folder: never an error of the cleanup, and no leftovers."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    for place, kind in (("file/x", NotADirectoryError), ("missing/x", FileNotFoundError), ("folder", IsADirectoryError)):
        with pytest.raises(kind):
            write_atomically(tmp_path / place, "text")
    with pytest.raises(ValueError, match="the block's own"), atomic_write(tmp_path / "file" / "x"):
        raise ValueError("the block's own")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    """A writer that wrote to another path must not look successful."""
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "table.csv"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    """Also if the new file replaces another one."""
    target = tmp_path / "table.csv"
    target.touch(0o666)
    previous = os.umask(umask)
    try:
        write_atomically(target, "new")
    finally:
        os.umask(previous)
    assert target.stat().st_mode & 0o777 == mode


def test_data_are_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    """A power cut may keep the rename and lose data that were not synced."""
    target, synced = tmp_path / "table.csv", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_size, target.exists())))
    write_atomically(target, "six!!!")
    assert synced == [(6, False)]
    assert target.read_text() == "six!!!"


def test_two_processes_write_separate_temporary_files(tmp_path, monkeypatch):
    """The final file is the complete output of the process that finished last."""
    target = tmp_path / "table.csv"
    with atomic_write(target) as first:
        first.write_text("our first half, ")
        monkeypatch.setattr(os, "getpid", os.getppid)  # act as another process that is alive
        with atomic_write(target) as second:
            second.write_text("theirs")
        assert target.read_text() == "theirs"
        first.write_text(first.read_text() + "our second half")
    assert target.read_text() == "our first half, our second half"
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    """Temporary files of running processes, and files with similar names, stay."""
    dead, alive = (f".table.csv.partial-{process}" for process in (dead_process(), os.getppid()))
    others = [alive, ".table.csv.partial-", ".table.csv.partial-old", ".other.csv.partial-1"]
    for name in (dead, *others):
        (tmp_path / name).write_text("half")
    write_atomically(tmp_path / "table.csv", "new")
    assert {each.name for each in tmp_path.iterdir()} == {"table.csv", *others}


def test_a_process_of_another_user_counts_as_alive(tmp_path, monkeypatch):
    """Sending it a signal is not permitted."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    (tmp_path / "a-77").touch()
    assert _io.stale_temp_files(tmp_path, "a-") == []


def test_a_second_process_is_refused_until_the_first_one_ends(tmp_path):
    """Killing the owner releases the lock, and it can be acquired repeatedly."""
    block = "with exclusive_lock(Path(sys.argv[1]), ValueError(), ValueError):\n print('locked', flush=True); time.sleep(60)"
    code = f"import sys, time; from pathlib import Path; from ssd4rec._io import exclusive_lock\n{block}"
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    owner.stdout.readline()
    with pytest.raises(ValueError, match="busy"), exclusive_lock(tmp_path / "lock", ValueError("busy"), ValueError):
        pass
    owner.kill()
    owner.communicate()
    for _ in range(2):
        with exclusive_lock(tmp_path / "lock", ValueError("busy"), ValueError):
            pass


def test_a_lock_inside_the_same_process_is_refused_too(tmp_path):
    """Two threads of one program cannot share a folder by accident."""
    with (
        exclusive_lock(tmp_path / "lock", ValueError("busy"), ValueError),
        pytest.raises(ValueError, match="busy"),
        exclusive_lock(tmp_path / "lock", ValueError("busy"), ValueError),
    ):
        pass


@pytest.mark.parametrize("number", sorted(_io.NO_LOCKS))
def test_a_file_system_without_locks_does_not_stop_the_work(tmp_path, monkeypatch, number):
    """Some network disks have none."""

    def refuse(*_):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(filelock._unix.fcntl, "flock", refuse)
    with exclusive_lock(tmp_path / "lock", ValueError("busy"), ValueError):
        (tmp_path / "result").write_text("done")
    assert (tmp_path / "result").read_text() == "done"


def test_an_impossible_lock_file_is_refused_with_the_reason(tmp_path):
    """The folder is created; if it cannot be, the caller's own error has the reason."""
    with exclusive_lock(tmp_path / "new" / "lock", ValueError("busy"), ValueError):
        pass
    with (
        pytest.raises(ValueError, match="Not a directory"),
        exclusive_lock(tmp_path / "new" / "lock" / "in" / "lock", ValueError("busy"), ValueError),
    ):
        pass


def test_json_of_python_and_numpy_values():
    """NaN is null, a NumPy number is a number, and every string can be written."""
    value = {
        "none": [float("nan"), np.float32("inf"), np.float64("-inf"), None],
        "numbers": (np.int64(5), np.float32(0.5), np.float64(0.25), 1.5, True, np.bool_(False)),
        np.int64(3): Path("a"),
        "name": "caf\udce9.csv",
    }
    expected = {
        "none": [None] * 4,
        "numbers": [5, 0.5, 0.25, 1.5, True, False],
        "3": "a",
        "name": "caf\\udce9.csv",
    }
    assert json.loads(as_json(value)) == json.loads(as_json(value, indent=2, ensure_ascii=True)) == expected
    assert as_json({"a": "é"}) == '{"a": "é"}'
    assert as_json({"a": "é"}, indent=1, ensure_ascii=True) == '{\n "a": "\\u00e9"\n}'
    assert as_json(math.pi) == "3.141592653589793"


def test_other_types_are_refused_in_json():
    """No silent conversion to a string."""
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        as_json({"models": {1, 2}})


def test_a_parquet_file_is_not_mapped(tmp_path):
    """A table outlives its file being truncated in place; the truncated file is an error, not the end of the process."""
    path = tmp_path / "table.parquet"
    pl.DataFrame({"item": range(100_000)}).write_parquet(path)
    table = read_parquet(path)
    os.truncate(path, 5000)
    assert table["item"].sum() == 4_999_950_000
    with pytest.raises(ValueError, match=r"table\.parquet is not a readable Parquet file: "):
        read_parquet(path)
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "missing.parquet")


def test_a_folder_is_replaced_at_the_end_of_the_block_or_not_at_all(tmp_path):
    target = tmp_path / "data" / "set"

    def write(name, error=None):
        with atomic_folder(target) as folder:
            (folder / name).write_text(name)
            if error:
                raise error

    write("first")
    write("second")
    with pytest.raises(KeyboardInterrupt):
        write("third", KeyboardInterrupt())
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in target.parent.iterdir()] == ["set"]
