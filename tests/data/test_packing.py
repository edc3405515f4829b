"""Examples end to end: nothing lost, nothing cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import worlds
from ssd4rec.data.packing import BatchPlan, best_fit, consecutive, materialize_batch, pack, plan_batches, spread
from ssd4rec.data.split import leave_last_out


def test_targets_follow_their_inputs():
    """Sequences 5 7 2 9 and 1 4: all but the last two events of the first train; the second has too few."""
    world = worlds.world([[5, 7, 2, 9, 8], [1, 4]])
    # numbers by first appearance: 5->1 7->2 2->3 9->4 8->5 1->6 4->7
    (batch,) = pack(world.histories, world.split.train, 100)
    assert batch.items.tolist() == [1, 2, 6]
    assert batch.cu_seqlens.tolist() == [0, 2, 3]
    assert batch.targets.tolist() == [2, 3, 7]


def test_cu_seqlens_stay_on_the_cpu():
    """Lengths and positions stay on the CPU, so no step waits for the GPU."""
    world = worlds.world([[5, 7, 2, 9, 8], [1, 4]])
    (batch,) = (batch.to("meta") for batch in pack(world.histories, world.split.train, 100))
    assert [each.device.type for each in batch[:3]] == ["meta", "cpu", "meta"]


def test_a_prefix_has_its_last_target_only():
    """The prefixes 5 and 5 7 of one history: targets 7 and 2, nothing asked in between."""
    world = worlds.world([[5, 7, 2, 9, 8]])
    (batch,) = pack(world.histories, world.split.train.prefixes(), 100)
    assert batch.items.tolist() == [1, 1, 2]
    assert batch.cu_seqlens.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == [2, 0, 3]


LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=80)


def test_a_history_longer_than_the_budget_is_a_batch_of_its_own():
    """Nothing is cut, and nothing shares its batch."""
    batches = plan_batches(np.array([3, 50, 4]), 10, np.random.default_rng(0))
    assert sorted(sorted(batch.rows.tolist()) for batch in batches) == [[0, 2], [1]]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_no_examples_make_no_batches(batch_size):
    """Not an error: there is nothing to lay anywhere."""
    assert plan_batches(np.zeros(0, dtype=np.int64), 10, np.random.default_rng(0), batch_size=batch_size) == []


@given(LENGTHS, st.integers(1, 300), st.none() | st.integers(1, 5))
def test_every_example_lies_in_one_batch_apart_from_the_others(lengths, budget, batch_size):
    """Each row once; examples do not overlap; no batch of several rows is over the budget or the batch size."""
    sizes = np.array(lengths)
    batches = plan_batches(sizes, budget, np.random.default_rng(0), batch_size=batch_size)
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        end = batch.start + sizes[batch.rows]
        assert (batch.start[1:] >= end[:-1]).all()
        assert batch.start[0] >= 0
        assert end[-1] <= batch.size
        assert len(batch.rows) == 1 or batch.size <= budget
        assert batch_size is None or len(batch.rows) <= batch_size


@given(LENGTHS, st.integers(64, 1000), st.none() | st.integers(1, 5))
def test_no_short_history_lies_across_two_chunks(lengths, budget, batch_size):
    """At most 64 events: all in one chunk of 64."""
    sizes = np.array(lengths)
    for batch in plan_batches(sizes, budget, np.random.default_rng(0), batch_size=batch_size):
        last = batch.start + sizes[batch.rows] - 1
        assert ((batch.start // 64 == last // 64) | (sizes[batch.rows] > 64)).all()


@given(LENGTHS, st.integers(1, 1000))
def test_batches_are_of_one_size(lengths, budget):
    """All but those of one longer example: whole chunks within the budget."""
    batches = plan_batches(np.array(lengths), budget, np.random.default_rng(0))
    sizes = {batch.size for batch in batches if batch.size <= budget}
    assert len(sizes) <= 1
    assert all(len(batch.rows) == 1 for batch in batches if batch.size > budget)


@pytest.mark.parametrize("name", ["amazon-beauty", "amazon-video-games", "ml-1m"])
def test_batches_are_full(name):
    """On Beauty, Games and ML-1M at least 96 % of the positions hold an event."""
    lengths = leave_last_out(worlds.real(name)).train.lengths
    batches = plan_batches(lengths, 4096, np.random.default_rng(1))
    assert lengths.sum() / sum(batch.size for batch in batches) > 0.96


def test_a_thing_goes_where_it_leaves_the_least_room():
    """5 and 7 open bins of 10; 3 fills the second; 4 goes to the first; 2 opens a third."""
    bins, before = best_fit(np.array([5, 7, 3, 4, 2]), 10)
    assert (bins.tolist(), before.tolist()) == ([0, 1, 1, 0, 2], [0, 0, 7, 5, 0])


def test_bins_become_equally_full():
    """9 is alone; 4 | 3 3 | then both 2 on the 4: two bins of 8 and 6."""
    bins, before = spread(np.array([9, 4, 3, 3, 2, 2]), 8)
    assert bins.tolist() == [0, 1, 2, 2, 1, 1]
    assert before.tolist() == [0, 0, 0, 3, 4, 6]


def test_free_positions_become_fillers():
    """A filler before, between and after: item 0, nothing targets_of_rows, cu_seqlens of its own."""
    world = worlds.world([[5, 7, 2, 9, 8], [1, 4, 6, 3]])
    batch = materialize_batch(world.histories, world.split.train, BatchPlan(np.array([1, 0]), np.array([1, 4]), 8))
    assert batch.items.tolist() == [0, 6, 0, 0, 1, 2, 0, 0]
    assert batch.cu_seqlens.tolist() == [0, 1, 2, 4, 6, 8]
    assert batch.targets.tolist() == [0, 7, 0, 0, 2, 3, 0, 0]


def test_runs_of_examples_keep_their_order():
    """4 and 5 fit 10, 6 and 4 too, 12 is alone."""
    assert [run.tolist() for run in consecutive(np.array([4, 5, 6, 4, 12, 1]), 10)] == [[0, 1], [2, 3], [4], [5]]


@pytest.mark.parametrize("rows", [[0], [1, 0], [2, 0, 1]])
def test_rows_come_in_the_requested_order(rows):
    """materialize_batch keeps the order of its rows."""
    world = worlds.world(worlds.cycle(users=3))
    lengths = world.split.test.lengths[rows]
    placed = BatchPlan(np.array(rows), np.cumsum(lengths) - lengths, int(lengths.sum()))
    batch = materialize_batch(world.histories, world.split.test, placed)
    expected = [world.histories.items[world.split.test.start[row] : world.split.test.stop[row] - 1] for row in rows]
    assert batch.items.tolist() == np.concatenate(expected).tolist()
    targets_of_rows = [world.histories.items[world.split.test.stop[row] - 1] for row in rows]
    assert [batch.targets[end - 1].item() for end in batch.cu_seqlens[1:]] == targets_of_rows
    assert batch.last_targets.tolist() == targets_of_rows
