"""Which prefix predicts which item, against lists made by hand and by loops."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd4rec.config import DataConfig
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.k_core import Counts
from ssd4rec.data.sequences import Kept, build_sequences
from ssd4rec.data.split import (
    Examples,
    drop_unknown_items,
    leave_last_out,
    make_split,
    split_by_parts,
    split_by_time,
    training_counts,
    training_interactions,
)
from ssd4rec.errors import DataError


def world(histories, times=True):
    """{"a": "xyz"} or {"a": [("x", 3), …]}; every letter of one user comes one tick after the one before."""
    rows = [
        (user, *(event if isinstance(event, tuple) else (event, place)))
        for user, events in histories.items()
        for place, event in enumerate(events)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row")
    return build_sequences(read_interactions(frame if times else frame.drop("time")), 1)


def asked(histories, catalog, examples):
    """[(user, the prefix, the target), …], by loops."""
    letters = catalog.ids_of(histories.items.astype(np.int64)).to_list()
    return [
        (histories.users[int(user)], "".join(letters[start:target]), letters[target])
        for user, start, first, stop in zip(examples.user, examples.start, examples.first_target, examples.stop, strict=True)
        for target in range(first, stop)
    ]


@st.composite
def some_examples(draw):
    rows = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(1, 6)), max_size=12))
    start = np.array([row[0] for row in rows], dtype=np.int64)
    first = start + np.array([row[1] for row in rows], dtype=np.int64)
    stop = first + np.array([row[2] for row in rows], dtype=np.int64)
    return Examples(np.arange(len(rows)), start, first, stop)


def every_target(examples):
    """[(row, start, target), …], by loops."""
    return [
        (user, start, target)
        for user, start, first, stop in zip(examples.user, examples.start, examples.first_target, examples.stop, strict=True)
        for target in range(first, stop)
    ]


@given(some_examples())
def test_examples_count_what_loops_count(examples):
    targets = every_target(examples)
    assert len(examples) == len(examples.user)
    assert examples.targets == len(targets)
    assert examples.tokens_prefix == sum(target - start for _, start, target in targets)
    assert examples.tokens_one_pass == sum(
        stop - 1 - start for start, stop in zip(examples.start.tolist(), examples.stop.tolist(), strict=True)
    )


@given(some_examples())
def test_prefixes_ask_for_the_same_one_a_row(examples):
    prefixes = examples.prefixes()
    assert every_target(prefixes) == every_target(examples)
    assert len(prefixes) == examples.targets
    assert prefixes.tokens_one_pass == prefixes.tokens_prefix == examples.tokens_prefix
    assert all(part.dtype == np.int64 for part in (prefixes.user, prefixes.start, prefixes.first_target, prefixes.stop))


@given(some_examples(), st.integers(1, 8))
def test_prefixes_of_a_greatest_length_read_the_last_events(examples, longest):
    """Every target stays, with at most `longest` events before it."""
    cut = replace(examples, max_length=longest)
    result = every_target(cut.prefixes())
    assert cut.tokens_prefix == sum(target - start for _, start, target in result)
    assert result == [(user, max(start, target - longest), target) for user, start, target in every_target(examples)]


@given(some_examples(), st.integers(1, 8))
def test_windows_ask_for_every_target_once(examples, longest):
    """In the same order; from all events before it, or from half to all of the last `longest`."""
    cut = replace(examples, max_length=longest)
    windows = cut.windows()
    assert [(user, target) for user, _, target in every_target(windows)] == [(u, t) for u, _, t in every_target(examples)]
    assert (windows.lengths <= longest).all()
    assert (windows.start < windows.first_target).all()
    for (_, read_from, target), (_, start, _) in zip(every_target(windows), every_target(examples), strict=True):
        assert read_from == start or longest // 2 < target - read_from <= longest
    assert cut.tokens_one_pass == windows.lengths.sum()
    assert cut.targets == examples.targets
    assert examples.windows() is examples


def test_rows_are_taken_with_what_they_may_read():
    """By their numbers, in that order, or by truths; `max_length` stays."""
    rows = np.array([4, 5, 6])
    examples = Examples(rows, rows * 10, rows * 10 + 1, rows * 10 + 9, max_length=7)
    for chosen in (examples.take(np.array([0, 2])), examples.take(np.array([True, False, True]))):
        assert [each.tolist() for each in (chosen.user, chosen.start, chosen.first_target, chosen.stop)] == [
            [4, 6],
            [40, 60],
            [41, 61],
            [49, 69],
        ]
        assert chosen.max_length == 7
    assert examples.take(np.array([2, 0])).user.tolist() == [6, 4]


def test_the_training_part_by_hand():
    """Of a a b c and b a b b without their last two events: a a and b a, and a was there three times."""
    table = pl.DataFrame({"user": [0] * 4 + [1] * 4, "item": [*"aabc", *"babb"], "time": [*range(4), *range(4)]})
    histories, _ = build_sequences(read_interactions(table), 1)
    train = leave_last_out(histories).train
    items, cu_seqlens = training_interactions(histories, train)
    assert (items.tolist(), cu_seqlens.tolist()) == ([1, 1, 2, 1], [0, 2, 4])
    assert training_counts(histories, train, 3).tolist() == [0, 3, 1, 0]


def test_leave_last_out_by_hand():
    """Five, four, three, two, one event."""
    histories, catalog = world({"a": "vwxyz", "b": "vwxy", "c": "xyz", "d": "wz", "e": "z"})
    split = leave_last_out(histories)
    assert asked(histories, catalog, split.train) == [("a", "v", "w"), ("a", "vw", "x"), ("b", "v", "w"), ("d", "w", "z")]
    assert asked(histories, catalog, split.validation) == [("a", "vwx", "y"), ("b", "vw", "x"), ("c", "x", "y")]
    assert asked(histories, catalog, split.test) == [("a", "vwxy", "z"), ("b", "vwx", "y"), ("c", "xy", "z")]
    assert split.protocol == "leave-last-out"
    assert (split.train.targets, split.train.tokens_one_pass, split.train.tokens_prefix) == (4, 4, 5)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12).filter(lambda lengths: max(lengths) >= 4))
def test_leave_last_out_against_its_definition(lengths):
    """Train never reads or asks for what validation or test asks for."""
    letters = "stuvwxy"
    histories, catalog = world({str(user): letters[:length] for user, length in enumerate(lengths)})
    split = leave_last_out(histories)
    expected = {"train": [], "validation": [], "test": []}
    for user, length in enumerate(lengths):
        known = length - 2 if length >= 3 else length
        expected["train"] += [(str(user), letters[:target], letters[target]) for target in range(1, known)]
        if length >= 3:
            expected["validation"].append((str(user), letters[: length - 2], letters[length - 2]))
            expected["test"].append((str(user), letters[: length - 1], letters[length - 1]))
    assert {name: asked(histories, catalog, getattr(split, name)) for name in expected} == expected


def test_no_user_with_three_events():
    with pytest.raises(DataError, match=r"no user has three events \(the longest sequence has 2\)"):
        leave_last_out(world({"a": "xy", "b": "x"})[0])


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="no user has four events, so leave-last-out has no training targets"):
        leave_last_out(world({"a": "xyz", "b": "x"})[0])


def test_evaluation_needs_no_training_part():
    """Three events of a user are enough to ask for the last; by time, events after the second moment."""
    histories, catalog = world({"a": "xyz", "b": "x"})
    split = leave_last_out(histories, learned=False)
    assert asked(histories, catalog, split.test) == [("a", "xy", "z")]
    assert len(split.train) == 0
    split = split_by_time(histories, "-9", "-8", learned=False)
    assert asked(histories, catalog, split.test) == [("a", "x", "y"), ("a", "xy", "z")]
    assert len(split.train) == len(split.validation) == 0
    with pytest.raises(DataError, match="the test set is empty"):
        split_by_time(histories, "8", "9", learned=False)


def test_split_by_time_by_hand():
    """Validation from 4, test from 6; a user who is new in a later part begins with an event that nothing precedes."""
    histories, catalog = world(
        {
            "a": [("u", 1), ("v", 2), ("w", 4), ("x", 5), ("y", 6), ("z", 9)],
            "b": [("u", 5), ("v", 6), ("w", 6)],
            "c": [("u", 3), ("v", 4)],
            "d": [("u", 6)],
        }
    )
    split = split_by_time(histories, "4", "6")
    assert asked(histories, catalog, split.train) == [("a", "u", "v")]
    assert asked(histories, catalog, split.validation) == [("a", "uv", "w"), ("a", "uvw", "x"), ("c", "u", "v")]
    assert asked(histories, catalog, split.test) == [
        ("a", "uvwx", "y"),
        ("a", "uvwxy", "z"),
        ("b", "u", "v"),
        ("b", "uv", "w"),
    ]
    assert len(split.test) == split.test.targets == 4
    assert split.protocol == "time: validation from 4, test from 6"


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8).map(sorted), min_size=3, max_size=8),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_split_by_time_against_its_definition(times, validation_from, gap):
    """Train sees nothing from the first moment on; every later event with a past is asked for once."""
    test_from = validation_from + gap
    histories, catalog = world({str(user): [(str(tick), tick) for tick in ticks] for user, ticks in enumerate(times)})
    expected = {"train": [], "validation": [], "test": []}
    for user, ticks in enumerate(times):
        for place in range(1, len(ticks)):
            part = "train" if ticks[place] < validation_from else "validation" if ticks[place] < test_from else "test"
            expected[part].append((str(user), "".join(map(str, ticks[:place])), str(ticks[place])))
    if not all(expected.values()):
        with pytest.raises(DataError, match=r"the (train|validation|test) set is empty"):
            split_by_time(histories, str(validation_from), str(test_from))
        return
    split = split_by_time(histories, str(validation_from), str(test_from))
    assert {name: asked(histories, catalog, getattr(split, name)) for name in expected} == expected


def test_without_moments_80_and_90_percent_are_over():
    """Ten events at 0 … 9 of one user: eight before validation, one in it, one after."""
    histories, catalog = world({"a": [(letter, tick) for tick, letter in enumerate("qrstuvwxyz")]})
    split = split_by_time(histories)
    assert split.protocol == "time: validation from 8, test from 9"
    assert (split.train.targets, split.validation.targets, split.test.targets) == (7, 1, 1)
    assert asked(histories, catalog, split.test) == [("a", "qrstuvwxy", "z")]


def test_dates_split_dates():
    days = ["2016-01-01", "2016-01-02", "2016-02-01", "2016-03-01T10:00:00"]
    frame = pl.DataFrame({"user_id": ["a"] * 4, "item_id": list("wxyz"), "time": days})
    histories, catalog = build_sequences(read_interactions(frame), 1)
    split = split_by_time(histories, "2016-02-01", "2016-03-01")
    assert asked(histories, catalog, split.validation) == [("a", "wx", "y")]
    assert split.protocol == "time: validation from 2016-02-01, test from 2016-03-01"


@pytest.mark.parametrize(
    ("validation_from", "test_from", "message"),
    [
        (
            "1",
            "3",
            r"the train set is empty: no user has two events before 1; the times range from 0 to 4; choose other moments with",
        ),
        ("2", "9", r"the test set is empty: no event from 9 on has an earlier one of the same user"),
        ("5", "6", r"the validation set is empty: no event from 5 on and before 6"),
        ("4", "2", r"validation from 4 must come before test from 2; name both moments"),
        ("3", "3", r"validation from 3 must come before test from 3"),
        ("soon", "3", r"cannot read the moment 'soon'"),
        ("2016-01-01", "3", r"'2016-01-01' is a date, but the times of this data set are plain numbers"),
    ],
)
def test_moments_that_do_not_split_are_named(validation_from, test_from, message):
    with pytest.raises(DataError, match=message):
        split_by_time(world({"a": "vwxyz"})[0], validation_from, test_from)


def test_equal_times_cannot_be_split():
    with pytest.raises(DataError, match="validation from 7 must come before test from 7"):
        split_by_time(world({"a": [("x", 7), ("y", 7), ("z", 7)]})[0])


def test_no_events_cannot_be_split():
    """As when a saved model knows none of a file's items."""
    histories = world({"a": "xyz"})[0]
    nothing = replace(histories, items=histories.items[:0], times=histories.times[:0], offsets=np.zeros(2, dtype=np.int64))
    with pytest.raises(DataError, match="the sequences are empty, there is nothing to split"):
        split_by_time(nothing)
    with pytest.raises(DataError, match=r"no user has three events \(the longest sequence has 0\)"):
        leave_last_out(nothing)
    assert nothing.kept == Kept(users=0, items=0, interactions=0, mean_length=0.0, longest=0)


