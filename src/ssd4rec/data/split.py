"""Which prefix predicts which item: train, validation and test."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ssd4rec._csr import IntArray, lengths_to_offsets, ranges
from ssd4rec.config import DataConfig
from ssd4rec.data.sequences import Sequences, user_blocks
from ssd4rec.data.timestamps import FILE_ORDER, moment, show_moment
from ssd4rec.errors import DataError


@dataclass(frozen=True)
class Examples:
    """Views into the flat histories: for row r and every t in first_target[r] … stop[r] - 1, items[start[r]:t] predict items[t].

    start < first_target < stop in every row; positions are absolute. With `max_length` at most so many events before t are read;
    `windows()` and `prefixes()` say the same in rows that are read from their start.
    """

    user: IntArray  # [rows] whose history
    start: IntArray  # [rows] the first event that is read
    first_target: IntArray  # [rows] the first event that is asked for
    stop: IntArray  # [rows] one past the last event that is asked for
    max_length: int | None = None  # events that are read before a target

    def __len__(self) -> int:
        """How many rows."""
        return len(self.user)

    @property
    def lengths(self) -> IntArray:
        """[rows] how many events each row reads, up to its last target."""
        return self.stop - 1 - self.start

    @property
    def targets(self) -> int:
        """How many events are asked for."""
        return int((self.stop - self.first_target).sum())

    @property
    def tokens_one_pass(self) -> int:
        """Events read when each row, or window of one, is read once."""
        return int(self.windows().lengths.sum())

    @property
    def tokens_prefix(self) -> int:
        """Events read when each target's prefix is read by itself."""
        return int(self.tokens_of_prefixes.sum())

    @property
    def tokens_of_prefixes(self) -> IntArray:
        """[rows] the same for each row, without making its prefixes: they may be many."""
        shortest, longest = self.first_target - self.start, self.lengths
        return self._tokens_up_to(longest) - self._tokens_up_to(shortest - 1)

    def _tokens_up_to(self, length: IntArray) -> IntArray:
        """1 + 2 + … + length, no term above `max_length`."""
        rising = length if self.max_length is None else np.minimum(length, self.max_length)
        return rising * (rising + 1) // 2 + (length - rising) * rising

    def take(self, rows: IntArray | npt.NDArray[np.bool_]) -> "Examples":
        """Some of the rows, in the order in which they are named; or those where `rows` is true."""
        return replace(
            self,
            user=self.user[rows],
            start=self.start[rows],
            first_target=self.first_target[rows],
            stop=self.stop[rows],
        )

    def fingerprint(self) -> str:
        """SHA-256 over the rows: equal for equal examples of equal histories, on any machine."""
        digest = hashlib.sha256(str(self.max_length).encode())
        for rows in (self.user, self.start, self.first_target, self.stop):
            digest.update(np.ascontiguousarray(rows, dtype="<i8").data)
        return digest.hexdigest()

    def prefixes(self) -> "Examples":
        """The same targets, one a row, in the same order; each row reads at most `max_length` events."""
        asked = self.stop - self.first_target
        row = np.repeat(np.arange(len(self)), asked)
        target = ranges(self.first_target, asked)
        start = self.start[row] if self.max_length is None else np.maximum(self.start[row], target - self.max_length)
        return Examples(self.user[row], start, target, target + 1)

    def windows(self) -> "Examples":
        """The same targets in rows that read at most `max_length` events: windows that overlap by half.

        Each target is asked for once, by the first window that reaches it: in the first window from all events before it, later
        from the last max_length / 2 to max_length events (difference D10).
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
        asks = first < stop
        return Examples(self.user[row][asks], start[asks], first[asks], stop[asks])


@dataclass(frozen=True)
class Split:
    """Train reads and asks for nothing that comes later; each row of validation and test asks for one event."""

    train: Examples
    validation: Examples
    test: Examples
    protocol: str  # "leave-last-out", or "time: validation from …, test from …"


def make_split(histories: Sequences, config: DataConfig, *, learned: bool = True) -> Split:
    """Split as the settings say. With `max_length` every target stays, and is predicted from at most so many events.

    Args:
        histories: what is split.
        config: how.
        learned: False: nothing will be; the parts for training and validation may be empty.

    Raises:
        DataError: see `leave_last_out` and `split_by_time`.
    """
    if config.split == "time":
        split = split_by_time(histories, config.validation_from, config.test_from, learned=learned)
    else:
        split = leave_last_out(histories, learned=learned)
    train, validation, test = (
        replace(part, max_length=config.max_length) for part in (split.train, split.validation, split.test)
    )
    return Split(train, validation, test, split.protocol)


def leave_last_out(histories: Sequences, *, learned: bool = True) -> Split:
    """The last event of each user is the test, the one before it the validation, what is left the training.

    Users with fewer than three events are trained on as far as they go: two events give one target, one event none.

    Args:
        histories: what is split.
        learned: whether there must be something to train on.

    Raises:
        DataError: no user has three events, or no user has a target to train on.
    """
    begin, end = histories.offsets[:-1], histories.offsets[1:]
    user = np.arange(len(begin))
    length = end - begin
    measured = length >= 3
    if not measured.any():
        longest = int(length.max(initial=0))
        raise DataError(
            f"no user has three events (the longest history has {longest}), so nothing can be left out for validation and test; "
            "give longer histories"
        )
    known = np.where(measured, end - 2, end)  # training ends here
    trained = known - begin >= 2
    if learned and not trained.any():
        raise DataError(
            "no user has four events, so leaving two out leaves nothing to train on; give longer histories, or split by time"
        )
    return Split(
        train=_examples(user, begin, begin + 1, known, trained),
        validation=_examples(user, begin, end - 2, end - 1, measured),
        test=_examples(user, begin, end - 1, end, measured),
        protocol="leave-last-out",
    )


def split_by_time(
    histories: Sequences, validation_from: str | None = None, test_from: str | None = None, *, learned: bool = True
) -> Split:
    """Train before a moment, validate between it and a second one, test after that: nothing of the future leaks.

    Each event from a moment on is predicted from everything of its user before it, so later test events read earlier ones.

    Args:
        histories: with real times.
        validation_from: ISO date (UTC) or number in the unit of the file; None: when 80 % of the events are over.
        test_from: likewise; None: when 90 % of the events are over.
        learned: whether there must be something to train on and to validate with.

    Raises:
        DataError: the times are only the order of the file, there are no events, a moment cannot be read, the moments are
            not in order, or a part comes out empty.
    """
    clock = histories.clock
    if clock.kind == FILE_ORDER:
        raise DataError(
            "a split by time needs times, and the data have none (the rows' own order was taken); "
            'give a time column, or use split = "leave-last-out"'
        )
    if not len(histories.times):
        raise DataError("there are no events to split; give longer histories")
    moments = [
        moment(clock, text) if text is not None else _when_over(histories.times, share)
        for text, share in ((validation_from, 0.8), (test_from, 0.9))
    ]
    shown = [show_moment(clock, each) for each in moments]
    if moments[0] >= moments[1]:
        raise DataError(f"validation from {shown[0]} must come before test from {shown[1]}; name both moments, in this order")
    begin, end = histories.offsets[:-1], histories.offsets[1:]
    user, everyone = np.arange(len(begin)), np.ones(len(begin), dtype=bool)
    first, second = (begin + _events_before(histories, each) for each in moments)
    parts = {
        "train": _examples(user, begin, begin + 1, first, everyone),
        "validation": _examples(user, begin, np.maximum(first, begin + 1), second, everyone).prefixes(),
        "test": _examples(user, begin, np.maximum(second, begin + 1), end, everyone).prefixes(),
    }
    for name, part in parts.items():
        if not len(part) and (learned or name == "test"):
            raise DataError(_empty_part(name, shown, histories))
    return Split(**parts, protocol=f"time: validation from {shown[0]}, test from {shown[1]}")


def _examples(user: IntArray, start: IntArray, first: IntArray, stop: IntArray, chosen: npt.NDArray[np.bool_]) -> Examples:
    """The chosen rows that ask for something."""
    return Examples(user, start, first, stop).take(chosen & (first < stop))


def _when_over(times: IntArray, share: float) -> int:
    """The moment before which at most this share of the events lies."""
    place = int(share * len(times))
    return int(np.partition(times, place)[place])


def _events_before(histories: Sequences, moment_: int) -> IntArray:
    """[users] events strictly before a moment."""
    counts = np.zeros(len(histories.offsets) - 1, dtype=np.int64)
    for first, stop in user_blocks(histories.offsets):
        offsets = histories.offsets[first : stop + 1]
        earlier = lengths_to_offsets(histories.times[offsets[0] : offsets[-1]] < moment_)
        counts[first:stop] = np.diff(earlier[offsets - offsets[0]])
    return counts


def _empty_part(name: str, shown: list[str], histories: Sequences) -> str:
    earliest, latest = (show_moment(histories.clock, int(each)) for each in (histories.times.min(), histories.times.max()))
    lies = {
        "train": f"no user has two events before {shown[0]}",
        "validation": f"no event from {shown[0]} on and before {shown[1]} has an earlier one of the same user",
        "test": f"no event from {shown[1]} on has an earlier one of the same user",
    }[name]
    return f"the {name} part is empty: {lies}; the times go from {earliest} to {latest}, name other moments"


def training_interactions(histories: Sequences, train: Examples) -> tuple[IntArray, IntArray]:
    """(items [T], cu_seqlens [B + 1]): what the training part reads or asks for, packed."""
    lengths = train.stop - train.start
    return histories.items[ranges(train.start, lengths)].astype(np.int64), lengths_to_offsets(lengths)


def training_counts(histories: Sequences, train: Examples, catalog_size: int) -> IntArray:
    """[V + 1]: how often each item number occurs in the training part."""
    counts = np.zeros(catalog_size + 1, dtype=np.int64)
    for first, stop in user_blocks(lengths_to_offsets(train.stop - train.start)):
        items = training_interactions(histories, train.take(np.arange(first, stop)))[0]
        counts += np.bincount(items, minlength=catalog_size + 1)
    return counts
