"""The formulas, by hand."""

import math

import numpy as np
import pytest

from ssd4rec.evaluation.metrics import hit_rate, mean_with_interval, mrr, ndcg, ndcg_gains

RANKS = np.array([1, 3, 11])


def test_hit_rate_is_the_share_of_ranks_within_the_cutoff():
    """Ranks 1, 3, 11: two of three within 10, one within 1."""
    assert hit_rate(RANKS, 10) == pytest.approx(2 / 3)
    assert hit_rate(RANKS, 1) == pytest.approx(1 / 3)


def test_ndcg_discounts_by_the_logarithm_of_the_rank():
    """Rank 1 earns 1, rank 3 earns 1/log2(4) = 1/2, rank 11 nothing at 10."""
    assert ndcg_gains(RANKS, 10).tolist() == [1.0, 0.5, 0.0]
    assert ndcg(RANKS, 10) == pytest.approx(1.5 / 3)


def test_mrr_is_the_mean_reciprocal_rank():
    """Rank 1 earns 1, rank 3 earns 1/3, rank 11 nothing at 10 and 1/11 at 20."""
    assert mrr(RANKS, 10) == pytest.approx((1 + 1 / 3) / 3)
    assert mrr(RANKS, 20) == pytest.approx((1 + 1 / 3 + 1 / 11) / 3)


@pytest.mark.parametrize("metric", [hit_rate, ndcg, mrr])
def test_no_targets_have_no_figure(metric):
    """A mean over nothing is NaN, without a warning."""
    assert math.isnan(metric(np.array([], dtype=np.int64), 10))


def test_an_interval_is_the_mean_and_1_96_standard_errors():
    """0, 0, 1, 1: mean 0.5, standard deviation 0.5, standard error 0.25."""
    assert mean_with_interval(np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx((0.5, 0.5 - 0.49, 0.5 + 0.49))
