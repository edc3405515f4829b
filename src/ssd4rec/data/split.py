"""Splits: which prefix predicts which item in training, validation and test."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.config import DataConfig
from ssd4rec.data.k_core import Counts
from ssd4rec.data.sequences import PARTS, Sequences, user_blocks
from ssd4rec.data.timestamps import FILE_ORDER, moment, show_moment
from ssd4rec.errors import DataError

NO_COUNTS = Counts(0, 0, 0)


@dataclass(frozen=True)
class Examples:
    """Views into the sequences: for row r and every t in first_target[r] … stop[r] - 1, items[start[r]:t] predict items[t].

    start < first_target < stop in every row; positions are absolute. With `max_length`, at most that many events before t are
    read; `windows()` and `prefixes()` express the same targets in rows that are read from their start.
    """

    user: IntArray  # [rows] index of the sequence
    start: IntArray  # [rows] first position that is read
    first_target: IntArray  # [rows] first target position
    stop: IntArray  # [rows] one past the last target position
    max_length: int | None = None  # the most events that are read before a target

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.user)

    @property
    def lengths(self) -> IntArray:
        """[rows] number of events that each row reads, up to its last target."""
        return self.stop - 1 - self.start

    @property
    def targets(self) -> int:
        """Number of targets."""
        return int((self.stop - self.first_target).sum())

    @property
    def tokens_one_pass(self) -> int:
        """Number of events read if each row, or each window of one, is read once."""
        return int(self.windows().lengths.sum())

    @property
    def tokens_prefix(self) -> int:
        """Number of events read if the prefix of each target is read separately."""
        return int(self.tokens_of_prefixes.sum())

    @property
    def tokens_of_prefixes(self) -> IntArray:
        """[rows] the same per row, computed without materializing the prefixes."""
        shortest, longest = self.first_target - self.start, self.lengths
        return self._tokens_up_to(longest) - self._tokens_up_to(shortest - 1)

    def _tokens_up_to(self, length: IntArray) -> IntArray:
        """1 + 2 + … + length, no term above `max_length`."""
        rising = length if self.max_length is None else np.minimum(length, self.max_length)
        return rising * (rising + 1) // 2 + (length - rising) * rising

    def take(self, rows: IntArray | npt.NDArray[np.bool_]) -> "Examples":
        """Return some of the rows, by their indices in any order or by a mask."""
        return Examples(self.user[rows], self.start[rows], self.first_target[rows], self.stop[rows], self.max_length)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the rows: equal for equal examples of equal sequences, on any machine."""
        digest = hashlib.sha256(str(self.max_length).encode())
        for rows in (self.user, self.start, self.first_target, self.stop):
            digest.update(np.ascontiguousarray(rows, dtype="<i8").data)
        return digest.hexdigest()

    def prefixes(self) -> "Examples":
        """Return the same targets, one per row, in the same order; each row reads at most `max_length` events."""
        targets = self.stop - self.first_target
        row = np.repeat(np.arange(len(self)), targets)
        target = ranges(self.first_target, targets)
        start = self.start[row] if self.max_length is None else np.maximum(self.start[row], target - self.max_length)
        return Examples(self.user[row], start, target, target + 1)

    def windows(self) -> "Examples":
        """Return the same targets in rows of at most `max_length` events: windows that overlap by half.

        Each target belongs to the first window that reaches it: in the first window it is predicted from all events before
        it, later from the last max_length / 2 to max_length events (difference D10).
        """
        if self.max_length is None:
            return self
        stride = (self.max_length + 1) // 2
        count = 1 + np.maximum(self.lengths - self.max_length + stride - 1, 0) // stride
        row = np.repeat(np.arange(len(self)), count)
        start = self.start[row] + ranges(0, count) * stride
        stop = np.minimum(start + self.max_length + 1, self.stop[row])
        new_from = np.where(start == self.start[row], start + 1, start + 1 + self.max_length - stride)
        first = np.maximum(self.first_target[row], new_from)
        has_target = first < stop
        return Examples(self.user[row][has_target], start[has_target], first[has_target], stop[has_target])


@dataclass(frozen=True)
class Split:
    """Examples for training, validation and test; each row of validation and test has a single target.

    Training rows read no event that follows the validation or test targets of their user.
    """

    train: Examples
    validation: Examples
    test: Examples
    protocol: str  # "leave-last-out", "files", or "time: validation from …, test from …"
    without_history: Counts = NO_COUNTS  # users and events after the test moment that have no earlier event to be predicted from


