"""Examples end to end: nothing lost, nothing cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import worlds
from ssd4rec.data.packing import lay_end_to_end, pack, plan_batches


def test_targets_follow_their_inputs():
    """Histories 5 7 2 9 and 1 4: all but the last two events of the first train; the second has too few."""
    world = worlds.world([[5, 7, 2, 9, 8], [1, 4]])
    # numbers by first appearance: 5->1 7->2 2->3 9->4 8->5 1->6 4->7
    (batch,) = pack(world.histories, world.split.train, 100)
    assert batch.items.tolist() == [1, 2, 6]
    assert batch.boundaries.tolist() == [0, 2, 3]
    assert batch.targets.tolist() == [2, 3, 7]


def test_a_prefix_is_asked_for_its_last_target_only():
    """The prefixes 5 and 5 7 of one history: targets 7 and 2, nothing asked in between."""
    world = worlds.world([[5, 7, 2, 9, 8]])
    (batch,) = pack(world.histories, world.split.train.prefixes(), 100)
    assert batch.items.tolist() == [1, 1, 2]
    assert batch.boundaries.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == [2, 0, 3]


def test_a_history_longer_than_the_budget_is_a_batch_of_its_own():
    """Nothing is cut."""
    batches = plan_batches(np.array([3, 50, 4]), 10, rng=np.random.default_rng(0))
    assert sorted(map(sorted, (rows.tolist() for rows in batches))) == [[0, 2], [1]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 64), st.none() | st.integers(1, 5), st.booleans())
def test_every_example_is_in_one_batch_within_its_limits(lengths, budget, batch_size, shuffled):
    """Each row once; no batch of several rows is over the budget or the batch size."""
    sizes = np.array(lengths)
    rng = np.random.default_rng(0) if shuffled else None
    batches = plan_batches(sizes, budget, batch_size=batch_size, rng=rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or sizes[rows].sum() <= budget
        assert batch_size is None or len(rows) <= batch_size
    if not shuffled:
        assert np.concatenate(batches).tolist() == list(range(len(lengths)))


def test_short_histories_fill_a_batch():
    """First fit over a few open batches leaves less than 5 % of the row empty."""
    lengths = np.random.default_rng(0).geometric(0.1, 5000)
    batches = plan_batches(lengths, 2048, rng=np.random.default_rng(1))
    assert lengths.sum() / (2048 * len(batches)) > 0.95


@pytest.mark.parametrize("rows", [[0], [1, 0], [2, 0, 1]])
def test_rows_come_in_the_order_that_was_asked_for(rows):
    """lay_end_to_end keeps the order of its rows."""
    world = worlds.world(worlds.cycle(users=3))
    batch = lay_end_to_end(world.histories, world.split.test, np.array(rows))
    expected = [world.histories.items[world.split.test.start[row] : world.split.test.stop[row] - 1] for row in rows]
    assert batch.items.tolist() == np.concatenate(expected).tolist()
    assert [batch.targets[end - 1].item() for end in batch.boundaries[1:]] == [
        world.histories.items[world.split.test.stop[row] - 1] for row in rows
    ]
