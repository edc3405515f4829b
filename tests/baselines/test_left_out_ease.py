"""An EASE at its own training positions, without the sequences of these positions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd4rec._csr import lengths_to_offsets
from ssd4rec.baselines.ease import EASEPairs
from ssd4rec.baselines.left_out_ease import LeftOutEASE

ITEMS = 7
histories = st.lists(st.lists(st.integers(0, ITEMS), min_size=1, max_size=12), min_size=1, max_size=6)


def events_of(rows, before=2):
    """The sequences after a few events that are not trained on; the first event of each, and one past the last one."""
    items = np.concatenate([np.full(before, 3), *rows])
    stop = before + np.cumsum([len(row) for row in rows])
    return items, stop - [len(row) for row in rows], stop


def by_definition(rows, members, regularization):
    """Fit EASE again for every sequence, without it; other items than the members are unknown. [positions, ITEMS]."""
    known = [[item if item - 1 in members else 0 for item in row] for row in rows]
    raised = [torch.zeros(0, ITEMS)]
    for number, row in enumerate(known):
        others = known[:number] + known[number + 1 :]
        packed = np.concatenate([np.zeros(0, np.int64), *others]).astype(np.int64), lengths_to_offsets([*map(len, others)])
        ease = EASEPairs.fit(*packed, ITEMS, regularization=regularization, neighbors=ITEMS)
        for place in range(1, len(row)):
            cells, values = ease.raises(torch.tensor(row[:place]), torch.tensor([0, place]), slice(0, 1))
            raised.append(torch.zeros(1, ITEMS).index_add(1, cells, values[None]))
    return torch.cat(raised)


@settings(max_examples=40, deadline=None)
@given(histories, st.integers(1, 5), st.integers(1, ITEMS), st.sampled_from([0.5, 50.0]))
def test_equals_fitting_again_without_the_sequence(rows, window, most, regularization):
    items, start, stop = events_of(rows)
    positions = np.concatenate([np.arange(first + 1, last) for first, last in zip(start, stop, strict=True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EASEPairs, "window", window)
        ease = LeftOutEASE.prepare(items, start, stop, ITEMS, max_items=most)
        ease.solve(regularization=regularization)
        actual, expected = ease.raises(positions), by_definition(rows, ease.members.tolist(), regularization)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=2e-3)


def test_returns_the_ease_of_all_sequences():
    rows = [[1, 2, 3, 4], [5, 2, 3], [4, 1, 2]]
    items, start, stop = events_of(rows)
    calls = []
    whole = LeftOutEASE.prepare(items, start, stop, ITEMS).solve(lambda done, everything: calls.append((done, everything)))
    alone = EASEPairs.fit(np.concatenate(rows), np.array([0, 4, 7, 10]), ITEMS)
    np.testing.assert_array_equal(whole.columns, alone.columns)
    np.testing.assert_array_equal(whole.weights, alone.weights)
    assert calls[-1] == (3, 3)


def test_the_own_target_is_not_known():
    """Only one sequence has the pair 1, 2: EASE knows it from there, and without it does not know it."""
    rows = [[1, 2], [1, 3], [1, 3], [4, 5]]
    items, start, stop = events_of(rows)
    ease = LeftOutEASE.prepare(items, start, stop, ITEMS)
    pairs = ease.solve(regularization=0.5)
    assert pairs.raises(torch.tensor([1]), torch.tensor([0, 1]), slice(0, 1))[0].tolist() == [1, 2]
    left_out = ease.raises(start[:1] + 1)[0]
    assert left_out[1].item() == pytest.approx(0, abs=1e-3)
    assert left_out[2].item() > 1


def test_any_order_of_positions():
    items, start, stop = events_of([[1, 2, 3, 4, 1], [5, 2, 3]])
    ease = LeftOutEASE.prepare(items, start, stop, ITEMS)
    ease.solve()
    positions = np.array([8, 4, 3, 6, 5, 9])
    together = ease.raises(np.sort(positions))
    torch.testing.assert_close(ease.raises(positions), together[np.argsort(np.argsort(positions))], rtol=1e-5, atol=1e-6)
