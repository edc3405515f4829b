"""Coverage, Lorenz curve, Gini index and popularity groups, against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd4rec.evaluation.concentration import measure_concentration, popularity_groups, popularity_thirds

counts_of = st.lists(st.integers(0, 1000), min_size=1, max_size=200).map(np.array)


@given(counts_of)
def test_gini_is_the_mean_difference_over_twice_the_mean(counts):
    measured = measure_concentration(counts)
    if counts.sum():
        expected = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
        assert measured.gini == pytest.approx(expected, abs=1e-9)
        assert measured.lorenz[0] == (0.0, 0.0)
        assert measured.lorenz[-1] == pytest.approx((1.0, 1.0))
        assert all(total <= items + 1e-9 for items, total in measured.lorenz)
    assert (measured.total, measured.items) == (counts.sum(), np.count_nonzero(counts))


@given(counts_of)
def test_head_and_middle_are_the_fewest_items_with_a_third_each(counts):
    middle, head = popularity_thirds(counts)
    groups = popularity_groups(counts)
    assert ((groups == 0) == (counts == 0)).all()
    if counts.sum():
        assert counts[counts >= head].sum() * 3 >= counts.sum()
        assert counts[counts > head].sum() * 3 < counts.sum()
        assert counts[counts >= middle].sum() * 3 >= 2 * counts.sum()
    assert [int((groups == 3).sum()), int((groups >= 2).sum())] == [int((counts >= head).sum()), int((counts >= middle).sum())]


def test_nothing_counted():
    measured = measure_concentration(np.zeros(5, np.int64))
    assert (measured.coverage, measured.gini, measured.lorenz) == (0.0, 0.0, ())
