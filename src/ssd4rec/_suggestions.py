"""Find a name among the known ones, or suggest the nearest."""

import difflib
from collections.abc import Iterable, Sequence

from ssd4rec.errors import ConfigError


def nearest(name: str, among: Iterable[str]) -> str | None:
    """Return the most similar name, or None if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(among), n=1, cutoff=0.5)), None)


def find(name: str, among: Sequence[str], what: str) -> str:
    """Return the name, checked to be one of the known ones.

    Raises:
        ConfigError: it is not; the message suggests the nearest.
    """
    if name in among:
        return name
    near = nearest(name, among)
    meant = f"; did you mean {near!r}?" if near else "."
    raise ConfigError(f"unknown {what} {name!r}{meant} Choose from {', '.join(among)}")
