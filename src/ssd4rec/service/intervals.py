"""Intervals and tests for shares and paired differences, at 95 %."""

import math
from typing import NamedTuple

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution

Interval = tuple[float, float]


def wilson(successes: int, trials: int) -> Interval:
    """Return the score interval of a share (Wilson, 1927); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, Z * Z
    center = share + square / (2 * trials)
    spread = Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    scale = 1 + square / trials
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> Interval:
    """Return the interval of the second share minus the first, each of successes and trials (Newcombe, 1998, method 10)."""
    one, two = (0.0 if not trials else successes / trials for successes, trials in (first, second))
    (low_one, high_one), (low_two, high_two) = wilson(*first), wilson(*second)
    down = math.hypot(two - low_two, high_one - one)
    up = math.hypot(high_two - two, one - low_one)
    return two - one - down, two - one + up


class Paired(NamedTuple):
    """The mean of paired differences."""

    mean: float
    interval: Interval
    p_value: float  # two-sided, of the hypothesis that the mean is 0


def paired(count: int, total: float, squares: float) -> Paired | None:
    """Test the mean of paired differences, from their count, sum and sum of squares, by a normal approximation.

    None: there are fewer than two pairs.
    """
    if count < 2:
        return None
    mean = total / count
    variance = max(0.0, squares - count * mean * mean) / (count - 1)
    error = math.sqrt(variance / count)
    if not error:
        return Paired(mean, (mean, mean), 1.0 if not mean else 0.0)
    return Paired(mean, (mean - Z * error, mean + Z * error), math.erfc(abs(mean) / error / math.sqrt(2)))
