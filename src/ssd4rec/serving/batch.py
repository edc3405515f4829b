"""Recommendations for every user of a file, streamed to Parquet, CSV or TSV."""

import contextlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ssd4rec._csr import IntArray, lengths_to_offsets
from ssd4rec._io import atomic_write
from ssd4rec.config import TieOrder
from ssd4rec.data.catalog import Catalog, as_type, encode
from ssd4rec.data.interactions import Columns, Interactions, ReadOptions, read_interactions
from ssd4rec.data.io import Source
from ssd4rec.data.request_times import check_clock
from ssd4rec.data.sequences import id_order, time_order
from ssd4rec.data.timestamps import Clock
from ssd4rec.errors import DataError
from ssd4rec.serving.arrow import USERS_AT_ONCE, make_table, to_arrow
from ssd4rec.serving.moments import Moment
from ssd4rec.serving.recommender import Ids, Recommender, UnknownItems

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

    The interactions lie in memory, the recommendations of 1,024 users at a time.

    Args:
        recommender: of a finished model.
        source: as `read_interactions` takes it, or what it gave.
        out: file to write, Parquet, CSV or TSV as its suffix says: user_id, item_id, score, rank (1-based); it is whole or
            absent.
        k: how many items a user at most.
        columns: names of the columns of `source`, if it is not `Interactions`.
        options: how `source` is read, if it is not `Interactions`.
        exclude_seen: leave out items of the user's history.
        allow: only these items are candidates; None: the whole catalog.
        deny: these are not.
        unknown_items: see `Recommender.recommend`.
        at: when the next items are wanted, for a model with `backbone.request_time`; None: not known.
        progress: called with (users done, all users).

    Returns:
        Counts: users, rows, unknown_interactions (of items that the catalog does not know), popular_users (who were given
        the popular items).

    Raises:
        ConfigError: k is not 1 or more, `unknown_items` is none of the three, or `at` is passed to a model that does not read it
            or for interactions without times.
        DataError: the file cannot be read; `out` cannot be written, has another suffix, is `source` itself or no regular
            file; an unknown item under "raise", an unknown id in `allow`.
        DivergedError: the model gave scores that are not numbers.
    """
    request = recommender.request(k, exclude_seen=exclude_seen, allow=allow, deny=deny, unknown_items=unknown_items)
    catalog, target = recommender.artifact.catalog, Path(out)
    _check_target(target, source)
    histories = _read(catalog, source, columns, options, recommender.artifact.config.data.tie_order)
    if unknown_items == "raise" and histories.unknown:
        raise DataError(
            f"{histories.unknown:,} interactions are with items that are not in the catalog, the first "
            f'{histories.first_unknown!r}; leave them out, or choose unknown_items="skip" or "popular"'
        )
    users, popular, rows = len(histories.users), 0, 0
    empty = make_table(catalog, histories.users[:0], [])
    with _atomic_target(target) as partial, _writer(partial, KINDS[target.suffix.lower()], empty) as write:
        for first in range(0, users, USERS_AT_ONCE):
            edges = histories.offsets[first : first + USERS_AT_ONCE + 1].tolist()
            some = [histories.items[start:stop] for start, stop in pairwise(edges)]
            times = None
            if at is not None:
                last = histories.last_event(first, first + len(some))
                times = recommender.request_times(len(some), at, last)
            results = recommender.top_items(some, request, times)
            table = make_table(catalog, histories.users[first : first + USERS_AT_ONCE], results)
            write(table)
            rows += len(table)
            popular += sum(best.source == "popular" for best in results)
            if progress:
                progress(min(first + USERS_AT_ONCE, users), users)
    return {"users": users, "rows": rows, "unknown_interactions": histories.unknown, "popular_users": popular}


@dataclass(frozen=True)
class _Histories:
    users: pl.Series
    items: IntArray  # [events] by user and time; 0 = unknown
    offsets: IntArray  # [users + 1]
    times: IntArray  # [events] ticks of `clock`
    clock: Clock
    unknown: int  # interactions
    first_unknown: object

    def last_event(self, first: int, stop: int) -> list[int]:
        """Return when the last events of some users were, in seconds."""
        ticks = check_clock(self.clock)
        return [int(each) // ticks for each in self.times[self.offsets[first + 1 : stop + 1] - 1]]


def _read(
    catalog: Catalog, source: Source | Interactions, columns: Columns, options: ReadOptions, tie_order: TieOrder
) -> _Histories:
    interactions = source if isinstance(source, Interactions) else read_interactions(source, columns, options)
    table, times = interactions.table, interactions.table["time"].to_numpy()
    codes, users = encode(table["user"])
    numbers = catalog.indices(as_type(table["item"], catalog.ids.dtype))
    then = id_order(catalog)[numbers] if tie_order == "item" else None
    order = time_order(codes, times, then)
    offsets = lengths_to_offsets(np.bincount(codes, minlength=len(users)))
    unknown = np.flatnonzero(numbers == 0)
    return _Histories(
        users,
        numbers[order],
        offsets,
        times[order],
        interactions.read.clock,
        len(unknown),
        table["item"][int(unknown[0])] if len(unknown) else None,
    )


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
    """`whole`, its folder made, its errors answered."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            partial.touch()  # what refuses it says so in fewer words than pyarrow's
            yield partial
    except OSError as error:
        raise _unwritable(target, error) from error


@contextlib.contextmanager
def _writer(path: Path, kind: str, empty: pl.DataFrame) -> Iterator[Callable[[pl.DataFrame], object]]:
    """What writes one table after the other to a file; `empty` has their columns."""
    if kind == PARQUET:
        with pq.ParquetWriter(path, to_arrow(empty).schema) as writer:
            yield lambda table: writer.write_table(to_arrow(table))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(empty.write_csv(separator=kind))  # the header
            yield lambda table: file.write(table.write_csv(separator=kind, include_header=False))
