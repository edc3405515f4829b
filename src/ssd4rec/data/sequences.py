"""One time-ordered sequence per user: flat arrays of items and times, and the offsets of the sequences."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from ssd4rec._csr import IntArray, lengths_to_offsets
from ssd4rec._io import atomic_folder, read_parquet
from ssd4rec.config import TieOrder
from ssd4rec.data.catalog import Catalog, Codes, as_type, encode
from ssd4rec.data.k_core import Counts, Filtering, count_k_core, filled_core, renumber
from ssd4rec.data.timestamps import FILE_ORDER, Clock
from ssd4rec.errors import DataError

if TYPE_CHECKING:  # reading tables takes pyarrow, which serving does not need
    from ssd4rec.data.interactions import Interactions

FORMAT = 1
EVENTS_AT_ONCE = 1 << 22  # in a pass over arrays that may be larger than memory
ARRAYS = ("items", "times", "offsets")
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Kept:
    """Statistics of the sequences."""

    users: int
    items: int
    interactions: int
    mean_length: float  # events a user
    longest: int  # events


@dataclass(frozen=True)
class Sequences:
    """The interactions of every user in chronological order, concatenated.

    User "u2" with the items 5 7 2 and user "u1" with 9:  items [5, 7, 2, 9]  offsets [0, 3, 4]  users ["u2", "u1"]

    For sequences larger than memory, or shared by several processes: `save` once, then `Sequences.open` maps the arrays and
    reads from disk on demand. Splits and batches work on mapped sequences as on any others.
    """

    items: npt.NDArray[np.int32]  # [events] item indices, 1 … V; 0 only where `build_sequences` had a catalog: unknown items
    times: IntArray  # [events] ticks of `clock`, never decreasing inside a sequence
    offsets: IntArray  # [users + 1]; sequence u is items[offsets[u]:offsets[u + 1]]
    users: pl.Series  # [users] ids as in the source, by first appearance
    filtering: Filtering
    clock: Clock
    tie_order: TieOrder = "file"  # the order of a user's events at the same time

    @property
    def kept(self) -> Kept:
        """Statistics of these sequences: the `data.kept` part of a report."""
        lengths = np.diff(self.offsets)
        users, events = int(np.count_nonzero(lengths)), len(self.items)  # a sequence may be empty
        occurs = np.zeros(int(self.items.max(initial=0)) + 1, dtype=bool)
        for first, stop in user_blocks(self.offsets):
            occurs[self.items[self.offsets[first] : self.offsets[stop]]] = True
        return Kept(users, int(np.count_nonzero(occurs)), events, events / max(users, 1), int(lengths.max(initial=0)))

    @property
    def at_same_time(self) -> int:
        """Number of events at the time of the previous one, whose order `tie_order` decides."""
        return sum(int(np.count_nonzero(ties)) for _, ties in self._ties_with_previous())

    @property
    def duplicates(self) -> int:
        """Number of events that equal an earlier one in user, item and time."""
        count = 0
        for items, ties in self._ties_with_previous():
            in_tie = ties.copy()
            in_tie[:-1] |= ties[1:]
            rows = np.flatnonzero(in_tie)
            run = np.cumsum(~ties[rows])  # the run of simultaneous events of a user
            order = np.lexsort((items[rows], run))
            count += int(np.count_nonzero((np.diff(items[rows][order]) == 0) & (np.diff(run[order]) == 0)))
        return count

    def _ties_with_previous(self) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]]:
        """Yield, for blocks of users, the items and whether each event is at the time of the user's previous one."""
        for first, stop in user_blocks(self.offsets):
            offsets = self.offsets[first : stop + 1]
            same = np.zeros(offsets[-1] - offsets[0] + 1, dtype=bool)
            same[1:-1] = np.diff(self.times[offsets[0] : offsets[-1]]) == 0
            same[offsets - offsets[0]] = False  # the first of each sequence; a sequence may be empty
            yield self.items[offsets[0] : offsets[-1]], same[:-1]

    @cached_property  # a pass over all events, which the description of the data and the choice of baselines share
    def repeated(self) -> int:
        """Number of events of an item that occurs earlier in the same sequence."""
        items, repeats = int(self.items.max(initial=0)) + 1, 0
        for first, stop in user_blocks(self.offsets):
            offsets = self.offsets[first : stop + 1]
            user = np.repeat(np.arange(stop - first), np.diff(offsets))
            pairs = np.sort(user * items + self.items[offsets[0] : offsets[-1]])
            repeats += int(np.count_nonzero(np.diff(pairs) == 0))
        return repeats

    def fingerprint(self) -> str:
        """Return the SHA-256 of items, times and offsets: equal for equal sequences, on any machine."""
        digest = hashlib.sha256()
        for name, kind in zip(ARRAYS, ("<i4", "<i8", "<i8"), strict=True):
            digest.update(np.ascontiguousarray(getattr(self, name), dtype=kind).data)
        return digest.hexdigest()

    def save(self, directory: str | Path) -> None:
        """Write a folder for `open`; it appears complete or not at all.

        Raises:
            DataError: the folder exists, or cannot be written.
        """
        with new_folder(directory) as folder:
            self.write_arrays(folder)
            write_about(folder, self.users, self.filtering, self.clock, self.tie_order)

    @staticmethod
    def open(directory: str | Path, *, mmap: bool = True) -> "Sequences":
        """Read a folder that `save` wrote.

        Args:
            directory: the folder.
            mmap: map items and times and read them on demand.

        Raises:
            DataError: the folder is missing, damaged or of another format.
        """
        folder = Path(directory)
        try:
            about = json.loads((folder / "histories.json").read_text(encoding="utf-8"))
            _check_format(folder, about)
            mode: Literal["r"] | None = "r" if mmap else None
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False) for name in ARRAYS}
            users = read_parquet(folder / "users.parquet")["user"]
            stored = about["filtering"]
            filtering = Filtering(stored["k"], stored["rounds"], Counts(**stored["came"]), Counts(**stored["removed"]))
            clock = Clock(**about["clock"])
            tie_order: TieOrder = about.get("tie_order", "file")
        except DataError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{folder} cannot be read as sequences ({error}); build the sequences again") from error
        items, times, offsets = arrays.values()
        if offsets.shape != (len(users) + 1,) or not items.shape == times.shape == (offsets[-1],):
            raise DataError(f"{folder} cannot be read as sequences: its files do not match; build the sequences again")
        return Sequences(**arrays, users=users, filtering=filtering, clock=clock, tie_order=tie_order)

    def write_arrays(self, folder: Path) -> None:
        """Write items, times and offsets, each as a NumPy file of its name."""
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)


