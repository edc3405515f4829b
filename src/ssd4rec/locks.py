"""One process at a time: a lock on a file that goes with the process, however it ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def alone(path: Path, busy: Exception) -> Iterator[None]:
    """Hold the file's lock inside the block. Where there is none, on Windows and on some network disks, nobody is kept out.

    Args:
        path: of the lock; made where it is not there, and left.
        busy: raised where another process holds it.

    Raises:
        OSError: the file cannot be opened.
    """
    with path.open("a") as file:
        if not _locked(file.fileno()):
            raise busy
        yield


def _locked(file: int) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # the file system has no locks
            return True
    return True
