"""A file is whole or absent, and JSON is JSON."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from processes import dead_process
from ssd4rec import _files
from ssd4rec._files import as_json, atomic_write, write_atomically


def test_a_file_takes_its_name_at_the_end(tmp_path):
    """Inside the block there is the old one; behind it the new one, and nothing else."""
    target = tmp_path / "table.csv"
    write_atomically(target, "old")
    with atomic_write(target) as partial:
        partial.write_text("né", encoding="utf-8")
        assert target.read_text() == "old"
    assert target.read_text(encoding="utf-8") == "né"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [True, False])
def test_a_failure_leaves_what_was_there(tmp_path, error, before):
    """The old file or none, and no part of the new one."""
    target = tmp_path / "table.csv"
    if before:
        target.write_text("old")

    def half(partial):
        partial.write_text("half")
        raise error("stop")

    with pytest.raises(error, match="stop"), atomic_write(target) as partial:
        half(partial)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("table.csv", "old")] * before


def test_the_first_error_is_the_one_that_is_told(tmp_path):
    """Under a file, in no folder and over a folder: never an error of the removal, and nothing is left."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    for place, kind in (("file/x", NotADirectoryError), ("missing/x", FileNotFoundError), ("folder", IsADirectoryError)):
        with pytest.raises(kind):
            write_atomically(tmp_path / place, "text")
    with pytest.raises(ValueError, match="the block's own"), atomic_write(tmp_path / "file" / "x"):
        raise ValueError("the block's own")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_nothing_written_is_an_error(tmp_path):
    """A writer that wrote elsewhere is not taken for one that is done."""
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "table.csv"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_it_is_what_the_umask_leaves(tmp_path, umask, mode):
    """Also where another file was before."""
    target = tmp_path / "table.csv"
    target.touch(0o666)
    before = os.umask(umask)
    try:
        write_atomically(target, "new")
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == mode


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """A power cut may keep the renaming and lose what was not waited for."""
    target, waited_for = tmp_path / "table.csv", []

    def look(descriptor):
        waited_for.append((os.fstat(descriptor).st_size, target.exists()))

    monkeypatch.setattr(os, "fsync", look)
    write_atomically(target, "six!!!")
    assert waited_for == [(6, False)]
    assert target.read_text() == "six!!!"


def test_two_processes_do_not_write_into_one_file(tmp_path, monkeypatch):
    """Each writes its own; the name stands for what the last of them wrote, all of it."""
    target = tmp_path / "table.csv"
    with atomic_write(target) as ours:
        ours.write_text("our first half, ")
        monkeypatch.setattr(os, "getpid", os.getppid)  # as another process that is alive
        with atomic_write(target) as theirs:
            theirs.write_text("theirs")
        assert target.read_text() == "theirs"
        ours.write_text(ours.read_text() + "our second half")
    assert target.read_text() == "our first half, our second half"
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def test_what_a_killed_process_left_goes_with_the_next_file_of_the_name(tmp_path):
    """What a live one is writing stays, and so does what only looks like it."""
    dead, alive = (f".table.csv.partial-{process}" for process in (dead_process(), os.getppid()))
    others = [alive, ".table.csv.partial-", ".table.csv.partial-old", ".other.csv.partial-1"]
    for name in (dead, *others):
        (tmp_path / name).write_text("half")
    write_atomically(tmp_path / "table.csv", "new")
    assert {each.name for each in tmp_path.iterdir()} == {"table.csv", *others}


def test_a_process_of_somebody_else_is_alive(tmp_path, monkeypatch):
    """The system says no when it is asked, and knows it."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    (tmp_path / "a-77").touch()
    assert _files.stale_temp_files(tmp_path, "a-") == []


def test_json_says_what_python_and_numpy_hold():
    """What is no number is null; a number of numpy's is a number; every text can be written."""
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


def test_what_json_cannot_say_is_an_error():
    """Nothing is turned into a text that nobody asked for."""
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        as_json({"models": {1, 2}})
