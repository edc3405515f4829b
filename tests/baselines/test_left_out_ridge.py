"""A sequential ridge at its own training positions, without the sequences of these positions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd4rec.baselines.closed_form import renumbered
from ssd4rec.baselines.item_pairs import FADE, READ
from ssd4rec.baselines.left_out_ridge import LeftOutRidge
from ssd4rec.baselines.sequential_ridge import REACH, REGULARIZATION, SequentialRidge

ITEMS = 7
histories = st.lists(st.lists(st.integers(0, ITEMS), min_size=1, max_size=25), min_size=1, max_size=6)


def events_of(rows, before=2):
    """The sequences after a few events that are not trained on; the first event of each, and one past the last one."""
    items = np.concatenate([np.full(before, 3), *rows])
    stop = before + np.cumsum([len(row) for row in rows])
    return items, stop - [len(row) for row in rows], stop


def faded(row, members):
    """The sum of FADE^k over a sequence, k events from its beginning, for each item that takes part."""
    total = np.zeros(len(members))
    for ahead, place in enumerate(renumbered(np.asarray(row, np.int64), members, ITEMS)):
        if place >= 0:
            total[place] += FADE**ahead
    return total


def raised(scores):
    return np.copysign(np.log1p(np.abs(scores) / SequentialRidge.floor), scores)


def by_definition(rows, members, block, regularization):
    """Fit the regression again for every block of positions, without them and their neighbors. [positions, ITEMS]."""
    positions = [(number, row, place) for number, row in enumerate(rows) for place in range(1, len(row))]
    sources = np.array([faded(row[:place][::-1][:READ], members) for _, row, place in positions])
    targets = np.array([faded(row[place : place + REACH], members) for _, row, place in positions])
    numbers, places = (np.array([each[index] for each in positions]) for index in (0, 2))
    groups = numbers * 100 + (places - 1) // block
    scores = np.zeros((len(positions), ITEMS))
    for group in np.unique(groups):
        own = places[groups == group]
        near = (places > own.min() - REACH) & (places < own.max() + REACH)
        kept = (numbers != group // 100) | ~near
        left, right = sources[kept], targets[kept]
        weights = np.linalg.solve(left.T @ left + regularization * np.eye(len(members)), left.T @ right)
        scores[np.ix_(groups == group, members)] = sources[groups == group] @ weights
    return raised(scores)


@settings(max_examples=40)
@given(histories, st.sampled_from([1, 3, 100]), st.integers(1, ITEMS), st.sampled_from([0.5, 50.0]))
def test_equals_fitting_again_without_the_sequence(rows, block, most, regularization):
    items, start, stop = events_of(rows)
    positions = np.concatenate([np.arange(first + 1, last) for first, last in zip(start, stop, strict=True)])
    ridge = LeftOutRidge.prepare(items, start, stop, ITEMS, max_items=most, block=block)
    ridge.solve(regularization=regularization)
    actual = ridge.raises(positions)
    assert actual.shape == (len(positions), ITEMS)
    if len(positions):
        expected = by_definition(rows, ridge.members.numpy(), block, regularization)
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-3, atol=2e-3)


def test_returns_the_ridge_of_all_sequences():
    rows = [[1, 2, 3, 4], [5, 2, 3], [4, 1, 2]]
    items, start, stop = events_of(rows)
    whole = LeftOutRidge.prepare(items, start, stop, ITEMS).solve()
    edges = np.array([0, 4, 7, 10])
    alone = SequentialRidge.fit(np.concatenate(rows), edges, ITEMS, regularization=REGULARIZATION)
    np.testing.assert_array_equal(whole.columns, alone.columns)
    np.testing.assert_allclose(whole.weights, alone.weights, rtol=1e-5)


def test_the_own_target_is_not_known():
    """Only one sequence has the pair 1, 2: the regression knows it from there, and without it does not know it."""
    rows = [[1, 2], [1, 3], [1, 3], [4, 5]]
    items, start, stop = events_of(rows)
    ridge = LeftOutRidge.prepare(items, start, stop, ITEMS)
    pairs = ridge.solve(regularization=0.5)
    assert pairs.raises(torch.tensor([1]), torch.tensor([0, 1]), slice(0, 1))[0].tolist() == [1, 2]
    left_out = ridge.raises(start[:1] + 1)[0]
    assert left_out[1].item() == pytest.approx(0, abs=1e-3)
    assert left_out[2].item() > 1


def test_no_target_of_a_long_sequence_is_known():
    """A sequence that shares no item with others says nothing about its own targets, nor does any other one."""
    rows = [list(range(1, 8)), [8, 9, 8, 9]]
    items, start, stop = events_of(rows)
    ridge = LeftOutRidge.prepare(items, start, stop, 9, block=2)
    ridge.solve(regularization=0.5)
    positions = np.arange(start[0] + 1, stop[0])
    scores = ridge.raises(positions)
    assert scores[np.arange(6), items[positions] - 1].abs().max() < 1e-3


def test_any_order_of_positions():
    rows = [[1, 2, 3, 4, 1], [5, 2, 3]]
    items, start, stop = events_of(rows)
    ridge = LeftOutRidge.prepare(items, start, stop, ITEMS, block=2)
    ridge.solve()
    positions = np.array([8, 4, 3, 6, 5, 9])
    together = ridge.raises(np.sort(positions))
    torch.testing.assert_close(ridge.raises(positions), together[np.argsort(np.argsort(positions))], rtol=1e-5, atol=1e-6)


def test_reports_its_progress():
    items, start, stop = events_of([[1, 2, 3]])
    calls = []
    LeftOutRidge.prepare(items, start, stop, ITEMS).solve(lambda done, everything: calls.append((done, everything)))
    assert calls[0][0] <= calls[0][1]
    assert calls[-1] == (1, 1)
