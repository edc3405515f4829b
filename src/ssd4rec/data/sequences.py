"""One time-ordered history a user: flat items and times, and where each history begins."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from ssd4rec._csr import IntArray, lengths_to_offsets
from ssd4rec.config import TieOrder
from ssd4rec.data.catalog import Catalog, Codes, as_type, encode
from ssd4rec.data.interactions import Interactions
from ssd4rec.data.timestamps import Clock
from ssd4rec.errors import DataError

FORMAT = 1
EVENTS_AT_ONCE = 1 << 22  # in a pass over arrays that may be larger than memory
ARRAYS = ("items", "times", "offsets")


@dataclass(frozen=True)
class Counts:
    """How many of each there are."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Filtering:
    """What the k-core did."""

    k: int
    rounds: int  # passes that removed something
    came: Counts
    removed: Counts


@dataclass(frozen=True)
class Kept:
    """What the histories hold."""

    users: int
    items: int
    interactions: int
    mean_length: float  # events a user
    longest: int  # events


@dataclass(frozen=True)
class Sequences:
    """Every user's events in the order of time, end to end.

    User "u2" met items 5 7 2, then user "u1" met 9:  items [5, 7, 2, 9]  offsets [0, 3, 4]  users ["u2", "u1"]

    Sequences that memory does not hold, or that several processes read: `save` once, then `Sequences.open`, which maps the
    arrays and reads from disk what is asked for. Splits and batches are made of mapped ones as of any other.
    """

    items: npt.NDArray[np.int32]  # [events] item numbers, 1 … V
    times: IntArray  # [events] ticks of `clock`, never falling inside a history
    offsets: IntArray  # [users + 1]; history u is items[offsets[u]:offsets[u + 1]]
    users: pl.Series  # [users] ids as they came, by first appearance in the file
    filtering: Filtering
    clock: Clock
    tie_order: TieOrder = "file"  # what orders a user's events at the same time

    @property
    def kept(self) -> Kept:
        """What is here: the `data.kept` part of a report."""
        lengths = np.diff(self.offsets)
        users, events = int(np.count_nonzero(lengths)), len(self.items)  # one may be empty
        occurs = np.zeros(int(self.items.max(initial=0)) + 1, dtype=bool)
        for first, stop in user_blocks(self.offsets):
            occurs[self.items[self.offsets[first] : self.offsets[stop]]] = True
        return Kept(users, int(np.count_nonzero(occurs)), events, events / max(users, 1), int(lengths.max(initial=0)))

    @property
    def at_same_time(self) -> int:
        """Events at the time of the one before, whose place in the history `tie_order` decides."""
        simultaneous = 0
        for first, stop in user_blocks(self.offsets):
            offsets = self.offsets[first : stop + 1]
            same = np.zeros(offsets[-1] - offsets[0] + 1, dtype=bool)
            same[1:-1] = np.diff(self.times[offsets[0] : offsets[-1]]) == 0
            same[offsets - offsets[0]] = False  # the first of each history; one may be empty
            simultaneous += int(np.count_nonzero(same))
        return simultaneous

    @property
    def repeated(self) -> int:
        """Events of an item that the same history had before."""
        items, repeats = int(self.items.max(initial=0)) + 1, 0
        for first, stop in user_blocks(self.offsets):
            offsets = self.offsets[first : stop + 1]
            user = np.repeat(np.arange(stop - first), np.diff(offsets))
            pairs = np.sort(user * items + self.items[offsets[0] : offsets[-1]])
            repeats += int(np.count_nonzero(np.diff(pairs) == 0))
        return repeats

    def fingerprint(self) -> str:
        """SHA-256 over items, times and offsets: equal for equal histories, on any machine."""
        digest = hashlib.sha256()
        for name, kind in zip(ARRAYS, ("<i4", "<i8", "<i8"), strict=True):
            digest.update(np.ascontiguousarray(getattr(self, name), dtype=kind).data)
        return digest.hexdigest()

    def save(self, directory: str | Path) -> None:
        """Write as a folder that `open` maps into memory; it appears whole or not at all.

        Raises:
            DataError: something is there already, or it cannot be written.
        """
        target = Path(directory)
        if target.exists():
            raise DataError(f"{target} is there already; name a folder that is not, or remove it")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
                whole = Path(temporary) / "whole"
                whole.mkdir()
                self._write(whole)
                whole.rename(target)
        except OSError as error:
            raise DataError(f"cannot write histories to {target}: {error.strerror or error}") from error

    @staticmethod
    def open(directory: str | Path, *, mmap: bool = True) -> "Sequences":
        """Read what `save` wrote.

        Args:
            directory: the folder.
            mmap: leave items and times on disk and read what is asked for.

        Raises:
            DataError: the folder is missing, damaged or of another format.
        """
        folder = Path(directory)
        try:
            about = json.loads((folder / "histories.json").read_text(encoding="utf-8"))
            _check_format(folder, about)
            mode: Literal["r"] | None = "r" if mmap else None
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False) for name in ARRAYS}
            users = pl.read_parquet(folder / "users.parquet")["user"]
            filtered = about["filtering"]
            came, removed = Counts(**filtered["came"]), Counts(**filtered["removed"])
            filtering = Filtering(filtered["k"], filtered["rounds"], came, removed)
            clock = Clock(**about["clock"])
            tie_order: TieOrder = about.get("tie_order", "file")
        except DataError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{folder} cannot be read as histories ({error}); build the histories again") from error
        items, times, offsets = arrays.values()
        if offsets.shape != (len(users) + 1,) or not items.shape == times.shape == (offsets[-1],):
            raise DataError(f"{folder} cannot be read as histories: its files do not fit each other; build the histories again")
        return Sequences(**arrays, users=users, filtering=filtering, clock=clock, tie_order=tie_order)

    def _write(self, folder: Path) -> None:
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        write_about(folder, self.users, self.filtering, self.clock, self.tie_order)


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
    interactions: Interactions, min_interactions: int = 5, *, tie_order: TieOrder = "file", known: Catalog | None = None
) -> tuple[Sequences, Catalog]:
    """Filter by the k-core, number users and items, and lay each user's events in the order of time.

    Args:
        interactions: from `read_interactions`.
        min_interactions: k; rows of users or items with fewer rows are removed until none is left. 1 keeps all.
        tie_order: what orders a user's events at the same time, the file or their items' ids.
        known: of a model that will read the histories; ids are then in its order, those that it does not know first.

    Returns:
        The histories (exact time, then `tie_order`, then the order of the file) and the items that are left. Users and items
        are numbered by their first appearance in the file.

    Raises:
        DataError: nothing is left after the k-core, or k is below 1.
    """
    if min_interactions < 1:
        raise DataError(f"min_interactions must be 1 or more, found {min_interactions}; 1 keeps everything")
    table = interactions.table
    user_codes, users = encode(table["user"])
    item_codes, items = encode(table["item"])
    came = Counts(len(users), len(items), len(user_codes))
    rows, steps = k_core(user_codes, item_codes, min_interactions)
    if not len(rows):
        most = _most(user_codes, item_codes, min_interactions - 1)
        raise DataError(nothing_left(interactions.read.source, min_interactions, came, steps, most))
    user, users = _renumbered(user_codes[rows], users)
    item, items = _renumbered(item_codes[rows], items)
    time = table["time"].to_numpy()[rows]
    then = None
    if tie_order == "item":
        model = known or Catalog(items.alias("id"))
        then = id_order(model)[model.indices(as_type(items, model.ids.dtype))][item]
    order = time_order(user, time, then)
    left = Counts(len(users), len(items), len(rows))
    removed = Counts(came.users - left.users, came.items - left.items, came.interactions - left.interactions)
    histories = Sequences(
        items=item[order] + np.int32(1),
        times=time[order],
        offsets=lengths_to_offsets(np.bincount(user)),
        users=users,
        filtering=Filtering(min_interactions, len(steps), came, removed),
        clock=interactions.read.clock,
        tie_order=tie_order,
    )
    return histories, Catalog(items.alias("id"))


