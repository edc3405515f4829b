"""Recommendations for Arrow batches of sequences: the one function that every engine calls."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges, split_rows
from ssd4rec.data.catalog import Catalog, as_type
from ssd4rec.errors import DataError
from ssd4rec.serving.arguments import Ids
from ssd4rec.serving.recommender import Recommender, UnknownItems
from ssd4rec.serving.topk import TopK

Retrieval = Literal["exact", "approximate"]
USERS_AT_ONCE = 1024  # scored together: batches of multiples of this many users give the same bits as one batch


@dataclass(frozen=True)
class BatchOptions:
    """The recommendations for each user of a batch."""

    k: int = 100
    exclude_seen: bool = True
    unknown_items: UnknownItems = "skip"
    retrieval: Retrieval = "exact"  # approximate: `ArrowRecommender.measure` first
    at: str | int | float | None = None  # see `Recommender.recommend`; batches then have the times of the last events

    @property
    def columns(self) -> list[str]:
        """The columns of a batch."""
        return ["user", "items", *(() if self.at is None else ("last_event",))]


@dataclass(frozen=True)
class BatchResult:
    """The recommendations of one batch."""

    table: pa.Table  # user_id, item_id, score, rank (1-based)
    users: int
    popular_users: int  # who got popular items, because nothing of their history is known
    unknown_interactions: int  # with items that the catalog does not have


class ArrowRecommender:
    """A model that recommends to batches of users; workers of an engine hold one each.

    Args:
        model: a loaded recommender, or the folder of a model.
        options: what is recommended.
        device: where the model runs, if it is loaded here.
        allow: only these items are candidates; None: the whole catalog.
        deny: these are not.

    Raises:
        ConfigError: k is not 1 or more, `unknown_items` is not one of the three, or the model does not read the time `at`.
        DataError: `at` cannot be read, or an unknown id in `allow`.
        ArtifactError: the folder is not a model.
    """

    def __init__(
        self,
        model: Recommender | str | Path,
        options: BatchOptions | None = None,
        device: str = "cpu",
        *,
        allow: Ids | None = None,
        deny: Ids | None = None,
    ) -> None:
        options = options or BatchOptions()
        self.recommender = model if isinstance(model, Recommender) else Recommender.load(model, device)
        self.options = options
        self._request = self.recommender.request(
            options.k, exclude_seen=options.exclude_seen, allow=allow, deny=deny, unknown_items=options.unknown_items
        )
        if options.at is not None:
            self.recommender.request_times(0, options.at, [])  # before a worker begins

    def measure(self, batch: pa.RecordBatch | pa.Table) -> str:
        """Make the index of approximate retrieval, and measure its recall with some users; return a sentence about it.

        Args:
            batch: see `recommend`; all workers of a job use the same users.

        Raises:
            ConfigError: see `Recommender.approximate`.
            BackendError: faiss is not installed.
        """
        self.recommender = self.recommender.approximate_from(self._histories(self._frame(batch)))
        self._request = replace(self._request, index=self.recommender.index)
        return self.recommender.index.warning if self.recommender.index else ""

    def __call__(self, batch: pa.RecordBatch | pa.Table) -> pa.Table:
        """Return the recommendations of a batch: see `recommend`."""
        return self.recommend(batch).table

    def recommend(self, batch: pa.RecordBatch | pa.Table) -> BatchResult:
        """Recommend to the users of a batch.

        Args:
            batch: columns user (any id type) and items (lists of item ids, oldest first); one row a user. With `at` also
                last_event, in seconds since 1970.

        Raises:
            DataError: a column is missing, an unknown item under "raise", or a last event after `at`.
        """
        frame = self._frame(batch)
        last_event = None if self.options.at is None else frame["last_event"].to_list()
        return self.recommend_histories(frame["user"], self._histories(frame), last_event)

    def recommend_histories(self, users: pl.Series, histories: list[IntArray], last_event: list[int] | None) -> BatchResult:
        """Recommend to users with histories of item indices; `last_event` has seconds, and is not read without `at`."""
        at, catalog = self.options.at, self.recommender.artifact.catalog
        tables, popular = [make_table(catalog, users[:0], [])], 0
        for first in range(0, len(users), USERS_AT_ONCE):
            part = slice(first, first + USERS_AT_ONCE)
            some, last = histories[part], None if last_event is None or at is None else last_event[part]
            best = self.recommender.top_items(some, self._request, self.recommender.request_times(len(some), at, last))
            tables.append(make_table(catalog, users[part], best))
            popular += sum(each.source == "popular" for each in best)
        unknown = int(sum(np.count_nonzero(each == 0) for each in histories))
        return BatchResult(to_arrow(pl.concat(tables)), len(users), popular, unknown)

    def _frame(self, batch: pa.RecordBatch | pa.Table) -> pl.DataFrame:
        columns = self.options.columns
        if any(name not in batch.schema.names for name in columns):
            needed = f"{', '.join(columns[:-1])} and {columns[-1]}"
            raise DataError(f"a batch needs the columns {needed}, found {', '.join(batch.schema.names)}; rename them")
        return pl.DataFrame(pl.from_arrow(batch.select(columns)))

    def _histories(self, frame: pl.DataFrame) -> list[IntArray]:
        lengths = frame["items"].list.len().fill_null(0)
        return split_rows(self.indices(frame["items"].filter(lengths > 0).explode()), lengths_to_offsets(lengths.to_numpy()))

    def indices(self, items: pl.Series) -> IntArray:
        """Return the item indices of ids, 0 for unknown ones.

        Raises:
            DataError: an unknown item under "raise".
        """
        catalog = self.recommender.artifact.catalog
        item_indices = catalog.indices(as_type(items, catalog.ids.dtype))
        unknown = np.flatnonzero(item_indices == 0)
        if len(unknown) and self.options.unknown_items == "raise":
            raise DataError(
                f"{len(unknown):,} interactions are with items that are not in the catalog, the first "
                f'{items[int(unknown[0])]!r}; leave them out, or choose unknown_items="skip" or "popular"'
            )
        return item_indices


def make_table(catalog: Catalog, users: pl.Series, best: list[TopK]) -> pl.DataFrame:
    """Return the recommendations of some users as rows: user_id, item_id, score, rank."""
    lengths = np.array([len(each.items) for each in best], dtype=np.int64)
    items = np.concatenate([np.zeros(0, dtype=np.int64), *(each.items for each in best)])
    return pl.DataFrame(
        {
            "user_id": users.gather(np.repeat(np.arange(len(users)), lengths)),
            "item_id": catalog.ids_of(items),
            "score": np.concatenate([np.zeros(0), *(each.scores for each in best)]),
            "rank": ranges(1, lengths),
        }
    )


def to_arrow(table: pl.DataFrame) -> pa.Table:
    """Return a frame as an Arrow table of types that every reader knows."""
    return table.to_arrow(compat_level=pl.CompatLevel.oldest())