def make_split(sequences: Sequences, config: DataConfig, *, learned: bool = True) -> Split:
    """Split sequences as configured. With `max_length`, every target is predicted from at most that many events.

    Args:
        sequences: from `build_sequences`.
        config: `split` and its moments, and `max_length`.
        learned: False for evaluation alone: the parts for training and validation may be empty.

    Raises:
        DataError: see `leave_last_out` and `split_by_time`.
    """
    if config.split == "time":
        split = split_by_time(sequences, config.validation_from, config.test_from, learned=learned)
    else:
        split = leave_last_out(sequences, learned=learned)
    return limit_length(split, config.max_length)


def limit_length(split: Split, max_length: int | None) -> Split:
    """Return the same targets, predicted from at most so many events."""
    return replace(split, **{name: replace(getattr(split, name), max_length=max_length) for name in PARTS})


def leave_last_out(sequences: Sequences, *, learned: bool = True) -> Split:
    """Use each user's last event for test, the previous one for validation and the rest for training.

    Users with fewer than three events are used for training alone: two events give one target, one event none.

    `learned`: a training target is required.

    Raises:
        DataError: no user has three events, or no user has a target to train on.
    """
    length = np.diff(sequences.offsets)
    measured = length >= 3

    def empty(_name: str) -> str:
        if measured.any():
            return (
                "no user has four events, so leave-last-out has no training targets; use data with longer sequences, or set "
                "data.split=time"
            )
        return (
            f"no user has three events (the longest sequence has {int(length.max(initial=0))}), so leave-last-out has no "
            "validation and test targets; use data with longer sequences"
        )

    before = [np.where(measured, length - held_out, length) for held_out in (2, 1)]
    return _split_at(sequences, before, "leave-last-out", empty, learned=learned)


def split_by_time(
    sequences: Sequences, validation_from: str | None = None, test_from: str | None = None, *, learned: bool = True
) -> Split:
    """Train before one moment, validate between it and a second one, and test after that, without leakage from the future.

    Each target is predicted from all earlier events of its user, so later test targets see earlier test events.

    Args:
        sequences: sequences with real times.
        validation_from: ISO date (UTC) or number in the unit of the file; None: the moment after 80 % of the events.
        test_from: likewise; None: the moment after 90 % of the events.
        learned: whether training and validation targets are required.

    Raises:
        DataError: the data have no times, the sequences are empty, a moment cannot be read, the moments are not in order, or a
            set is empty.
    """
    clock = sequences.clock
    if clock.kind == FILE_ORDER:
        raise DataError(
            "a split by time needs times, and the data have no time column (the order of the rows is used); "
            "name the time column with --time NAME, or set data.split=leave-last-out"
        )
    if not len(sequences.times):
        raise DataError("the sequences are empty, there is nothing to split; use data with longer sequences")
    moments = []
    for text, share in ((validation_from, 0.8), (test_from, 0.9)):
        place = int(share * len(sequences.times))
        moments.append(moment(clock, text) if text is not None else int(np.partition(sequences.times, place)[place]))
    shown = [show_moment(clock, each) for each in moments]
    if moments[0] >= moments[1]:
        raise DataError(f"validation from {shown[0]} must come before test from {shown[1]}; name both moments, in this order")
    before = [_events_before(sequences, each) for each in moments]
    protocol = f"time: validation from {shown[0]}, test from {shown[1]}"
    return _split_at(sequences, before, protocol, lambda name: _empty_part(name, shown, sequences), learned=learned)


def split_by_parts(sequences: Sequences, parts: npt.NDArray[np.int8], *, learned: bool = True) -> Split:
    """Split sequences whose events come from separate files for training, validation and test.

    Each validation and test event is predicted from all events of its user before it.

    Args:
        sequences: the sequences, each with its training events first, then those for validation, then those for test.
        parts: [events] 0 for training, 1 for validation, 2 for test.
        learned: whether training and validation targets are required.

    Raises:
        DataError: a part has no targets.
    """

    def empty(name: str) -> str:
        needs = "two events of one user" if name == "train" else "an event of a user with earlier events"
        return f"the {name} file gives no targets: expected {needs}; check that the user ids of the files match"

    before = [_count(parts < part, sequences.offsets) for part in (1, 2)]
    return _split_at(sequences, before, "files", empty, learned=learned)


def _split_at(
    sequences: Sequences, before: list[IntArray], protocol: str, empty: Callable[[str], str], *, learned: bool
) -> Split:
    """Split each sequence after its events `before` validation and test, [users] each; `empty` is the error of an empty set."""
    begin, end = sequences.offsets[:-1], sequences.offsets[1:]
    first, second = (begin + events for events in before)
    parts = {
        "train": _examples(sequences, begin + 1, first),
        "validation": _examples(sequences, np.maximum(first, begin + 1), second).prefixes(),
        "test": _examples(sequences, np.maximum(second, begin + 1), end).prefixes(),
    }
    for name, part in parts.items():
        if not len(part) and (learned or name == "test"):
            raise DataError(empty(name))
    only_test = begin[(second == begin) & (begin < end)]  # first events that are test events: nothing can be read before them
    without_history = Counts(len(only_test), len(np.unique(sequences.items[only_test])), len(only_test))
    return Split(**parts, protocol=protocol, without_history=without_history)