def k_core(users: Codes, items: Codes, k: int) -> tuple[IntArray, list[Counts]]:
    """The largest set of rows in which each user and each item has at least k rows; repeats count.

    Args:
        users: [rows] codes from 0.
        items: [rows] codes from 0.
        k: the threshold.

    Returns:
        The rows kept, ascending; and for each round what it removed.
    """
    rows: IntArray = np.arange(len(users), dtype=np.int64)
    steps: list[Counts] = []
    while len(rows):
        of_user, of_item = np.bincount(users), np.bincount(items)
        few_users, few_items = of_user < k, of_item < k
        stay = ~(few_users[users] | few_items[items])
        gone = len(rows) - int(np.count_nonzero(stay))
        if not gone:
            break
        steps.append(
            Counts(int(np.count_nonzero(few_users & (of_user > 0))), int(np.count_nonzero(few_items & (of_item > 0))), gone)
        )
        rows, users, items = rows[stay], users[stay], items[stay]
    return rows, steps


def id_order(catalog: Catalog) -> IntArray:
    """[V + 1] by item number, its id's place among all: whole numbers as numbers, also where they came as text; 0 comes first."""
    known = catalog.ids
    if known.dtype == pl.String and known.str.contains("^[0-9]+$").all():
        known = known.str.zfill(int(known.str.len_bytes().to_numpy().max(initial=0)))
    return np.concatenate([[0], known.rank("dense").to_numpy()]).astype(np.int64)


