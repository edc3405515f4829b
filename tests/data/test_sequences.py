"""The k-core against its definition, order and ties, what is kept and what was dropped, and the way to disk and back."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import worlds
from ssd4rec.data import sequences
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.k_core import Counts, Filtering, count_k_core
from ssd4rec.data.packing import pack
from ssd4rec.data.sequences import Kept, Sequences, build_sequences, time_order
from ssd4rec.data.split import leave_last_out
from ssd4rec.data.timestamps import Clock
from ssd4rec.errors import DataError

events = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=60)


def interactions(rows, times=True):
    names = ["user_id", "item_id", "time"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    return read_interactions(frame if times else frame.drop("time"))


def listed(histories, catalog):
    """{user id: [(item id, time), …]}, users in their order."""
    ids = catalog.ids_of(histories.items.astype(np.int64)).to_list()
    pairs = list(zip(ids, histories.times.tolist(), strict=True))
    bounds = histories.offsets.tolist()
    return {user: pairs[bounds[at] : bounds[at + 1]] for at, user in enumerate(histories.users.to_list())}


def core_by_definition(rows, k):
    """Drop every row of a user or item with fewer than k rows, until none is left to drop."""
    while True:
        of_user, of_item = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        left = [row for row in rows if of_user[row[0]] >= k and of_item[row[1]] >= k]
        if len(left) == len(rows):
            return left
        rows = left


def test_histories_by_hand():
    """first 5 7 2 of u2, then 9 of u1: the file is not sorted."""
    rows = [("u2", "five", 3), ("u1", "nine", 1), ("u2", "two", 8), ("u2", "seven", 4)]
    histories, catalog = build_sequences(interactions(rows), min_interactions=1)
    assert catalog.ids.to_list() == ["five", "nine", "two", "seven"]
    assert histories.items.tolist() == [1, 4, 3, 2]
    assert histories.times.tolist() == [3, 4, 8, 1]
    assert histories.offsets.tolist() == [0, 3, 4]
    assert histories.users.to_list() == ["u2", "u1"]
    assert histories.clock == Clock("number")
    assert (histories.items.dtype, histories.times.dtype, histories.offsets.dtype) == (np.int32, np.int64, np.int64)
    assert histories.kept == Kept(users=2, items=4, interactions=4, mean_length=2.0, longest=3)


def test_the_core_is_taken_again_and_again():
    """k = 2: item z goes, then user c, then item y, then user b, and a with x is left, a repeat counting."""
    rows = [("a", "x", 1), ("a", "x", 2), ("b", "x", 3), ("b", "y", 4), ("c", "y", 5), ("c", "z", 6)]
    histories, catalog = build_sequences(interactions(rows), min_interactions=2)
    assert listed(histories, catalog) == {"a": [("x", 1), ("x", 2)]}
    assert histories.filtering.rounds == 4
    assert (histories.filtering.came.users, histories.filtering.came.items, histories.filtering.came.interactions) == (3, 3, 6)
    assert (histories.filtering.removed.users, histories.filtering.removed.items) == (2, 2)
    assert histories.filtering.removed.interactions == 4


@given(events, st.integers(1, 5))
def test_the_core_equals_its_definition(rows, k):
    users, items = (np.array([row[place] for row in rows], dtype=np.int32) for place in (0, 1))
    core = count_k_core(lambda: [(users, items)], 1 + users.max(initial=-1), 1 + items.max(initial=-1), k)
    kept = np.flatnonzero((core.user_counts > 0)[users] & (core.item_counts > 0)[items])
    numbered = [(*row, place) for place, row in enumerate(rows)]
    assert kept.tolist() == [row[3] for row in core_by_definition(numbered, k)]
    assert sum(step.interactions for step in core.steps) == len(rows) - len(kept)
    assert all(step.interactions for step in core.steps)


def test_the_core_properties_see_more_than_trivial_cores():
    """The inputs above: some lose a part, some all, some nothing."""
    random = np.random.default_rng(0)
    sizes = set()
    for _ in range(50):
        users, items = random.integers(0, 6, (2, 40), dtype=np.int32)
        sizes.add(count_k_core(lambda users=users, items=items: [(users, items)], 6, 6, 5).left.interactions)
    assert 0 in sizes
    assert len(sizes) > 5


@given(events, st.integers(1, 4))
def test_histories_equal_their_definition(rows, k):
    """Per user: kept rows, sorted by time, ties in the order of the file; users and items by first appearance."""
    left = core_by_definition(rows, k)
    if not left:
        with pytest.raises(DataError, match="nothing is left"):
            build_sequences(interactions(rows), k)
        return
    histories, catalog = build_sequences(interactions(rows), k)
    users = [user for user in dict.fromkeys(row[0] for row in rows) if user in {row[0] for row in left}]
    items = [item for item in dict.fromkeys(row[1] for row in rows) if item in {row[1] for row in left}]
    expected = {
        user: [(row[1], row[2]) for row in sorted((row for row in left if row[0] == user), key=lambda row: row[2])]
        for user in users
    }
    result = listed(histories, catalog)
    assert result == expected
    assert list(result) == users
    assert catalog.ids.to_list() == items


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-(2**62), 2**62, 0, 1])), max_size=30))
def test_order_is_stable_whatever_the_span_of_times(rows):
    """Also where user and time do not fit one 64-bit key."""
    users = np.array([row[0] for row in rows], dtype=np.int32)
    times = np.array([row[1] for row in rows], dtype=np.int64)
    assert time_order(users, times).tolist() == sorted(range(len(rows)), key=lambda place: rows[place])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30))
def test_order_is_stable_among_ties(rows):
    users = np.array([row[0] for row in rows], dtype=np.int32)
    times = np.array([row[1] for row in rows], dtype=np.int64)
    assert time_order(users, times).tolist() == sorted(range(len(rows)), key=lambda place: rows[place])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), max_size=30))
def test_ties_can_have_an_order_of_their_own(rows):
    """By user, time, then the third; what is equal in all three stays in the order of the file."""
    users, times, then = (np.array([row[place] for row in rows], dtype=np.int64) for place in range(3))
    assert time_order(users.astype(np.int32), times, then).tolist() == sorted(range(len(rows)), key=lambda place: rows[place])


@pytest.mark.parametrize("ids", [[10, 9, 100, 8], ["b", "a", "c", "B"], ["10", "9", "100", "8"], ["10", "9", "x", "8"]])
def test_simultaneous_items_can_be_sorted_by_id(ids, tmp_path):
    """IntArray as numbers, other text letter by letter; time comes first, and which rows the file has first says nothing."""
    rows = [("u", item, 5) for item in ids] + [("v", ids[0], 5), ("u", ids[1], 1)]
    for file in (rows, rows[::-1]):
        histories, catalog = build_sequences(interactions(file), 1, tie_order="item")
        sorted_ids = sorted(ids, key=int) if str(ids[2]) == "100" else sorted(ids)
        assert [item for item, _ in listed(histories, catalog)["u"]] == [ids[1], *sorted_ids]
        assert histories.at_same_time == 3
        histories.save(tmp_path / "saved")
        assert Sequences.open(tmp_path / "saved").tie_order == "item"
        shutil.rmtree(tmp_path / "saved")
    histories, catalog = build_sequences(interactions(rows), 1)
    assert [item for item, _ in listed(histories, catalog)["u"]] == [ids[1], *ids]
    assert (histories.at_same_time, histories.tie_order) == (3, "file")


def test_items_that_recur_are_counted_history_by_history():
    """a b a a is two, b a b one, and what another user had is none."""
    rows = [("u", item, time) for time, item in enumerate("abaa")] + [("v", item, time) for time, item in enumerate("bab")]
    assert build_sequences(interactions(rows), 1)[0].repeated == 3
    assert build_sequences(interactions([("u", "a", 1), ("v", "a", 2)]), 1)[0].repeated == 0


def test_a_history_without_events_is_at_no_time(small):
    """Unknown items are left out of histories, wherever they are, and the rest may be empty."""
    for offsets, expected in (([0, 0, 3], 2), ([0, 3, 3], 2), ([0, 1, 1, 3], 1), ([0, 0, 1, 2, 3, 3], 0)):
        result = replace(small, times=np.full(3, 7), offsets=np.array(offsets))
        assert result.at_same_time == expected


def test_the_catalog_of_a_model_decides_the_item_indices():
    """Unknown items get index 0 and come first among ties; nothing is filtered."""
    known = Catalog(pl.Series("id", ["100", "9", "20"]))
    rows = [("u", item, 5) for item in ("x", "100", "20", "9")] + [("v", "y", 1)]
    sequences, catalog = build_sequences(interactions(rows), 5, tie_order="item", catalog=known)
    assert catalog is known
    assert (sequences.items.tolist(), sequences.offsets.tolist()) == ([0, 2, 3, 1, 0], [0, 4, 5])
    assert sequences.filtering == Filtering(1, 0, Counts(2, 5, 5), Counts(0, 0, 0))


@given(st.lists(st.tuples(st.sampled_from("uv"), st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=30))
def test_duplicates_are_those_of_pandas(rows):
    """An interaction equal to an earlier one in user, item and time."""
    sequences, _ = build_sequences(interactions(rows), 1)
    assert sequences.duplicates == pd.DataFrame(rows).duplicated().sum()


def test_without_times_the_file_is_the_order():
    rows = [("a", "x", 9), ("b", "y", 5), ("a", "z", 1)]
    histories, catalog = build_sequences(interactions(rows, times=False), 1)
    assert listed(histories, catalog) == {"a": [("x", 0), ("z", 2)], "b": [("y", 1)]}


def test_nothing_left_names_the_largest_threshold_that_leaves_something():
    """Three users with the same three items: 3 does, and 98 would not; that one of them had a fourth item changes nothing."""
    rows = [*((user, item, 0) for user in "abc" for item in "xyz"), ("a", "w", 0)]
    with pytest.raises(DataError, match=r"lower it with --set data\.min_interactions=3 or less$"):
        build_sequences(interactions(rows), 99)
    build_sequences(interactions(rows), 3)


def test_nothing_left_says_which_threshold_removed_how_much():
    rows = [("a", "x", 1), ("a", "y", 2), ("b", "y", 3)]
    message = (
        r"polars frame: nothing is left when every user and every item must have 3 interactions: of 2 users, 2 items and 3 rows, "
        r"round 1 removed 2 users and 2 items with fewer than 3 \(3 rows\); lower it with --set data.min_interactions=1 or less$"
    )
    with pytest.raises(DataError, match=message):
        build_sequences(interactions(rows), 3)


def test_long_falls_are_shortened():
    """A chain u1-i1-u2-i2-… loses one link a round."""
    rows = [(place // 2, (place + 1) // 2, place) for place in range(40)]
    with pytest.raises(DataError, match=r"round 5 removed .*; … \d+ rounds in all; lower it"):
        build_sequences(interactions(rows), 2)


def test_the_threshold_must_be_positive():
    with pytest.raises(DataError, match="min_interactions must be 1 or more, found 0; 1 keeps everything"):
        build_sequences(interactions([("a", "x", 1)]), 0)


@pytest.fixture
def small():
    return build_sequences(interactions([("a", "x", 1), ("b", "y", 2), ("a", "y", 3)]), 1)[0]


@pytest.mark.parametrize("mmap", [True, False])
def test_histories_come_back_from_disk(tmp_path, small, mmap):
    small.save(tmp_path / "deep" / "saved")
    result = Sequences.open(tmp_path / "deep" / "saved", mmap=mmap)
    for name in ("items", "times", "offsets"):
        assert np.array_equal(getattr(result, name), getattr(small, name))
        assert isinstance(getattr(result, name), np.memmap) == mmap
    assert result.users.to_list() == small.users.to_list()
    assert (result.filtering, result.clock, result.kept) == (small.filtering, small.clock, small.kept)
    assert result.fingerprint() == small.fingerprint()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["saved"]


def test_mapped_histories_are_split_and_batched_as_any_other(tmp_path):
    """The same examples and the same batches, and no warning of arrays that may not be written."""
    histories = worlds.world(worlds.cycle(users=5)).histories
    histories.save(tmp_path / "saved")
    mapped = Sequences.open(tmp_path / "saved")
    ours, theirs = (list(pack(each, leave_last_out(each).train, 30)) for each in (mapped, histories))
    assert len(ours) == len(theirs) > 1
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.items, other.items)
        assert torch.equal(one.targets, other.targets)


def test_a_folder_in_the_way_is_not_overwritten(tmp_path, small):
    with pytest.raises(DataError, match="already exists; choose a new folder"):
        small.save(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path, small):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write sequences to .*saved"):
        small.save(tmp_path / "file" / "saved")


def test_a_save_that_fails_leaves_nothing(tmp_path, small, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match=r"cannot write sequences to .*: No space left on device"):
        small.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["items.npy", "users.parquet", "histories.json"])
@pytest.mark.parametrize("mmap", [True, False])
def test_damaged_folders_are_refused(tmp_path, small, name, mmap):
    small.save(tmp_path / "saved")
    path = tmp_path / "saved" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="saved cannot be read as sequences"):
        Sequences.open(tmp_path / "saved", mmap=mmap)


@pytest.mark.parametrize(
    ("name", "values"), [("times", np.zeros(2)), ("offsets", np.zeros(0)), ("offsets", np.int64(3)), ("items", np.zeros((3, 2)))]
)
def test_parts_of_different_histories_are_refused(tmp_path, small, name, values):
    """Another length, nothing at all, a number alone, a table."""
    small.save(tmp_path / "saved")
    np.save(tmp_path / "saved" / f"{name}.npy", values.astype(np.int64))
    with pytest.raises(DataError, match="its files do not match"):
        Sequences.open(tmp_path / "saved")


def test_missing_folders_and_other_formats_are_refused(tmp_path, small):
    with pytest.raises(DataError, match="nothing cannot be read as sequences"):
        Sequences.open(tmp_path / "nothing")
    small.save(tmp_path / "saved")
    about = tmp_path / "saved" / "histories.json"
    about.write_text(about.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match="has format 2, expected 1; build the sequences again"):
        Sequences.open(tmp_path / "saved")


def test_a_pickle_in_an_array_is_not_opened(tmp_path, small):
    small.save(tmp_path / "saved")
    np.save(tmp_path / "saved" / "items.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as sequences"):
        Sequences.open(tmp_path / "saved", mmap=False)


def test_the_fingerprint_tells_histories_apart(small):
    """Users' names are left out: only what a model reads counts."""
    rows = [("A", "X", 1), ("B", "Y", 2), ("A", "Y", 3)]
    assert build_sequences(interactions(rows), 1)[0].fingerprint() == small.fingerprint()
    for place, row in enumerate(rows):
        changed = [*rows[:place], (row[0], row[1], row[2] + 10), *rows[place + 1 :]]
        assert build_sequences(interactions(changed), 1)[0].fingerprint() != small.fingerprint()
    assert len(small.fingerprint()) == 64


