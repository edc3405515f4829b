"""Recommendations for Arrow batches of sequences: the one function that every engine calls."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from ssd4rec._csr import IntArray, ranges
from ssd4rec.data.catalog import Catalog, as_type
from ssd4rec.errors import DataError
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

    Raises:
        ConfigError: k is not 1 or more, or `unknown_items` is not one of the three.
        ArtifactError: the folder is not a model.
    """

    def __init__(self, model: Recommender | str | Path, options: BatchOptions | None = None, device: str = "cpu") -> None:
        options = options or BatchOptions()
        self.recommender = model if isinstance(model, Recommender) else Recommender.load(model, device)
        self.options = options
        self._request = self.recommender.request(
            options.k, exclude_seen=options.exclude_seen, allow=None, deny=None, unknown_items=options.unknown_items
        )

    def measure(self, batch: pa.RecordBatch | pa.Table) -> str:
        """Make the index of approximate retrieval, and measure its recall with some users; return a sentence about it.

        Args:
            batch: see `recommend`; all workers of a job use the same users.

        Raises:
            ConfigError: see `Recommender.approximate`.
            BackendError: faiss is not installed.
        """
        self.recommender = self.recommender.approximate_from(self._histories(batch)[1])
        self._request = replace(self._request, index=self.recommender.index)
        return self.recommender.index.warning if self.recommender.index else ""

    def __call__(self, batch: pa.RecordBatch | pa.Table) -> pa.Table:
        """Return the recommendations of a batch: see `recommend`."""
        return self.recommend(batch).table

    def recommend(self, batch: pa.RecordBatch | pa.Table) -> BatchResult:
        """Recommend to the users of a batch.

        Args:
            batch: columns user (any id type) and items (lists of item ids, oldest first); one row a user.

        Raises:
            DataError: a column is missing, or an unknown item under "raise".
        """
        users, histories, unknown = self._histories(batch)
        catalog = self.recommender.artifact.catalog
        tables, popular = [make_table(catalog, users[:0], [])], 0
        for first in range(0, len(users), USERS_AT_ONCE):
            best = self.recommender.top_items(histories[first : first + USERS_AT_ONCE], self._request)
            tables.append(make_table(catalog, users[first : first + USERS_AT_ONCE], best))
            popular += sum(each.source == "popular" for each in best)
        return BatchResult(to_arrow(pl.concat(tables)), len(users), popular, unknown)

    def _histories(self, batch: pa.RecordBatch | pa.Table) -> tuple[pl.Series, list[IntArray], int]:
        missing = [name for name in ("user", "items") if name not in batch.schema.names]
        if missing:
            raise DataError(f"a batch needs the columns user and items, found {', '.join(batch.schema.names)}; rename them")
        frame = pl.DataFrame(pl.from_arrow(batch.select(["user", "items"])))
        catalog = self.recommender.artifact.catalog
        lengths = frame["items"].list.len().fill_null(0)
        flat = frame["items"].filter(lengths > 0).explode()
        item_indices = catalog.indices(as_type(flat, catalog.ids.dtype))
        unknown = np.flatnonzero(item_indices == 0)
        if len(unknown) and self.options.unknown_items == "raise":
            raise DataError(
                f"{len(unknown):,} interactions are with items that are not in the catalog, the first {flat[int(unknown[0])]!r}; "
                'leave them out, or choose unknown_items="skip" or "popular"'
            )
        edges = np.concatenate([[0], np.cumsum(lengths.to_numpy(), dtype=np.int64)])
        return frame["user"], [item_indices[start:stop] for start, stop in pairwise(edges.tolist())], len(unknown)


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
