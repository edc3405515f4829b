"""The closed-form baselines, against their definitions with loops and explicit matrices."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import worlds
from ssd4rec.baselines import sequential_ridge
from ssd4rec.baselines.closed_form import cholesky
from ssd4rec.baselines.ease import EASE, EASEPairs
from ssd4rec.baselines.item_pairs import FADE, READ
from ssd4rec.baselines.sequential_ridge import REACH, SequentialRidge, products
from ssd4rec.errors import ConfigError
from ssd4rec.evaluation.baselines import fit_baseline
from ssd4rec.evaluation.evaluate import evaluate

ITEMS = 6
histories = st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=25), min_size=1, max_size=5)
queries = st.lists(st.lists(st.integers(0, ITEMS), min_size=1, max_size=12), min_size=1, max_size=5)


def packed(rows):
    return np.array([item for row in rows for item in row], dtype=np.int64), np.cumsum([0, *map(len, rows)])


def scores_of(baseline, rows):
    items, cu_seqlens = packed(rows)
    blocks = baseline.score_blocks(torch.from_numpy(items), torch.from_numpy(cu_seqlens))
    return torch.cat([scores.clone() for _, scores in blocks]).double().numpy()


def fading(row, fade, read=None):
    """The sum of fade^k over the last events of a sequence, k events back, for each item."""
    source = np.zeros(ITEMS)
    for back, item in enumerate(row[::-1][:read]):
        if item:
            source[item - 1] += fade**back
    return source


def design(rows):
    """The sources and the targets of all positions that have a predecessor."""
    places = [(row, place) for row in rows for place in range(1, len(row))]
    sources = [fading(row[:place], FADE, READ) for row, place in places]
    targets = [fading(row[place : place + REACH][::-1], FADE) for row, place in places]
    return np.array(sources).reshape(-1, ITEMS), np.array(targets).reshape(-1, ITEMS)


def ridge(left, right, regularization):
    return np.linalg.solve(left.T @ left + regularization * np.eye(left.shape[1]), left.T @ right)


def test_the_factor_takes_no_memory_of_its_own():
    """A catalog of 20,000 items has room for two matrices where it has none for five."""
    rows = torch.randn(40, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = rows.T @ rows
    expected, memory = torch.linalg.cholesky(gram + 2.0 * torch.eye(30)), gram.data_ptr()
    factor = cholesky(gram, 2.0)
    assert factor.data_ptr() == memory
    torch.testing.assert_close(factor, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=30)
@given(histories, st.integers(1, 40))
def test_the_products_are_those_of_the_explicit_matrices(train, pairs):
    items, cu_seqlens = packed(train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential_ridge, "PAIRS_AT_ONCE", pairs)
        gram, right = products(items - 1, cu_seqlens, ITEMS)
    sources, targets = design(train)
    np.testing.assert_allclose(gram.numpy(), sources.T @ sources, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(right.numpy(), sources.T @ targets, rtol=1e-5, atol=1e-6)


@settings(max_examples=30)
@given(histories, queries)
def test_the_sequential_ridge_is_a_regression_of_what_follows_on_what_came_before(train, rows):
    actual = scores_of(SequentialRidge.fit(*packed(train), ITEMS, regularization=2.0), rows)
    weights = ridge(*design(train), 2.0)
    expected = np.array([fading(row, FADE, READ) for row in rows]) @ weights
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(histories, st.integers(1, ITEMS), st.sampled_from([SequentialRidge, EASEPairs]))
def test_the_largest_weights_of_each_item_are_stored(train, most, model):
    whole = scores_of(model.fit(*packed(train), ITEMS), [[item] for item in range(1, ITEMS + 1)])
    actual = scores_of(model.fit(*packed(train), ITEMS, neighbors=most), [[item] for item in range(1, ITEMS + 1)])
    for row, stored in zip(whole, actual, strict=True):
        assert np.isin(stored, [0.0, *row]).all()
        assert np.abs(stored).sum() == pytest.approx(np.sort(np.abs(row))[-most:].sum())


@settings(max_examples=30)
@given(histories, queries, st.sampled_from([1.0, 0.7]))
def test_ease_reconstructs_an_item_from_the_others_of_its_users(train, rows, fade):
    """Each column is a ridge regression of the item on all the other items, so the diagonal is zero."""
    has = np.array([[item in row for item in range(1, ITEMS + 1)] for row in train], dtype=float)
    weights = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        others = np.arange(ITEMS) != item
        weights[others, item] = ridge(has[:, others], has[:, item], 3.0)
    actual = scores_of(EASE.fit(*packed(train), ITEMS, regularization=3.0, fade=fade), rows)
    expected = np.array([fading(row, fade) for row in rows]) @ weights
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(histories, queries, st.integers(1, 4))
def test_ease_in_score_fusion_sums_over_the_last_events(train, rows, window):
    """Without decay; an item that occurs twice counts twice."""
    expected = scores_of(EASE.fit(*packed(train), ITEMS, regularization=3.0, fade=1.0), [row[-window:] for row in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EASEPairs, "window", window)
        actual = scores_of(EASEPairs.fit(*packed(train), ITEMS, regularization=3.0), rows)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("baseline", [SequentialRidge, EASE, EASEPairs])
def test_only_the_most_frequent_items_take_part_in_a_large_catalog(baseline, caplog):
    """Without the rare items 5 and 6, as if nobody had them; their places stay, and their scores are 0."""
    train = [[1, 2, 3, 4], [2, 1, 4, 3], [1, 3, 4, 2], [4, 5, 1, 2]]
    with caplog.at_level(logging.WARNING):
        actual = scores_of(baseline.fit(*packed(train), ITEMS, max_items=4), [[1, 5, 2], [3]])
    assert "only the 4 most frequent of 6 items take part (93.8 % of the events)" in caplog.text
    assert (actual[:, 4:] == 0).all()
    assert (actual[:, :4] != 0).any()
    whole = scores_of(baseline.fit(*packed([row for row in train if 5 not in row]), ITEMS), [[3]])
    fitted = baseline.fit(*packed([row for row in train if 5 not in row]), ITEMS, max_items=4)
    np.testing.assert_allclose(scores_of(fitted, [[3]]), whole, rtol=1e-4, atol=1e-5)


def test_the_ridge_knows_the_cycle():
    """One successor each: the first rank for every user."""
    world = worlds.world(worlds.cycle())
    fitted = fit_baseline("sequential-ridge", world.histories, world.split.train, len(world.catalog))
    assert evaluate(fitted, world.histories, world.split.test).ndcg[10] == 1.0


def test_seen_items_sink_where_nobody_has_an_item_twice():
    """Permutations: the weights of an item with itself are negative, without a rule that says so."""
    random = np.random.default_rng(0)
    train = [(random.permutation(ITEMS) + 1).tolist() for _ in range(40)]
    scores = scores_of(SequentialRidge.fit(*packed(train), ITEMS, regularization=1.0), [[item] for item in range(1, ITEMS + 1)])
    assert (np.argmin(scores, axis=1) == np.arange(ITEMS)).all()


def test_an_unknown_baseline_is_explained():
    world = worlds.world(worlds.cycle())
    with pytest.raises(ConfigError, match='unknown baseline "slim"; baselines are sequential-rules, sequential-ridge, ease'):
        fit_baseline("slim", world.histories, world.split.train, len(world.catalog))