def time_order(users: Codes, times: IntArray, then: IntArray | None = None) -> IntArray:
    """Rows by user, then by time, ties by `then` if there is such, and then in the order of the file."""
    if not len(times):
        return np.zeros(0, dtype=np.int64)
    if then is not None:
        return np.lexsort((then, times, users))
    first, last = int(times.min()), int(times.max())
    span = last - first + 1
    if span * (int(users.max()) + 1) < 2**63:  # one key for both sorts twice as fast
        return np.argsort(users.astype(np.int64) * span + (times - first), kind="stable")
    return np.lexsort((times, users))


def _renumbered(codes: Codes, distinct: pl.Series) -> tuple[Codes, pl.Series]:
    """Codes without gaps for the values that are left, in the order that they had."""
    left = np.bincount(codes, minlength=len(distinct)) > 0
    if left.all():
        return codes, distinct
    return (np.cumsum(left, dtype=np.int32) - np.int32(1))[codes], distinct.filter(pl.Series(left))


def _most(users: Codes, items: Codes, most: int) -> int:
    """The largest k, at most so many, whose k-core has rows; 1 where there are none at all."""
    if not len(users):
        return 1
    least, most = 1, min(most, int(np.bincount(users).max()), int(np.bincount(items).max()))
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if len(k_core(users, items, middle)[0]) else (least, middle - 1)
    return least


def nothing_left(source: str, k: int, came: Counts, steps: list[Counts], most: int) -> str:
    """Return the message for a k-core without interactions."""
    shown = [
        f"round {number} removed {step.users:,} users and {step.items:,} items with fewer than {k} ({step.interactions:,} rows)"
        for number, step in enumerate(steps[:5], start=1)
    ]
    more = f"; … {len(steps)} rounds in all" if len(steps) > len(shown) else ""
    return (
        f"{source}: nothing is left when every user and every item must have {k} interactions: of {came.users:,} users, "
        f"{came.items:,} items and {came.interactions:,} rows, {'; '.join(shown)}{more}; "
        f"lower it with --set data.min_interactions={most} or less"
    )


def _check_format(folder: Path, about: dict[str, Any]) -> None:
    if about["format"] != FORMAT:
        raise DataError(f"{folder} has format {about['format']}, expected {FORMAT}; build the histories again")
