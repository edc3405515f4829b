"""Recommendations for every user of a file, streamed to Parquet, CSV or TSV."""

import contextlib
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ssd4rec._csr import split_rows
from ssd4rec._io import atomic_write
from ssd4rec.data.interactions import Columns, Interactions, ReadOptions, read_interactions
from ssd4rec.data.io import Source
from ssd4rec.data.request_times import check_clock
from ssd4rec.errors import DataError
from ssd4rec.serving.arguments import Ids, Moment
from ssd4rec.serving.arrow import USERS_AT_ONCE, ArrowRecommender, BatchOptions
from ssd4rec.serving.recommender import Recommender, UnknownItems
from ssd4rec.serving.sources import from_interactions

PARQUET = "Parquet"
KINDS = {".parquet": PARQUET, ".pq": PARQUET, ".csv": ",", ".tsv": "\t"}  # of text: what stands between the columns

Progress = Callable[[int, int], None]  # (users done, all)


def recommend_users(  # noqa: PLR0913 - what `recommend` takes, and where from and where to
    recommender: Recommender,
    source: Source | Interactions,
    out: str | Path,
    *,
    k: int = 100,
    columns: Columns = Columns(),  # noqa: B008 - a frozen value
    options: ReadOptions = ReadOptions(),  # noqa: B008 - a frozen value
    exclude_seen: bool = True,
    allow: Ids | None = None,
    deny: Ids | None = None,
    unknown_items: UnknownItems = "skip",
    at: Moment | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Recommend to every user of a table of interactions, whether the model has seen the user or not.

    The interactions lie in memory, the recommendations of 1,024 users at a time. They are read from `source`, which
    `read_interactions` takes with `columns` and `options`, or gave, and the recommendations are written to `out`, which is whole
    or absent: Parquet, CSV or TSV, as its suffix says, with the columns user_id, item_id, score and rank (1-based). The other
    arguments and errors are those of `Recommender.recommend`; `progress` is called with (users done, all users).

    Returns:
        Counts: users, rows, unknown_interactions (of items that the catalog does not know), popular_users (who were given
        the popular items).

    Raises:
        ConfigError: see `Recommender.recommend`; or `at` is passed for interactions without times.
        DataError: the file cannot be read; `out` cannot be written, has another suffix, is `source` itself or no regular file.
    """
    moment = at.isoformat() if isinstance(at, datetime) else at
    chosen = BatchOptions(k, exclude_seen, unknown_items, at=moment)
    model, target = ArrowRecommender(recommender, chosen, allow=allow, deny=deny), Path(out)
    _check_target(target, source)
    interactions = source if isinstance(source, Interactions) else read_interactions(source, columns, options)
    if unknown_items == "raise":
        model.indices(interactions.table["item"])  # before anything is written
    if at is not None:
        check_clock(interactions.read.clock)
    artifact = recommender.artifact
    sequences = from_interactions(interactions, artifact.catalog, artifact.config.data.tie_order)
    counts = {"users": len(sequences), "rows": 0, "unknown_interactions": 0, "popular_users": 0}
    items = model.indices(sequences.items(slice(None)))
    empty = model.recommend_histories(sequences.users[:0], [], None).table
    with _atomic_target(target) as partial, _writer(partial, KINDS[target.suffix.lower()], empty) as write:
        for first in range(0, len(sequences), USERS_AT_ONCE):
            stop = min(first + USERS_AT_ONCE, len(sequences))
            histories = split_rows(items, sequences.offsets[first : stop + 1])
            result = model.recommend_histories(sequences.users[first:stop], histories, sequences.last_event(first, stop))
            write(result.table)
            counts["rows"] += len(result.table)
            counts["unknown_interactions"] += result.unknown_interactions
            counts["popular_users"] += result.popular_users
            if progress:
                progress(stop, len(sequences))
    return counts


def _check_target(target: Path, source: Source | Interactions) -> None:
    """Refuse, before anything is read or made, what a file of recommendations must not be, or take the place of."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG  # it will be one
    except OSError as error:
        raise _unwritable(target, error) from error
    if stat.S_ISDIR(mode):
        raise DataError(
            f"cannot write {target}: it is a folder; give the name of a file, e.g. {target / 'recommendations.parquet'}"
        )
    if not stat.S_ISREG(mode):
        raise DataError(f"cannot write {target}: it is a pipe or a device; give the name of a file")
    if target.suffix.lower() not in KINDS:
        raise DataError(
            f"cannot write {target}: its suffix says which kind of file it is, {', '.join(KINDS)}; "
            f"give e.g. {target.with_suffix('.parquet')}"
        )
    with contextlib.suppress(OSError):  # a source that cannot be found is answered when it is read
        if isinstance(source, str | Path) and target.samefile(source):
            raise DataError(f"cannot write {target}: it is {source}, the interactions that are read; give another file")


def _unwritable(target: Path, error: OSError) -> DataError:
    return DataError(f"cannot write {target}: {error.strerror or error}; give another file, or free some space")


@contextlib.contextmanager
def _atomic_target(target: Path) -> Iterator[Path]:
    """Make the folder of a file and yield a temporary path, see `atomic_write`; errors of the system are `DataError`."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            partial.touch()  # what refuses it says so in fewer words than pyarrow's
            yield partial
    except OSError as error:
        raise _unwritable(target, error) from error


@contextlib.contextmanager
def _writer(path: Path, kind: str, empty: pa.Table) -> Iterator[Callable[[pa.Table], object]]:
    """Yield a function that appends a table to a file; `empty` has the columns."""
    if kind == PARQUET:
        with pq.ParquetWriter(path, empty.schema) as writer:
            yield writer.write_table
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(pl.DataFrame(empty).write_csv(separator=kind))  # the header
            yield lambda table: file.write(pl.DataFrame(table).write_csv(separator=kind, include_header=False))