def all_events(sequences: Sequences, max_length: int | None = None) -> Split:
    """Use every event for training: nothing is left for validation and test."""
    begin, end = sequences.offsets[:-1], sequences.offsets[1:]
    train, nothing = _examples(sequences, begin + 1, end), _examples(sequences, end, end)
    return limit_length(Split(train, nothing, nothing, protocol="all events"), max_length)


@dataclass(frozen=True)
class KnownTargets:
    """Sequences and targets of the items that a model knows."""

    sequences: Sequences
    targets: Examples
    unknown_events: int  # interactions with unknown items
    unknown_targets: int  # targets that are unknown items
    without_known_history: int  # other targets, before which the user has unknown items only

    @property
    def unranked(self) -> int:
        """Number of targets that the model cannot rank."""
        return self.unknown_targets + self.without_known_history


def drop_unknown_items(sequences: Sequences, examples: Examples) -> KnownTargets:
    """Remove unknown items from sequences and targets.

    The split comes first, so that an unknown last item is counted and not replaced by an earlier one.

    Args:
        sequences: from `build_sequences` with a catalog; unknown items have the index 0.
        examples: targets of these sequences.
    """
    is_known = sequences.items > 0
    before = lengths_to_offsets(is_known)  # [events + 1] known items before each position
    single = replace(examples, max_length=None).prefixes()  # the limit counts known items alone, as in serving
    target_known = is_known[single.first_target]
    has_history = before[single.first_target] > before[single.start]
    targets = single.take(target_known & has_history)
    known_targets = Examples(
        targets.user, before[targets.start], before[targets.first_target], before[targets.first_target] + 1, examples.max_length
    )
    items, times = sequences.items[is_known], sequences.times[is_known]
    sequences = replace(sequences, items=items, times=times, offsets=before[sequences.offsets])
    return KnownTargets(
        sequences=sequences,
        targets=known_targets,
        unknown_events=int(np.count_nonzero(~is_known)),
        unknown_targets=int(np.count_nonzero(~target_known)),
        without_known_history=int(np.count_nonzero(target_known & ~has_history)),
    )


def _examples(sequences: Sequences, first: IntArray, stop: IntArray) -> Examples:
    """Return the sequences that have a target in first … stop - 1, read from their start."""
    return Examples(np.arange(len(first)), sequences.offsets[:-1], first, stop).take(first < stop)


def _events_before(sequences: Sequences, moment_: int) -> IntArray:
    """[users] number of events strictly before a moment."""
    counts = np.zeros(len(sequences.offsets) - 1, dtype=np.int64)
    for first, stop in user_blocks(sequences.offsets):
        offsets = sequences.offsets[first : stop + 1]
        counts[first:stop] = _count(sequences.times[offsets[0] : offsets[-1]] < moment_, offsets - offsets[0])
    return counts


def _count(mask: npt.NDArray[np.bool_], offsets: IntArray) -> IntArray:
    """[users] number of events of each sequence for which the mask is true."""
    counted = lengths_to_offsets(mask)
    return counted[offsets[1:]] - counted[offsets[:-1]]


def _empty_part(name: str, shown: list[str], sequences: Sequences) -> str:
    earliest, latest = (show_moment(sequences.clock, int(each)) for each in (sequences.times.min(), sequences.times.max()))
    lies = {
        "train": f"no user has two events before {shown[0]}",
        "validation": f"no event from {shown[0]} on and before {shown[1]} has an earlier one of the same user",
        "test": f"no event from {shown[1]} on has an earlier one of the same user",
    }[name]
    return (
        f"the {name} set is empty: {lies}; the times range from {earliest} to {latest}; "
        "choose other moments with --set data.validation_from=… and --set data.test_from=…"
    )


def training_interactions(sequences: Sequences, train: Examples) -> tuple[IntArray, IntArray]:
    """Return items [T] and cu_seqlens [B + 1] of the training set: all events that it reads or predicts, packed."""
    lengths = train.stop - train.start
    return sequences.items[ranges(train.start, lengths)].astype(np.int64), lengths_to_offsets(lengths)


def training_counts(sequences: Sequences, train: Examples, catalog_size: int) -> IntArray:
    """Return, for each item index [V + 1], its number of events in the training set."""
    counts = np.zeros(catalog_size + 1, dtype=np.int64)
    for first, stop in user_blocks(lengths_to_offsets(train.stop - train.start)):
        items = training_interactions(sequences, train.take(np.arange(first, stop)))[0]
        counts += np.bincount(items, minlength=catalog_size + 1)
    return counts
