"""The folder of a search: what lies in it, and that one process works in it at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssd4rec.errors import ArtefactError

DATABASE, BEST, TRIALS = "search.db", "best.toml", "trials"


@contextmanager
def alone_in(place: Path) -> Iterator[None]:
    """Hold the folder of a search; the lock goes with the process, however it ends.

    Raises:
        ArtefactError: another process holds it.
    """
    with (place / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtefactError(f"another search is at work in {place}; wait for it, or give another --out") from error
        yield
