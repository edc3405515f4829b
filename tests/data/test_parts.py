"""Separate files for training, validation and test against loops."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.sequences import build_sequences, join_parts
from ssd4rec.data.split import split_by_parts
from ssd4rec.errors import DataError

events = st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 5)), min_size=1, max_size=12)


def table(rows, times=True):
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return read_interactions(frame if times else frame.drop("time"))


@given(events, events, events, st.booleans())
def test_each_sequence_is_train_then_validation_then_test(train, validation, test, times):
    """Each part by time, ties in the order of the file."""
    interactions, sequences, _, parts = join_parts(table(train, times), table(validation, times), table(test, times))
    _, catalog = build_sequences(interactions, 1)
    items = catalog.ids_of(sequences.items.astype(np.int64)).to_list()
    for number, user in enumerate(sequences.users):
        start, stop = sequences.offsets[number : number + 2]
        expected = [
            (row[1], part)
            for part, rows in enumerate((train, validation, test))
            for row in (sorted(rows, key=lambda row: row[2]) if times else rows)
            if row[0] == user
        ]
        assert list(zip(items[start:stop], parts[start:stop].tolist(), strict=True)) == expected


def test_files_of_different_forms_are_refused():
    rows = [("u", "a", 1)]
    numbers = read_interactions(pl.DataFrame({"user": [1], "item": ["a"], "time": [1]}))
    with pytest.raises(DataError, match="user ids are String in the train file and Int64 in the test file; give both one type"):
        join_parts(table(rows), table(rows), numbers)
    dates = read_interactions(pl.DataFrame({"user": ["u"], "item": ["a"], "time": ["2016-01-31"]}))
    with pytest.raises(DataError, match="times are number in the train file and date in the validation file; give both the same"):
        join_parts(table(rows), dates, table(rows))


def test_times_in_different_precision_stay_exact():
    fine = read_interactions(pl.DataFrame({"user": ["u", "u"], "item": ["b", "c"], "time": ["1650882384.5", "1650882384.25"]}))
    coarse = read_interactions(pl.DataFrame({"user": ["u"], "item": ["a"], "time": ["1650882384"]}))
    _, sequences, _, parts = join_parts(coarse, fine, coarse)
    assert sequences.times.tolist() == [1650882384000, 1650882384250, 1650882384500, 1650882384000]
    split = split_by_parts(sequences, parts, learned=False)
    assert (split.validation.targets, split.test.targets) == (2, 1)
