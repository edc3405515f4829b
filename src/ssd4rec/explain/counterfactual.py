"""A set of events without which an item leaves the first k: chosen greedily by effects, verified by re-reading."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ssd4rec.explain.effects import changed_by_each
from ssd4rec.explain.reading import Reading, WithoutEach

MOST_REMOVED = 50  # events that are left out together; each costs the effects of all others
CANDIDATES = 64  # events of which later turns choose, where shortened histories are read
MOST_READ = 1_000_000  # events of the shortened histories that later turns read


@dataclass(frozen=True)
class Removal:
    """Events left out, and what the item's score and rank are without them."""

    places: list[int]  # of the history of known items
    score: float | None = None
    rank: int | None = None  # among the candidates of the full history; None: no success
    note: str | None = None  # why there is none


def find_counterfactual(
    reading: Reading, without_each: Callable[[], WithoutEach | None], item: int, k: int, last: int
) -> Removal:
    """Leave out events until the item is not among the first k.

    Each turn leaves out the event that lowers the item's rank most, and of equal ranks its score. Where shortened histories are
    read, later turns choose from the best events of the first one. Then every event that turns out not to be needed is put back.
    The candidates stay those of the full history: an item of the history does not take the place.

    Args:
        reading: the full history.
        without_each: returns its states without each event.
        item: an item index.
        k: length of the list.
        last: how many events can be chosen where shortened histories are re-read.
    """
    rank = reading.rank(item)
    if rank is None:
        seen = bool(reading.trained[item - 1])
        note = "the item is in the history, and seen items are excluded" if seen else "the item has no training events"
        return Removal([], note=f"{note}: it is not recommended")
    if rank > k:
        return Removal([], note=f"the item has rank {rank:,}: it is not among the first {k:,}")
    removed: list[int] = []
    most, candidates = _most_removed(reading), None
    shorter, rest = reading, np.arange(len(reading.items))
    while rank <= k:
        if len(rest) == 1:
            return Removal([], note=f"one event remains, and the item is still among the first {k:,}")
        if len(removed) == most:
            return Removal([], note=f"without {most} events the item is still among the first {k:,}; the search ended there")
        among = None if candidates is None else np.searchsorted(rest, np.setdiff1d(candidates, removed))
        without = shorter.without_each(last, among) if removed else without_each()
        changed = changed_by_each(shorter, without, item)
        order = np.lexsort((changed.scores, -changed.ranks_unseen))
        if not removed and reading.method != "one-pass" and len(order) > CANDIDATES:
            candidates = changed.places[order[:CANDIDATES]]
        choice = int(order[0])
        removed.append(int(rest[changed.places[choice]]))
        shorter, rest = _left_out(reading, removed), np.delete(rest, changed.places[choice])
        rank = _rank(shorter, item)
    return _irreducible(reading, removed, item, k)


def _most_removed(reading: Reading) -> int:
    if reading.method == "one-pass":
        return MOST_REMOVED
    turn = min(CANDIDATES, len(reading.items)) * len(reading.read)
    return max(3, min(MOST_REMOVED, MOST_READ // turn))


def _irreducible(reading: Reading, removed: list[int], item: int, k: int) -> Removal:
    """Put back events that are not needed, one at a time, until every one is; read what remains once more."""
    for place in removed:
        fewer = [each for each in removed if each != place]
        if _rank(_left_out(reading, fewer), item) > k:
            return _irreducible(reading, fewer, item, k)
    shorter = _left_out(reading, removed)
    return Removal(removed, shorter.parts.of(item), _rank(shorter, item))


def _left_out(reading: Reading, places: list[int]) -> Reading:
    return replace(reading, items=np.delete(reading.items, places), known_state=None)


def _rank(reading: Reading, item: int) -> int:
    return reading.rank(item) or 0  # the item is a candidate of the full history, and stays one
