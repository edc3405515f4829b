"""The folder of a search: what lies in it, whose it is, and that one process works in it at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssd4rec._io import exclusive_lock
from ssd4rec.artifact import MANIFEST
from ssd4rec.config import Config
from ssd4rec.errors import ArtifactError
from ssd4rec.pipeline import Prepared
from ssd4rec.tuning.space import Dimension

DATABASE, BEST, TRIALS = "search.db", "best.toml", "trials"


@contextmanager
def alone_in(place: Path) -> Iterator[None]:
    """Make the folder of a search and hold it; the lock goes with the process, however it ends.

    Raises:
        ArtifactError: it cannot be made or written, holds a finished model, or another process holds it.
    """
    busy = ArtifactError(f"another search is at work in {place}; wait for it, or give another --out")

    def refused(why: str) -> ArtifactError:
        return ArtifactError(f"{place} cannot be the folder of a search: {why}; give another --out")

    try:
        finished = (place / MANIFEST).is_file()
    except OSError as error:  # a name that is too long
        raise refused(error.strerror or str(error)) from error
    if finished:
        raise ArtifactError(f"{place} holds a finished model, which a search would be mixed with; give another --out")
    with exclusive_lock(place / "lock", busy, refused):
        yield


def identity(data: Prepared, config: Config, space: Sequence[Dimension]) -> dict[str, Any]:
    """What the trials of one search have in common."""
    chosen = {dimension.name for dimension in space}
    settings = {
        f"{group}.{key}": value
        for group, keys in config.model_dump(mode="json").items()
        for key, value in keys.items()
        if f"{group}.{key}" not in chosen
    }
    return {"data": data.histories.fingerprint(), "space": [str(dimension) for dimension in space], "settings": settings}
