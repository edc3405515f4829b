"""Recommendations for every user of a file, streamed to Parquet."""

import contextlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ssd4rec.data.catalogue import as_type, encode
from ssd4rec.data.histories import time_order
from ssd4rec.data.interactions import Columns, read_interactions
from ssd4rec.data.packing import Numbers
from ssd4rec.data.readers import Source
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.serving.recommender import Recommender

USERS_AT_ONCE = 1024

Progress = Callable[[int, int], None]  # (users done, all)


def recommend_users(
    recommender: Recommender,
    source: Source,
    out: str | Path,
    *,
    k: int = 100,
    columns: Columns = Columns(),  # noqa: B008 - a frozen value
    exclude_seen: bool = True,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Recommend to every user of a table of interactions, whether the model has seen the user or not.

    Args:
        recommender: of a finished model.
        source: as `read_interactions` takes it.
        out: Parquet file to write: user_id, item_id, score, rank (1-based); it is whole or absent.
        k: how many items a user at most.
        columns: names of the columns of `source`.
        exclude_seen: leave out items of the user's history.
        progress: called with (users done, all users).

    Returns:
        Counts: users, rows, unknown_interactions (of items that the catalogue does not know; they are skipped),
        popular_users (who had nothing else and were given the popular items).

    Raises:
        DataError: the file cannot be read or `out` cannot be written.
        ConfigError: k is not 1 or more.
    """
    if k < 1:
        raise ConfigError(f"k is how many items to recommend, 1 or more; found {k}")
    users, items, offsets, unknown = _histories(recommender, source, columns)
    target = Path(out)
    partial = target.with_name(f".{target.name}.partial")
    popular = rows = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            writer: pq.ParquetWriter | None = None
            for first in range(0, len(users), USERS_AT_ONCE):
                edges = offsets[first : first + USERS_AT_ONCE + 1]
                known = [part[part > 0] for part in (items[start:stop] for start, stop in pairwise(edges.tolist()))]
                popular += sum(not len(history) for history in known)
                found = recommender.top(known, k, exclude_seen=exclude_seen)
                table = _table(users[first : first + USERS_AT_ONCE], found, recommender)
                rows += len(table)
                if writer is None:
                    writer = stack.enter_context(pq.ParquetWriter(partial, table.schema))
                writer.write_table(table)
                if progress:
                    progress(min(first + USERS_AT_ONCE, len(users)), len(users))
        partial.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}; give another file") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return {"users": len(users), "rows": rows, "unknown_interactions": unknown, "popular_users": popular}


def _histories(recommender: Recommender, source: Source, columns: Columns) -> tuple[pl.Series, Numbers, Numbers, int]:
    """Users, item numbers (0 = unknown) by user and time, offsets, and how many interactions are unknown."""
    catalogue = recommender.artefact.catalogue
    table = read_interactions(source, columns).table
    codes, users = encode(table["user"])
    numbers = catalogue.numbers(as_type(table["item"], catalogue.ids.dtype))
    order = time_order(codes, table["time"].to_numpy())
    offsets = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(users)))]).astype(np.int64)
    return users, numbers[order], offsets, int(np.count_nonzero(numbers == 0))


def _table(users: pl.Series, found: list[tuple[Numbers, np.ndarray]], recommender: Recommender) -> pa.Table:
    lengths = np.array([len(items) for items, _ in found], dtype=np.int64)
    items = np.concatenate([items for items, _ in found])
    ranks = np.arange(len(items)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    return pl.DataFrame(
        {
            "user_id": users.gather(np.repeat(np.arange(len(users)), lengths)),
            "item_id": recommender.artefact.catalogue.ids_of(items),
            "score": np.concatenate([scores for _, scores in found]),
            "rank": ranks,
        }
    ).to_arrow(compat_level=pl.CompatLevel.oldest())
