"""A file is whole or absent."""

import os

import pytest

from ssd4rec.files import whole, write_whole


def test_a_file_takes_its_name_at_the_end(tmp_path):
    """Inside the block there is the old one; behind it the new one, and nothing else."""
    target = tmp_path / "table.csv"
    write_whole(target, "old")
    with whole(target) as partial:
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

    with pytest.raises(error, match="stop"), whole(target) as partial:
        half(partial)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("table.csv", "old")] * before


def test_the_first_error_is_the_one_that_is_told(tmp_path):
    """Under a file, in no folder and over a folder: never an error of the removal, and nothing is left."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    for place, kind in (("file/x", NotADirectoryError), ("missing/x", FileNotFoundError), ("folder", IsADirectoryError)):
        with pytest.raises(kind):
            write_whole(tmp_path / place, "text")
    with pytest.raises(ValueError, match="the block's own"), whole(tmp_path / "file" / "x"):
        raise ValueError("the block's own")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_nothing_written_is_an_error(tmp_path):
    """A writer that wrote elsewhere is not taken for one that is done."""
    with pytest.raises(FileNotFoundError), whole(tmp_path / "table.csv"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_it_is_what_the_umask_leaves(tmp_path, umask, mode):
    """Also where another file was before."""
    target = tmp_path / "table.csv"
    target.touch(0o666)
    before = os.umask(umask)
    try:
        write_whole(target, "new")
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == mode
