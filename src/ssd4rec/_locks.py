"""One process at a time: a lock on a file that goes with the process, however it ends."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def exclusive_lock(path: Path, busy: Exception, refused: Callable[[str], Exception]) -> Iterator[FileIO]:
    """Hold the file's lock inside the block. Where there is none, on Windows and on some network disks, nobody is kept out.

    Args:
        path: of the lock; it and its folder are made where they are not there, and left.
        busy: raised where another process holds it.
        refused: what to raise where it cannot be made or opened, from the reason.

    Yields:
        The file, opened to append, without a buffer.
    """
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(path.open("ab", buffering=0))
        except OSError as error:
            raise refused(error.strerror or str(error)) from error
        if not _locked(file.fileno()) or not _is_at(path, file):
            raise busy
        yield file


def _is_at(path: Path, file: FileIO) -> bool:
    """Whether it is still the file of this name: who held it may have renamed or removed it since it was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _locked(file: int) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # the file system has no locks
            return True
    return True
