"""The history that an explanation is about: ids as passed, item indices, titles, and what every explanation says of an item."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssd4rec._csr import IntArray
from ssd4rec.artifact import Artifact
from ssd4rec.errors import DataError
from ssd4rec.explain.reading import Reading, WithoutEach


class Subject:
    """A history of item ids, read by a model.

    Args:
        artifact: the model and what belongs to it.
        ids: of the history, oldest first, as passed.
        numbers: int64 [n] their item indices; 0 = not in the catalog.
        exclude_seen: items of the history are not candidates.
        times: of the request, see `Reading`.

    Raises:
        DataError: the history has no event that the model can read.
    """

    def __init__(
        self,
        artifact: Artifact,
        ids: Sequence[object],
        numbers: IntArray,
        *,
        exclude_seen: bool,
        times: IntArray | None = None,
    ) -> None:
        if not numbers.any():
            several = f"{len(numbers)} items that are not in the catalog"
            actual = ("an empty history", "one item that is not in the catalog", several)[min(len(numbers), 2)]
            raise DataError(
                f"an explanation needs a history with at least one item of the catalog, found {actual}; such a user gets the "
                f"popular items"
            )
        self.artifact, self.ids = artifact, ids
        self.positions = np.flatnonzero(numbers)  # of the events that the model can read
        known_indices = numbers[self.positions]
        self.reading = Reading(artifact, known_indices, known_indices if exclude_seen else None, times)
        self.unknown_items = tuple(ids[position] for position in np.flatnonzero(numbers == 0).tolist())
        titles = artifact.catalog.titles_of(known_indices)
        self.titles: dict[int, str | None] = {} if titles is None else dict(zip(self.positions.tolist(), titles, strict=True))

    def event(self, position: int) -> dict[str, Any]:
        """Return position, item and title of an event, for the dataclasses of the results."""
        return {"position": position, "item": self.ids[position], "title": self.titles.get(position)}

    def about(self, item: int) -> dict[str, Any]:
        """Return what the explanations of all levels share, for an item index."""
        catalog = self.artifact.catalog
        titles = catalog.titles_of([item])
        return {
            "item": catalog.ids_of([item])[0],
            "title": None if titles is None else titles[0],
            "score": self.reading.parts.of(item),
            "rank": self.reading.rank(item),
            "unknown_items": self.unknown_items,
        }

    def without_each(self, last: int) -> WithoutEach | None:
        """Return the states without each event, computed once for all items."""
        if self._last != last:
            self._last, self._without = last, self.reading.without_each(last)
            self.reading = self.reading.with_state(self._without)
        return self._without

    _last: int | None = None
    _without: WithoutEach | None = None
