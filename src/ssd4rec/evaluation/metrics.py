"""Hit rate, NDCG and MRR of ranks, for one target per sequence.

With one relevant item the ideal ordering puts it first, so that the ideal DCG is 1.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.int64]

MONITORED_CUTOFF = 10  # k of the NDCG that selects the best epoch, fusion and trial
MONITORED_METRIC = f"ndcg@{MONITORED_CUTOFF}"  # its name in reports and logs
Z = 1.96  # of a 95 % interval


def hit_rate(ranks: Ranks, cutoff: int) -> float:
    """Return HR@k: the share of targets with a rank of k or better. No targets: NaN.

    Source: Deshpande and Karypis 2004, "Item-based top-N recommendation algorithms".
    """
    return _mean(ranks <= cutoff)


def ndcg(ranks: Ranks, cutoff: int) -> float:
    """Return NDCG@k: the mean of 1 / log2(rank + 1) where the rank is k or better, else 0. No targets: NaN.

    Source: Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques".
    """
    return _mean(ndcg_gains(ranks, cutoff))


def ndcg_gains(ranks: Ranks, cutoff: int) -> npt.NDArray[np.float64]:
    """Return NDCG@k of each target; `ndcg` is their mean."""
    gains: npt.NDArray[np.float64] = np.where(ranks <= cutoff, 1.0 / np.log2(ranks + 1.0), 0.0)
    return gains


def mean_with_interval(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval, by the normal approximation."""
    mean, half = float(values.mean()), Z * float(values.std()) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def mrr(ranks: Ranks, cutoff: int) -> float:
    """Return MRR@k: the mean of 1 / rank where the rank is k or better, else 0. No targets: NaN.

    Source: Voorhees 1999, "The TREC-8 question answering track report".
    """
    return _mean(np.where(ranks <= cutoff, 1.0 / ranks, 0.0))


# Every metric of a report, by its name there; a metric added here is reported at every cutoff.
METRICS: Mapping[str, Callable[[Ranks, int], float]] = {"hr": hit_rate, "ndcg": ndcg, "mrr": mrr}


def _mean(values: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")
