"""Metadata of the items of one model, as masks over its catalog."""

import json
import threading
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from ssd4rec.service.ids import now
from ssd4rec.service.served_model import ServedModel
from ssd4rec.service.store.items import changed_items
from ssd4rec.service.user_state import Mask

_EVER = np.iinfo(np.int64)


class ItemFilters:
    """Hidden items, availability, categories and titles, kept up to date by `refresh`. For any thread.

    Args:
        model: whose catalog the masks are over.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self.version = 0
        size = len(model.ids)
        self._hidden: Mask = np.zeros(size, dtype=np.bool_)
        self._from: npt.NDArray[np.int64] = np.full(size, _EVER.min)
        self._until: npt.NDArray[np.int64] = np.full(size, _EVER.max)
        self.depends_on_time = False  # whether an item is available only until or from some time
        self._titles: dict[int, str | None] = {}  # those that are stored
        self._categories: dict[int, list[str]] = {}
        self._members: defaultdict[str, set[int]] = defaultdict(set)
        self._lock = threading.RLock()

    def refresh(self, connection: Connection, version: int) -> None:
        """Read the items that changed since the last call; `version` is the current one of the store."""
        if version <= self.version:
            return
        with self._lock:
            rows = list(changed_items(connection, self.version))
            for row in rows:
                self._set(row)
            self.version = max([self.version, *(row.version for row in rows)])

    def title(self, index: int) -> str | None:
        """Return the title of an item: that of the store, else that of the catalog."""
        return self._titles.get(index) or self._model.titles[index - 1]

    def excluded(
        self,
        allow: list[str] | None = None,
        deny: list[str] | None = None,
        any_of: list[str] | None = None,
        none_of: list[str] | None = None,
    ) -> Mask | None:
        """Return the items that must not be recommended now [V]; None: all may be.

        Args:
            allow: ids of the only candidates; None: all items are candidates.
            deny: ids of items that are not candidates.
            any_of: categories; a candidate has at least one of them.
            none_of: categories; a candidate has none of them.
        """
        with self._lock:
            hidden = self._hidden
            if self.depends_on_time:
                moment = now()
                hidden = hidden | (self._from > moment) | (self._until <= moment)
            mask = hidden.copy()
            if allow is not None:
                mask |= ~self._chosen(allow)
            elif self._model.excluded is not None:
                mask |= self._model.excluded
            if any_of is not None:
                mask |= ~self._with_categories(any_of)
            if none_of:
                mask |= self._with_categories(none_of)
            if deny:
                mask |= self._chosen(deny)
            return mask if mask.any() else None

    def _chosen(self, ids: list[str]) -> Mask:
        chosen: Mask = np.zeros(len(self._hidden) + 1, dtype=np.bool_)
        chosen[self._model.indices(ids)] = True
        return chosen[1:]

    def _with_categories(self, labels: list[str]) -> Mask:
        chosen: Mask = np.zeros(len(self._hidden), dtype=np.bool_)
        for label in labels:
            if members := self._members.get(label):
                chosen[np.fromiter(members, dtype=np.int64, count=len(members)) - 1] = True
        return chosen

    def _set(self, row: Any) -> None:
        index = self._model.index_of.get(row.item_id)
        if index is None:
            return
        self._hidden[index - 1] = row.hidden
        self._from[index - 1] = _EVER.min if row.available_from is None else row.available_from
        self._until[index - 1] = _EVER.max if row.available_until is None else row.available_until
        if row.available_from is not None or row.available_until is not None:
            self.depends_on_time = True
        self._titles[index] = row.title
        for label in self._categories.get(index, ()):
            self._members[label].discard(index)
        self._categories[index] = json.loads(row.categories)
        for label in self._categories[index]:
            self._members[label].add(index)
