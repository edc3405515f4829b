"""Second stage: the k-core as passes over the events, with one count a user and an item in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssd4rec._csr import IntArray
from ssd4rec.data.out_of_core.scratch import EventFile
from ssd4rec.data.sequences import Counts

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Core:
    """Who and what stays."""

    user_counts: IntArray  # [users] interactions that stay
    item_counts: IntArray  # [items]
    steps: list[Counts]  # for each round what it removed

    @property
    def interactions(self) -> int:
        """How many interactions stay."""
        return int(self.user_counts.sum())


def stream_k_core(events: EventFile, rows: int, users: int, items: int, k: int, rows_at_once: int, progress: Progress) -> Core:
    """Return what `k_core` returns for the same events, without holding them.

    Args:
        events: user and item codes.
        rows: how many events there are.
        users: how many user codes.
        items: how many item codes.
        k: users and items with fewer interactions are removed, round by round, until none is left.
        rows_at_once: events in memory at once.
        progress: called with (events read in this round, all).
    """
    stays = np.ones(users, dtype=bool), np.ones(items, dtype=bool)
    user_counts, item_counts = _count(events, *stays, rows, rows_at_once, progress)
    steps: list[Counts] = []
    while True:
        few_users, few_items = (user_counts > 0) & (user_counts < k), (item_counts > 0) & (item_counts < k)
        if not few_users.any() and not few_items.any():
            return Core(user_counts, item_counts, steps)
        stays = user_counts >= k, item_counts >= k
        before = int(user_counts.sum())
        user_counts, item_counts = _count(events, *stays, rows, rows_at_once, progress)
        steps.append(Counts(int(np.count_nonzero(few_users)), int(np.count_nonzero(few_items)), before - int(user_counts.sum())))


def _count(
    events: EventFile,
    user_stays: npt.NDArray[np.bool_],
    item_stays: npt.NDArray[np.bool_],
    rows: int,
    rows_at_once: int,
    progress: Progress,
) -> tuple[IntArray, IntArray]:
    """Count the interactions of users and items that stay."""
    user_counts, item_counts = np.zeros(len(user_stays), dtype=np.int64), np.zeros(len(item_stays), dtype=np.int64)
    done = 0
    everything = bool(user_stays.all() and item_stays.all())
    for block in events.blocks(rows_at_once, ("user", "item")):
        user, item = block["user"], block["item"]
        done += len(user)
        if not everything:
            stay = user_stays[user] & item_stays[item]
            user, item = user[stay], item[stay]
        user_counts += np.bincount(user, minlength=len(user_counts))
        item_counts += np.bincount(item, minlength=len(item_counts))
        progress(done, rows)
    return user_counts, item_counts
