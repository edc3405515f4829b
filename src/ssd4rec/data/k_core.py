"""The k-core: users and items with fewer than k interactions are removed, again and again, until none is left."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssd4rec._csr import IntArray
from ssd4rec.data.catalog import Codes

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """Numbers of users, items and interactions."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Core:
    """The k-core as counts: a row remains if its user and its item do."""

    user_counts: IntArray  # [users] remaining interactions of each user code
    item_counts: IntArray  # [items]
    steps: list[Counts]  # the numbers removed by each round

    @property
    def interactions(self) -> int:
        """Number of remaining interactions."""
        return int(self.user_counts.sum())


def k_core(users: Codes, items: Codes, k: int, exempt: Flags | None = None) -> tuple[IntArray, list[Counts]]:
    """Return the largest set of rows in which each user and each item has at least k rows; repeats count.

    Args:
        users: [rows] codes from 0.
        items: [rows] codes from 0.
        k: the threshold.
        exempt: [items] items that need no number of rows; None: none.

    Returns:
        The remaining rows, ascending, and the numbers removed by each round.
    """
    core = count_k_core(lambda: [(users, items)], int(users.max(initial=-1)) + 1, int(items.max(initial=-1)) + 1, k, exempt)
    return np.flatnonzero((core.user_counts > 0)[users] & (core.item_counts > 0)[items]), core.steps


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


def largest_k(remains: Callable[[int], bool], most: int) -> int:
    """Return the largest k up to `most` whose k-core is not empty, by bisection; 1 if there is none."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if remains(middle) else (low, middle - 1)
    return low


def nothing_left(source: str, k: int, came: Counts, steps: list[Counts], most: int) -> str:
    """Return the message for an empty k-core; `most` is the largest k with which something is left."""
    rounds = [
        f"round {number} removed {step.users:,} users and {step.items:,} items with fewer than {k} ({step.interactions:,} rows)"
        for number, step in enumerate(steps[:5], start=1)
    ]
    more = f"; … {len(steps)} rounds in all" if len(steps) > len(rounds) else ""
    return (
        f"{source}: nothing is left when every user and every item must have {k} interactions: of {came.users:,} users, "
        f"{came.items:,} items and {came.interactions:,} rows, {'; '.join(rounds)}{more}; "
        f"lower it with --set data.min_interactions={most} or less"
    )
