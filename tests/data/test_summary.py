"""The description of the data in reports."""

import json

import polars as pl
import pytest

from ssd4rec.data.interactions import Columns, ReadOptions, read_interactions
from ssd4rec.data.sequences import build_sequences
from ssd4rec.data.summary import describe, note_on_ties


def table(rows):
    return read_interactions(pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row"))


def test_describe_is_the_data_part_of_a_report():
    rows = [("a", "x", 1), ("a", "x", 2), ("b", "x", 3)]
    read = table(rows)
    described = describe(read.read, build_sequences(read, 2)[0])
    described = json.loads(json.dumps(described))
    assert described["read"] == {
        "source": "polars frame",
        "rows": 3,
        "users": 2,
        "items": 1,
        "columns": {"user": "user_id", "item": "item_id", "time": "time"},
        "time": "number",
        "span": ["1", "3"],
        "filters": [],
        "notes": [
            "times from 1 to 3 are read as plain numbers, not as moments of a calendar",
            "1 of the remaining interactions (50.0 %) repeat an earlier item of the user; with seen-item filtering these "
            "targets become trivially easy and inflate the metrics",
        ],
    }
    assert described["dropped"] == {
        "users": 1,
        "items": 0,
        "interactions": 1,
        "rounds": 1,
        "why": "users and items with fewer than 2 interactions, repeatedly until none is left",
    }
    assert described["kept"] == {"users": 1, "items": 1, "interactions": 2, "mean_length": 2.0, "longest": 2}


@pytest.mark.parametrize(("order", "by"), [("file", "in the file"), ("item", "of the item ids")])
def test_simultaneous_events_are_counted(order, by):
    read = table([("u", "x", 5), ("u", "y", 5), ("u", "z", 5), ("u", "w", 7)])
    described = describe(read.read, build_sequences(read, 1, tie_order=order)[0])
    assert described["tie_order"] == {"interactions": 2, "order": order}
    assert note_on_ties(described) == (
        f"2 interactions (50.0 %) have the time of the previous one; their order is that {by} (data.tie_order), and "
        "metrics depend on it"
    )


def test_distinct_times_need_no_note():
    read = table([("u", "x", 5), ("u", "y", 6), ("v", "y", 6)])
    assert note_on_ties(describe(read.read, build_sequences(read, 1)[0])) is None


def test_one_user_with_a_large_share_is_noted():
    """It may stand for everybody without an id; the advice is a condition that leaves it out."""
    users = ["guest" if row % 3 else f"u{row}" for row in range(60)]
    log = pl.DataFrame({"who": users, "item": [f"i{row % 9}" for row in range(60)], "time": range(60)})
    read = read_interactions(log, Columns(user="who"))
    notes = describe(read.read, build_sequences(read, 1)[0])["read"]["notes"]
    condition = "who <> 'guest'"
    assert [note for note in notes if note.startswith("66.7% of the interactions are of one user, 'guest'") and condition in note]
    without = read_interactions(log, Columns(user="who"), ReadOptions(where=condition))
    assert without.read.rows == 20
    assert not [note for note in describe(without.read, build_sequences(without, 1)[0])["read"]["notes"] if "one user" in note]
