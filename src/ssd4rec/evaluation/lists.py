"""Properties of recommendation lists beyond accuracy: coverage, popularity lift, diversity and novelty."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssd4rec._csr import IntArray, evenly_spaced, ranges
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples

LIST_LENGTH = 10
DIVERSITY_LISTS = 1000  # lists whose diversity is measured, spread evenly
DIVERSITY_USERS = 20_000  # users whose histories say which items are similar, spread evenly


@dataclass(frozen=True)
class ListProperties:
    """Properties of the first items of every list; see the page on metrics."""

    length: int  # k
    coverage: float  # share of the catalog that is in at least one list
    popularity_lift: float  # mean popularity of the items of a list, over that of the user's history, less 1; mean over users
    diversity: float  # 1 less the mean similarity of two items of a list
    novelty: float  # mean surprise of a recommended item, -log2 of its share of the training events, in bits


def measure_lists(lists: IntArray, sequences: Sequences, examples: Examples, training_counts: IntArray) -> ListProperties:
    """Measure the lists of some examples.

    Args:
        lists: int64 [examples, k] item indices of each list, best first; 0 where a list is shorter.
        sequences: the events.
        examples: one target each, in the order of the lists.
        training_counts: [V + 1] training events of each item index.

    Returns:
        Coverage, popularity lift and novelty of all lists, and the diversity of some of them.
    """
    listed = lists > 0
    catalog_size = len(training_counts) - 1
    counts = training_counts.astype(np.float64)
    share = np.maximum(counts, 1.0) / max(1.0, counts.sum())
    return ListProperties(
        length=lists.shape[1],
        coverage=len(np.unique(lists[listed])) / catalog_size,
        popularity_lift=_popularity_lift(lists, sequences, examples, counts),
        diversity=_diversity(lists, sequences, examples, catalog_size),
        novelty=float(np.log2(1 / share[lists[listed]]).mean()) if listed.any() else float("nan"),
    )


def _popularity_lift(lists: IntArray, sequences: Sequences, examples: Examples, counts: npt.NDArray[np.float64]) -> float:
    lengths = examples.first_target - sequences.offsets[examples.user]
    history = sequences.items[ranges(sequences.offsets[examples.user], lengths)]
    row = np.repeat(np.arange(len(examples)), lengths)
    catalog_items = history > 0
    of_history = _mean_by_row(counts[history[catalog_items]], row[catalog_items], len(examples))
    row, column = np.nonzero(lists)
    of_list = _mean_by_row(counts[lists[row, column]], row, len(examples))
    valid = (of_history > 0) & ~np.isnan(of_list)
    return float((of_list[valid] / of_history[valid]).mean() - 1.0) if valid.any() else float("nan")


def _mean_by_row(values: npt.NDArray[np.float64], row: IntArray, rows: int) -> npt.NDArray[np.float64]:
    """Return the mean of the values of each row; not a number for a row without values."""
    sums, numbers = np.bincount(row, values, minlength=rows), np.bincount(row, minlength=rows)
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)


def _diversity(lists: IntArray, sequences: Sequences, examples: Examples, catalog_size: int) -> float:
    """Return 1 less the mean cosine of the sets of users of two items of a list, for lists with two items or more."""
    lists = lists[evenly_spaced(len(lists), DIVERSITY_LISTS)]
    items, place = np.unique(lists, return_inverse=True)
    users = _users_of(items, sequences, examples, catalog_size)
    numbers = np.sqrt(_set_bits(users).astype(np.float64))
    place = place.reshape(lists.shape)
    similarity, pairs = np.zeros(len(lists)), np.zeros(len(lists))
    for first in range(lists.shape[1]):
        for second in range(first + 1, lists.shape[1]):
            one, other = place[:, first], place[:, second]
            norm = numbers[one] * numbers[other]
            both = (lists[:, first] > 0) & (lists[:, second] > 0)
            similarity += both * _set_bits(users[one] & users[other]) / np.maximum(norm, 1.0)
            pairs += both
    return float(1.0 - (similarity[pairs > 0] / pairs[pairs > 0]).mean()) if (pairs > 0).any() else float("nan")


def _users_of(items: IntArray, sequences: Sequences, examples: Examples, catalog_size: int) -> npt.NDArray[np.uint8]:
    """Return which users have each item in their history, one bit each, [items, users / 8]."""
    rows = evenly_spaced(len(examples), DIVERSITY_USERS)
    starts = sequences.offsets[examples.user[rows]]
    lengths = examples.first_target[rows] - starts
    column = np.full(catalog_size + 1, -1, dtype=np.int64)
    column[items] = np.arange(len(items))
    place = column[sequences.items[ranges(starts, lengths)]]
    user = np.repeat(np.arange(len(rows)), lengths)[place >= 0]
    bits = np.zeros((len(items), -(-len(rows) // 8)), dtype=np.uint8)
    np.bitwise_or.at(bits, (place[place >= 0], user // 8), (1 << (user % 8)).astype(np.uint8))
    return bits


_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)


def _set_bits(bits: npt.NDArray[np.uint8]) -> IntArray:
    """Count the bits of each row. [rows, bytes] -> [rows]."""
    return np.asarray(_BITS[bits].sum(1), dtype=np.int64)
