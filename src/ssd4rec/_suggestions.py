"""A name that a person gave, among those there are."""

import difflib
from collections.abc import Iterable, Sequence

from ssd4rec.errors import ConfigError


def nearest(name: str, among: Iterable[str]) -> str | None:
    """The one that was meant, perhaps; None: none is near."""
    return next(iter(difflib.get_close_matches(name, list(among), n=1, cutoff=0.5)), None)


def find(name: str, among: Sequence[str], what: str) -> str:
    """The name itself.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    if name in among:
        return name
    near = nearest(name, among)
    meant = f"; did you mean {near!r}?" if near else "."
    raise ConfigError(f"no {what} named {name!r}{meant} There are {', '.join(among)}")
