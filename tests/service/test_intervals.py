"""Intervals and tests against values from the literature and slow definitions."""

import math
import random

import numpy as np
import pytest

from ssd4rec.service.intervals import newcombe, paired, wilson


def test_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    # Newcombe (1998), Statistics in Medicine 17:857, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for (successes, trials), expected in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(successes, trials) == pytest.approx(expected, abs=5e-5)


def test_newcombe() -> None:
    # Newcombe (1998), Statistics in Medicine 17:873, table II, method 10: 56/70 - 48/80 and 9/10 - 3/10
    assert newcombe((48, 80), (56, 70)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe((3, 10), (9, 10)) == pytest.approx((0.1705, 0.8090), abs=5e-5)


def test_paired_is_the_test_on_the_differences() -> None:
    assert paired(1, 0.3, 0.09) is None
    differences = np.random.default_rng(0).normal(0.02, 0.3, 500)
    result = paired(500, differences.sum(), (differences**2).sum())
    error = differences.std(ddof=1) / math.sqrt(500)
    assert result.mean == pytest.approx(differences.mean())
    assert result.interval == pytest.approx((differences.mean() - 1.96 * error, differences.mean() + 1.96 * error), abs=1e-5)
    assert paired(10, 0.0, 0.0).p_value == 1.0
    assert paired(10, 5.0, 2.5).p_value == 0.0


def test_paired_rejects_a_true_hypothesis_as_often_as_it_says() -> None:
    chance, rejected = random.Random(0), 0  # noqa: S311 - not a secret
    for _ in range(1000):
        values = [chance.gauss(0.0, 1.0) for _ in range(60)]
        rejected += paired(60, sum(values), sum(value * value for value in values)).p_value < 0.05
    assert 30 <= rejected <= 75
