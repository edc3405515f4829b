"""One process at a time, and never for ever."""

import fcntl
import subprocess
import sys

import pytest

from ssd4rec._locks import exclusive_lock


def test_a_second_one_is_told_and_the_lock_goes_with_its_process(tmp_path):
    """Another process holds it until it is killed; then it can be had, and had again."""
    hold = "with exclusive_lock(Path(sys.argv[1]), ValueError(), ValueError):\n print('held', flush=True); time.sleep(60)"
    code = f"import sys, time; from pathlib import Path; from ssd4rec._locks import exclusive_lock\n{hold}"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(ValueError, match="busy"), exclusive_lock(tmp_path / "lock", ValueError("busy"), ValueError):
        pass
    other.kill()
    other.communicate()
    for _ in range(2):
        with exclusive_lock(tmp_path / "lock", ValueError("busy"), ValueError):
            pass


def test_a_lock_on_a_file_that_is_gone_is_none(tmp_path, monkeypatch):
    """The one who held it renamed it between our opening and our locking: we have the lock of another file."""
    path, flock = tmp_path / "lock", fcntl.flock

    def late(*arguments):
        path.rename(tmp_path / "whole")
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ValueError, match="busy"), exclusive_lock(path, ValueError("busy"), ValueError):
        pass


def test_a_disk_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    """Some network disks refuse: that is no reason to refuse the work."""

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive_lock(tmp_path / "lock", ValueError("busy"), ValueError) as file:
        file.write(b"the work is done")
    assert (tmp_path / "lock").read_bytes() == b"the work is done"


def test_a_place_that_cannot_be_is_refused_with_the_reason(tmp_path):
    """Its folder is made; where it cannot be, the caller's own error says why."""
    with exclusive_lock(tmp_path / "new" / "lock", ValueError("busy"), ValueError) as file:
        file.write(b"kept at once")
        assert (tmp_path / "new" / "lock").read_bytes() == b"kept at once"
    with (
        pytest.raises(ValueError, match="Not a directory"),
        exclusive_lock(tmp_path / "new" / "lock" / "in" / "lock", ValueError("busy"), ValueError),
    ):
        pass
