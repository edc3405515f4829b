"""The counted baseline, against loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import worlds
from ssd4rec.baselines import item_pairs, sequential_rules
from ssd4rec.baselines.item_pairs import FADE, READ
from ssd4rec.baselines.sequential_rules import BACKWARDS, POPULARITY_POWER, REACH, SequentialRules
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.evaluation.scoring import scored_blocks
from ssd4rec.fusion import ScoreFusion
from ssd4rec.pipeline import Prepared, count_sequential_rules

histories = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=14), min_size=1, max_size=5)


def packed(rows):
    return np.array([item for row in rows for item in row], dtype=np.int64), np.cumsum([0, *map(len, rows)])


def scores_of(baseline, rows):
    items, cu_seqlens = packed(rows)
    blocks = list(baseline.score_blocks(torch.from_numpy(items), torch.from_numpy(cu_seqlens)))
    assert [place.start for place, _ in blocks] == [0, *(place.stop for place, _ in blocks[:-1])]
    return torch.cat([scores for _, scores in blocks])


def by_loops(train, rows, size):
    pairs = np.zeros((size, size))
    events = np.ones(size)
    for row in train:
        for place, item in enumerate(row):
            events[item - 1] += 1
            for apart, later in enumerate(row[place + 1 : place + 1 + REACH]):
                pairs[item - 1, later - 1] += FADE**apart
                pairs[later - 1, item - 1] += BACKWARDS * FADE**apart
    pairs /= np.outer(events, events) ** POPULARITY_POWER
    actual = np.zeros((len(rows), size))
    for user, row in enumerate(rows):
        for back, item in enumerate(row[::-1][:READ]):
            if item:
                actual[user] += FADE**back * pairs[item - 1]
    return actual


@given(histories, st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(1, 20))
def test_scores_are_those_of_loops(train, rows, cells):
    """Masked items (0) tell nothing; blocks of any size give the same."""
    before = item_pairs.BLOCK_ELEMENTS
    try:
        item_pairs.BLOCK_ELEMENTS = cells
        actual = scores_of(SequentialRules.fit(*packed(train), 6), rows)
    finally:
        item_pairs.BLOCK_ELEMENTS = before
    np.testing.assert_allclose(actual.numpy(), by_loops(train, rows, 6), rtol=1e-6, atol=0)


@given(histories, st.integers(1, 30))
def test_counting_a_few_items_at_a_time_changes_nothing(train, pairs):
    """Not a bit, however few pairs are held at once."""
    expected = SequentialRules.fit(*packed(train), 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential_rules, "PAIRS_AT_ONCE", pairs)
        actual = SequentialRules.fit(*packed(train), 6)
    for name in ("edges", "columns", "weights"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))


@given(histories, st.integers(1, 6))
def test_the_strongest_pairs_of_each_item_are_kept(train, most):
    """The largest S of each row, of equal ones the smaller item number; nothing else changes."""
    whole = scores_of(SequentialRules.fit(*packed(train), 6), [[item] for item in range(1, 7)]).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential_rules, "NEIGHBORS", most)
        actual = scores_of(SequentialRules.fit(*packed(train), 6), [[item] for item in range(1, 7)]).numpy()
    for row, kept in zip(whole, actual, strict=True):
        order = np.argsort(-row, kind="stable")[:most]
        expected = np.zeros(6)
        expected[order] = row[order]
        np.testing.assert_array_equal(kept, expected)


@given(histories, st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(1, 3))
def test_fusion_adds_a_logarithm_of_the_counts(train, rows, size):
    """score + weight * log(1 + counted / floor) + repeat_bias for items of the history, for any number of rows."""
    items, cu_seqlens = (torch.from_numpy(part) for part in packed(rows))
    scores = torch.randn(len(rows), 6)
    blocks = (
        (slice(first, min(first + size, len(rows))), scores[first : first + size].clone()) for first in range(0, len(rows), size)
    )
    fusion = ScoreFusion(SequentialRules.fit(*packed(train), 6), 1.5, -2.0)
    actual = torch.cat([block.scores for block in scored_blocks(blocks, (items, cu_seqlens), fusion=fusion)])
    had = np.array([[item in row for item in range(1, 7)] for row in rows])
    expected = scores.numpy() + 1.5 * np.log1p(by_loops(train, rows, 6) / SequentialRules.floor) - 2.0 * had
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-5)
    places, added = fusion.pairs.raises(items, cu_seqlens, slice(0, len(rows)))
    for cells, whole in zip(fusion.pairs.raised_cells(items, cu_seqlens), (places, added), strict=True):
        np.testing.assert_array_equal(cells, whole.numpy())


def test_it_finds_the_cycle():
    """One successor each: the first rank for every user, and item + 1 after each item alone."""
    world = worlds.world(worlds.cycle())
    baseline = count_sequential_rules(Prepared(world.histories, world.catalog, world.split, {}))
    assert evaluate(baseline, world.histories, world.split.test).ndcg[10] == 1.0
    filtered = evaluate(baseline, world.histories, world.split.test, exclude_seen=True)
    assert filtered.protocol.candidates == f"whole catalog, {len(world.catalog)} items"


def test_it_counts_nothing_of_validation_and_test():
    """Of 1 2 3 4 the last two are held out: only 1 and 2 are a pair."""
    world = worlds.world([[1, 2, 3, 4]])
    baseline = count_sequential_rules(Prepared(world.histories, world.catalog, world.split, {}))
    assert (scores_of(baseline, [[1], [2], [3], [4]]) > 0).sum(dim=1).tolist() == [1, 1, 0, 0]