@contextmanager
def new_folder(directory: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to `directory` at the end of the block.

    Raises:
        DataError: `directory` exists, or cannot be written.
    """
    target = Path(directory)
    if target.exists():
        raise DataError(f"{target} already exists; choose a new folder, or remove it")
    try:
        with atomic_folder(target) as folder:
            yield folder
    except OSError as error:
        raise DataError(f"cannot write sequences to {target}: {error.strerror or error}") from error


def user_blocks(offsets: IntArray, events: int = EVENTS_AT_ONCE) -> Iterator[tuple[int, int]]:
    """Yield ranges of users with at most so many events, a user with more alone: a pass over mapped arrays holds no more.

    offsets [0, 3, 4, 9, 10] with 4 events at once -> (0, 2), (2, 3), (3, 4)
    """
    first = 0
    while first < len(offsets) - 1:
        stop = max(int(np.searchsorted(offsets, offsets[first] + events, side="right")) - 1, first + 1)
        yield first, stop
        first = stop


def write_about(folder: Path, users: pl.Series, filtering: Filtering, clock: Clock, tie_order: TieOrder) -> None:
    """Write everything of a folder of sequences but its arrays."""
    pl.DataFrame({"user": users.rechunk()}).write_parquet(folder / "users.parquet")
    about = {"format": FORMAT, "filtering": asdict(filtering), "clock": asdict(clock), "tie_order": tie_order}
    (folder / "histories.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def build_sequences(
    interactions: "Interactions",
    min_interactions: int = 5,
    *,
    tie_order: TieOrder = "file",
    catalog: Catalog | None = None,
    base: Catalog | None = None,
) -> tuple[Sequences, Catalog]:
    """Filter by the k-core, assign item indices and sort each user's interactions by time.

    Args:
        interactions: from `read_interactions`.
        min_interactions: k; rows of users or items with fewer rows are removed until none is left. 1 keeps everything.
        tie_order: the order of a user's events at the same time: that of the file or of the item ids.
        catalog: of a finished model. Its item indices are used, items that it does not contain get the index 0, and nothing
            is filtered, whatever `min_interactions` is.
        base: of a model whose training continues. Its items have their indices and are never filtered, and the remaining new
            items follow.

    Returns:
        The sequences (by exact time, then `tie_order`, then the order of the file) and their catalog: the given one, or the
        remaining items by first appearance in the file. Users are in the order of their first appearance.

    Raises:
        DataError: the k-core is empty, k is below 1, or a new item id cannot have the type of the ids in `base`.
    """
    if min_interactions < 1:
        raise DataError(f"min_interactions must be 1 or more, found {min_interactions}; 1 keeps everything")
    table = interactions.table
    user, users = encode(table["user"])
    item, items = encode(table["item"])
    time = table["time"].to_numpy()
    came = Counts(len(users), len(items), len(user))
    filtering = Filtering(1, 0, came, Counts(0, 0, 0))
    if catalog is None:
        known = None if base is None else base.indices(_like(items, base, interactions.read.source)) > 0
        core = filled_core(
            lambda k: count_k_core(lambda: [(user, item)], len(users), len(items), k, known),
            min_interactions,
            interactions.read.source,
            came,
        )
        filtering = core.filtering(min_interactions, came)
        user_stays, item_stays = core.user_counts > 0, core.item_counts > 0
        new_user, new_item = renumber(user_stays)[user], renumber(item_stays)[item]
        rows = (new_user >= 0) & (new_item >= 0)
        user, item, time = new_user[rows], new_item[rows], time[rows]
        users, items = users.filter(pl.Series(user_stays)), items.filter(pl.Series(item_stays))
        if base is None:
            catalog = Catalog(items.alias("id"))
            item = item + np.int32(1)
        else:
            ids = as_type(items, base.ids.dtype)
            catalog = base.extended(ids)
            item = catalog.indices(ids).astype(np.int32)[item]
    else:
        item = catalog.indices(as_type(items, catalog.ids.dtype)).astype(np.int32)[item]
    tie_break = id_order(catalog)[item] if tie_order == "item" else None
    order = time_order(user, time, tie_break)
    sequences = Sequences(
        items=item[order],
        times=time[order],
        offsets=lengths_to_offsets(np.bincount(user, minlength=len(users))),
        users=users,
        filtering=filtering,
        clock=interactions.read.clock,
        tie_order=tie_order,
    )
    return sequences, catalog


def _like(items: pl.Series, base: Catalog, source: str) -> pl.Series:
    """Return ids in the type of those of a catalog."""
    ids = as_type(items, base.ids.dtype)
    if ids.null_count():
        raise DataError(
            f"{source}: the item id {items.filter(ids.is_null())[0]!r} is not {base.ids.dtype} like the items of the model, such "
            f"as {base.ids[0]!r}; use the ids that the model was trained with, or train a new model"
        )
    return ids


def id_order(catalog: Catalog) -> IntArray:
    """Return, for each item index [V + 1], the rank of its id; digits are compared as numbers, and the mask is first."""
    ids = catalog.ids
    if ids.dtype == pl.String and ids.str.contains("^[0-9]+$").all():
        ids = ids.str.zfill(int(ids.str.len_bytes().to_numpy().max(initial=0)))
    return np.concatenate([[0], ids.rank("dense").to_numpy()]).astype(np.int64)


def time_order(users: Codes, times: IntArray, tie_break: IntArray | None = None) -> IntArray:
    """Return the rows sorted by user, then time, then `tie_break` if there is one, then the order of the file."""
    if not len(times):
        return np.zeros(0, dtype=np.int64)
    if tie_break is not None:
        return np.lexsort((tie_break, times, users))
    first, last = int(times.min()), int(times.max())
    span = last - first + 1
    if span * (int(users.max()) + 1) < 2**63:  # a single key for both sorts twice as fast
        return np.argsort(users.astype(np.int64) * span + (times - first), kind="stable")
    return np.lexsort((times, users))


def _check_format(folder: Path, about: dict[str, Any]) -> None:
    if about["format"] != FORMAT:
        raise DataError(f"{folder} has format {about['format']}, expected {FORMAT}; build the sequences again")


def join_parts(
    train: "Interactions",
    validation: "Interactions",
    test: "Interactions",
    tie_order: TieOrder = "file",
    base: Catalog | None = None,
) -> tuple["Interactions", Sequences, Catalog, npt.NDArray[np.int8]]:
    """Join the events of each user: those for training, then those for validation, then those for test, each by time.

    Nothing is filtered by the k-core: the files decide. Items that occur in validation or test alone are in the catalog, but
    are not trained. With `base`, the catalog begins with its items.

    Returns:
        All rows, those for training first; their sequences and catalog; and the part of each event of the sequences, [events]:
        0 for training, 1 for validation, 2 for test.

    Raises:
        DataError: ids or times of the files have different types.
    """
    files = (train, validation, test)
    clock = train.read.clock
    for name, file in zip(PARTS[1:], files[1:], strict=True):
        for column in ("user", "item"):
            kinds = (train.table[column].dtype, file.table[column].dtype)
            if kinds[0] != kinds[1]:
                raise DataError(
                    f"{column} ids are {kinds[0]} in the train file and {kinds[1]} in the {name} file; give both one type"
                )
        if file.read.clock.kind != clock.kind:
            raise DataError(
                f"times are {clock.kind} in the train file and {file.read.clock.kind} in the {name} file; give both the same form"
            )
    ticks = np.lcm.reduce([file.read.clock.ticks for file in files]).item()
    table = pl.concat(
        file.table.with_columns(pl.col("time") * (ticks // file.read.clock.ticks), part=pl.lit(part, pl.Int8))
        for part, file in enumerate(files)
    )
    if clock.kind == FILE_ORDER:
        table = table.with_columns(time=pl.int_range(pl.len()))
    # one key for part and time: the rank of the time inside of its part, after all of the parts before
    rank = table.select(pl.struct("part", "time").rank("dense").cast(pl.Int64) - 1).to_series()
    ranks = cast("int", rank.max()) + 1
    times, parts = np.empty(ranks, dtype=np.int64), np.empty(ranks, dtype=np.int8)
    times[rank], parts[rank] = table["time"], table["part"]
    report = replace(
        train.read,
        source=" + ".join(file.read.source for file in files),
        rows=table.height,
        users=table["user"].n_unique(),
        items=table["item"].n_unique(),
        notes=tuple(dict.fromkeys(note for file in files for note in file.read.notes)),
    )
    interactions = replace(train, table=table.select("user", "item", time=rank), read=report)
    sequences, catalog = build_sequences(interactions, 1, tie_order=tie_order, base=base)
    at = sequences.times
    return interactions, replace(sequences, times=times[at], clock=Clock(clock.kind, ticks)), catalog, parts[at]
