"""The folder of a search: its files, its identity, and its lock."""

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
    """Create the folder of a search and lock it inside the block.

    Raises:
        ArtifactError: it cannot be made or written, holds a finished model, or another process holds it.
    """
    busy = ArtifactError(f"another search is running in {place}; wait for it, or choose another --out")

    def refused(why: str) -> ArtifactError:
        return ArtifactError(f"{place} cannot be the folder of a search: {why}; choose another --out")

    try:
        finished = (place / MANIFEST).is_file()
    except OSError as error:  # a name that is too long
        raise refused(error.strerror or str(error)) from error
    if finished:
        raise ArtifactError(f"{place} contains a finished model, not a search; choose another --out")
    with exclusive_lock(place / "lock", busy, refused):
        yield


def identity(data: Prepared, config: Config, space: Sequence[Dimension]) -> dict[str, Any]:
    """Return the settings and data that all trials of a search share."""
    searched = {dimension.name for dimension in space}
    settings = {
        f"{group}.{key}": value
        for group, keys in config.model_dump(mode="json").items()
        for key, value in keys.items()
        if f"{group}.{key}" not in searched
    }
    features = {} if data.features is None else {"features": data.features.fingerprint()}
    space_of = [str(dimension) for dimension in space]
    return {"data": data.histories.fingerprint(), **features, "space": space_of, "settings": settings}
