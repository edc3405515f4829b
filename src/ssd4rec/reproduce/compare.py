"""Whether one model is better than another for the same users."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ssd4rec.evaluation.metrics import Ranks

RESAMPLES = 2000


def ndcg_of_users(ranks: Ranks, cutoff: int = 10) -> npt.NDArray[np.float64]:
    """NDCG@k of each user alone."""
    gains: npt.NDArray[np.float64] = np.where(ranks <= cutoff, 1.0 / np.log2(ranks + 1.0), 0.0)
    return gains


def paired_bootstrap(ours: Sequence[Ranks], theirs: Sequence[Ranks]) -> dict[str, float]:
    """The difference in NDCG@10 over the same users, resampled with replacement; a user's figure is the mean over seeds.

    Args:
        ours: ranks of every user, one array a seed.
        theirs: the same users in the same order; the number of seeds may be another.

    Returns:
        difference, low and high (95 % interval), p (two-sided: twice the share of resamples on the other side of 0, at least
        1 / resamples).

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", percentile interval.
    """
    mine = np.mean([ndcg_of_users(ranks) for ranks in ours], axis=0)
    other = np.mean([ndcg_of_users(ranks) for ranks in theirs], axis=0)
    difference = mine - other
    rng = np.random.default_rng(2024)
    users = len(difference)
    means = np.array([difference[rng.integers(0, users, users)].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    p = 2 * min(float(np.mean(means <= 0)), float(np.mean(means >= 0)))
    return {
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "p": min(1.0, max(p, 1 / RESAMPLES)),
    }
