"""Folders for work in hand: gone at the end, and after a kill with the next."""

import subprocess
import sys

import pytest

from ssd4rec.datasets.workspace import workspace

posix = pytest.mark.skipif(sys.platform == "win32", reason="file locks are POSIX's")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_is_empty_and_removed_at_the_end(tmp_path):
    with workspace(tmp_path / "new" / "cache", ".reading.") as folder:
        assert (folder.parent, names(folder)) == (tmp_path / "new" / "cache", [])
        (folder / "a").write_text("a")
    assert names(tmp_path / "new" / "cache") == []


@posix
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    """Only folders of that prefix."""
    code = "import os, sys, pathlib; from ssd4rec.datasets.workspace import workspace\n"
    code += "with workspace(pathlib.Path(sys.argv[1]), '.reading.'): os._exit(9)"
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert (killed.returncode, len(names(tmp_path))) == (9, 1)
    (tmp_path / "data").mkdir()
    with workspace(tmp_path, ".reading.") as folder:
        assert names(tmp_path) == [folder.name, "data"]
    assert names(tmp_path) == ["data"]


@posix
def test_what_is_in_use_stays(tmp_path):
    """Two at once; a leftover waits until nobody else is there."""
    with workspace(tmp_path, ".reading.") as first:
        (tmp_path / ".reading.left").mkdir()
        with workspace(tmp_path, ".reading.") as second:
            assert names(tmp_path) == sorted([".reading.left", first.name, second.name])
    with workspace(tmp_path, ".reading."):
        assert len(names(tmp_path)) == 1