def test_the_order_of_a_file_is_no_time():
    with pytest.raises(DataError, match="a split by time needs times, and the data have no time column"):
        split_by_time(world({"a": "vwxyz"}, times=False)[0])


def test_make_split_follows_the_settings():
    histories, catalog = world({"a": "uvwxyz"})
    by_user = make_split(histories, DataConfig(max_length=2))
    assert asked(histories, catalog, by_user.train.prefixes()) == [("a", "u", "v"), ("a", "uv", "w"), ("a", "vw", "x")]
    assert asked(histories, catalog, by_user.validation.prefixes()) == [("a", "wx", "y")]
    assert asked(histories, catalog, by_user.test.prefixes()) == [("a", "xy", "z")]
    by_time = make_split(histories, DataConfig(split="time", validation_from="3", test_from="4", max_length=3))
    assert asked(histories, catalog, by_time.test.prefixes()) == [("a", "vwx", "y"), ("a", "wxy", "z")]
    assert by_time.protocol == "time: validation from 3, test from 4"
    assert make_split(histories, DataConfig()).train.targets == 3


def test_users_whose_first_event_is_a_test_event_are_counted():
    """Nothing can be read before it: user c has one such event, and user b, who has an earlier one, none."""
    sequences, _ = world({"a": [("v", 0), ("w", 1), ("x", 5), ("y", 9)], "b": [("v", 5), ("w", 9)], "c": [("z", 9), ("v", 10)]})
    split = split_by_time(sequences, "5", "9")
    assert split.without_history == Counts(1, 1, 1)
    assert len(split.test) == 3


