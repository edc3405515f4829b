"""Folders for work in hand: removed at its end, and after a kill by whoever works at the same place next."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def workspace(place: Path, prefix: str) -> Iterator[Path]:
    """An empty folder inside `place`, which is made if need be; what killed processes left there is removed.

    Args:
        place: a lock on this folder, shared by all who work in it, tells their folders from leftovers.
        prefix: how the new folder's name begins, and that of leftovers.

    Raises:
        OSError: `place` cannot be written.
    """
    place.mkdir(parents=True, exist_ok=True)
    with _lock(place, prefix), tempfile.TemporaryDirectory(dir=place, prefix=prefix) as folder:
        yield Path(folder)


@contextmanager
def _lock(place: Path, prefix: str) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    held = os.open(place, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # another process works there, or the file system has no locks: leftovers stay
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in [each for each in place.iterdir() if each.name.startswith(prefix)]:
                shutil.rmtree(leftover, ignore_errors=True)
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_SH)
        yield
    finally:
        os.close(held)