@pytest.mark.parametrize(
    ("name", "users", "items", "events", "mean", "longest"),
    [
        ("ml-1m", 6_040, 3_416, 999_611, 165.5, 2_277),
        ("amazon-beauty", 22_363, 12_101, 198_502, 8.88, 204),
        ("amazon-video-games", 24_303, 10_672, 231_780, 9.54, 773),
        ("ml-100k", 943, 1_349, 99_287, 105.29, 648),
        ("movietweetings-100k", 4_333, 2_414, 68_055, 15.71, 275),
        ("kuairand-pure-late", 15_989, 4_151, 200_825, 12.56, 132),
    ],
)
def test_published_counts_after_the_5_core(name, users, items, events, mean, longest):
    """Those of docs/guides/named-data.md where a name has them; the mean and the longest are the files' own."""
    path = worlds.real_file(f"{name}.inter.gz")
    histories, catalog = build_sequences(read_interactions(path), min_interactions=5)
    kept = histories.kept
    assert (kept.users, kept.items, kept.interactions, kept.longest) == (users, items, events, longest)
    assert kept.mean_length == pytest.approx(mean, abs=0.051)
    assert len(catalog) == items


def test_properties_of_sequences_do_not_depend_on_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    log = pl.DataFrame({"user": rng.integers(0, 40, 900), "item": rng.integers(0, 30, 900), "time": rng.integers(0, 200, 900)})
    histories, _ = build_sequences(read_interactions(log), 1)
    whole = histories.kept, histories.at_same_time, histories.repeated
    blocks = list(sequences.user_blocks(histories.offsets, 7))
    assert len(blocks) == len(histories.users)  # everyone has more than seven events
    monkeypatch.setattr(sequences.user_blocks, "__defaults__", (50,))
    assert len(list(sequences.user_blocks(histories.offsets))) > 10
    assert (histories.kept, histories.at_same_time, histories.repeated) == whole
    pairs = pl.DataFrame(
        {"user": np.repeat(np.arange(len(histories.users)), np.diff(histories.offsets)), "item": histories.items}
    )
    assert histories.repeated == len(pairs) - pairs.n_unique()