def test_files_for_training_validation_and_test():
    """Each held-out event is predicted from all that comes before it, also from earlier held-out events."""
    sequences, catalog = world({"a": "uvwxyz", "b": "uv", "c": "w"})
    parts = np.array([0, 0, 0, 1, 2, 2, 0, 2, 2], dtype=np.int8)
    split = split_by_parts(sequences, parts)
    assert asked(sequences, catalog, split.train) == [("a", "u", "v"), ("a", "uv", "w")]
    assert asked(sequences, catalog, split.validation) == [("a", "uvw", "x")]
    assert asked(sequences, catalog, split.test) == [("a", "uvwx", "y"), ("a", "uvwxy", "z"), ("b", "u", "v")]
    assert split.without_history == Counts(1, 1, 1)
    with pytest.raises(DataError, match=r"the validation file gives no targets: .*; check that the user ids of the files match"):
        split_by_parts(sequences, np.zeros(9, dtype=np.int8))


@given(st.lists(st.lists(st.sampled_from("abcXY"), min_size=1, max_size=8), min_size=1, max_size=5), st.integers(1, 4))
def test_unknown_items_are_dropped_as_by_loops(users, max_length):
    """An unknown target is counted, and no earlier event takes its place; `max_length` counts known items."""
    log = {str(place): "".join(events) for place, events in enumerate(users)}
    frame = pl.DataFrame(
        [(user, event, time) for user, events in log.items() for time, event in enumerate(events)],
        schema=["user_id", "item_id", "time"],
        orient="row",
    )
    catalog = Catalog(pl.Series("id", ["a", "b", "c"]))
    sequences, _ = build_sequences(read_interactions(frame), catalog=catalog)
    last = sequences.offsets[1:] - 1
    rows = np.flatnonzero(np.diff(sequences.offsets) >= 2)
    examples = Examples(rows, sequences.offsets[rows], last[rows], last[rows] + 1, max_length)
    known = drop_unknown_items(sequences, examples)
    expected, unknown, empty = [], 0, 0
    for user, events in log.items():
        if len(events) < 2:
            continue
        history = [event for event in events[:-1] if event in "abc"]
        if events[-1] not in "abc":
            unknown += 1
        elif not history:
            empty += 1
        else:
            expected.append((user, "".join(history[-max_length:]), events[-1]))
    assert asked(known.sequences, catalog, known.targets.prefixes()) == expected
    assert (known.unknown_targets, known.without_known_history) == (unknown, empty)
    assert known.unknown_events == sum(event not in "abc" for events in users for event in events)
