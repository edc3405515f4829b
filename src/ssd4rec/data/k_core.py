"""The k-core: users and items with fewer than k interactions are removed, again and again, until none is left."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssd4rec._csr import IntArray
from ssd4rec.data.catalog import Codes
from ssd4rec.errors import DataError

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """Numbers of users, items and interactions."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Filtering:
    """The interactions that the k-core removed."""

    k: int
    rounds: int  # passes that removed something
    came: Counts  # before the filter
    removed: Counts


@dataclass(frozen=True)
class Core:
    """The k-core as counts: a row remains if its user and its item do."""

    user_counts: IntArray  # [users] remaining interactions of each user code
    item_counts: IntArray  # [items]
    steps: list[Counts]  # the numbers removed by each round

    @property
    def left(self) -> Counts:
        """The numbers that remain."""
        users, items = int(np.count_nonzero(self.user_counts)), int(np.count_nonzero(self.item_counts))
        return Counts(users, items, int(self.user_counts.sum()))

    def filtering(self, k: int, came: Counts) -> Filtering:
        """Describe what was removed; `came` are the numbers before the filter."""
        left = self.left
        removed = Counts(came.users - left.users, came.items - left.items, came.interactions - left.interactions)
        return Filtering(k, len(self.steps), came, removed)


def count_k_core(
    blocks: Callable[[], Iterable[tuple[Codes, Codes]]], users: int, items: int, k: int, exempt: Flags | None = None
) -> Core:
    """Compute the k-core of rows that are read in blocks, once a round.

    Args:
        blocks: begins a pass over all rows: codes of users and items, [rows of the block].
        users: number of user codes.
        items: number of item codes.
        k: the threshold.
        exempt: [items] items that need no number of rows; None: none.
    """
    user_stays, item_stays = np.ones(users, dtype=bool), np.ones(items, dtype=bool)
    steps: list[Counts] = []
    user_counts, item_counts = _count(blocks(), user_stays, item_stays)
    while True:
        user_stays, item_stays = user_counts >= k, item_counts >= k
        if exempt is not None:
            item_stays |= exempt[:items]
        few_users, few_items = ((user_counts > 0) & ~user_stays, (item_counts > 0) & ~item_stays)
        if not few_users.any() and not few_items.any():
            return Core(user_counts, item_counts, steps)
        before = int(user_counts.sum())
        user_counts, item_counts = _count(blocks(), user_stays, item_stays)
        steps.append(Counts(int(np.count_nonzero(few_users)), int(np.count_nonzero(few_items)), before - int(user_counts.sum())))


def _count(blocks: Iterable[tuple[Codes, Codes]], user_stays: Flags, item_stays: Flags) -> tuple[IntArray, IntArray]:
    """Count the interactions of the users and items that stay."""
    user_counts, item_counts = np.zeros(len(user_stays), dtype=np.int64), np.zeros(len(item_stays), dtype=np.int64)
    everything = bool(user_stays.all() and item_stays.all())
    for user, item in blocks:
        stay = slice(None) if everything else user_stays[user] & item_stays[item]
        user_counts += np.bincount(user[stay], minlength=len(user_counts))
        item_counts += np.bincount(item[stay], minlength=len(item_counts))
    return user_counts, item_counts


def filled_core(core_of: Callable[[int], Core], k: int, source: str, came: Counts) -> Core:
    """Return the k-core of a table.

    Args:
        core_of: computes the core of a k.
        k: the threshold.
        source: the table, for messages.
        came: the numbers before the filter.

    Raises:
        DataError: nothing is left; the message names the largest k with which something is.
    """
    core = core_of(k)
    if core.left.interactions:
        return core
    low, high = 1, k - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if core_of(middle).left.interactions else (low, middle - 1)
    rounds = [
        f"round {number} removed {step.users:,} users and {step.items:,} items with fewer than {k} ({step.interactions:,} rows)"
        for number, step in enumerate(core.steps[:5], start=1)
    ]
    more = f"; … {len(core.steps)} rounds in all" if len(core.steps) > len(rounds) else ""
    raise DataError(
        f"{source}: nothing is left when every user and every item must have {k} interactions: of {came.users:,} users, "
        f"{came.items:,} items and {came.interactions:,} rows, {'; '.join(rounds)}{more}; "
        f"lower it with --set data.min_interactions={low} or less"
    )


def renumber(stays: Flags) -> Codes:
    """Return new codes without gaps for the codes that stay, -1 for the others."""
    return np.where(stays, np.cumsum(stays, dtype=np.int32) - np.int32(1), np.int32(-1)).astype(np.int32)
