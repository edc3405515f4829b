"""Whether one model is better than another for the same users, and which rows of a table are asked."""

from collections.abc import Iterable, Sequence
from functools import cache
from math import isclose
from pathlib import Path

import numpy as np

from ssd4rec.errors import DataError
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF, MONITORED_METRIC, Ranks, ndcg, ndcg_gains
from ssd4rec.paper.rows import Finished, PairedTest, Row
from ssd4rec.paper.runs import RANKS, RESULT, ranks_of
from ssd4rec.paper.studies import COUNTED, WIRINGS

RESAMPLES = 2000


def paired_bootstrap(ours: Sequence[Ranks], theirs: Sequence[Ranks]) -> dict[str, float]:
    """The difference in NDCG@10 over the same users, resampled with replacement; a user's figure is the mean over seeds.

    Args:
        ours: ranks of every user, one array a seed.
        theirs: the same users in the same order; the number of seeds may be another.

    Returns:
        difference, low and high (95 % interval), p (two-sided: twice the share of resamples on the other side of 0, what was
        measured counted as one more on that side; so at least 2 / (resamples + 1)).

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", percentile interval; Davison and Hinkley 1997,
    "Bootstrap Methods and their Application", section 4.2 (the one more).
    """
    mine = np.mean([ndcg_gains(ranks, MONITORED_CUTOFF) for ranks in ours], axis=0)
    other = np.mean([ndcg_gains(ranks, MONITORED_CUTOFF) for ranks in theirs], axis=0)
    return dict(_resampled((mine - other).astype(np.float64).tobytes()))


@cache  # a second of a core, and a sweep rewrites its report after every run
def _resampled(differences: bytes) -> dict[str, float]:
    difference = np.frombuffer(differences)
    rng = np.random.default_rng(2024)
    users = len(difference)
    means = np.array([difference[rng.integers(0, users, users)].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    beyond = 1 + min(int(np.sum(means <= 0)), int(np.sum(means >= 0)))
    return {"difference": float(difference.mean()), "low": low, "high": high, "p": min(1.0, 2 * beyond / (RESAMPLES + 1))}


def against_best(rows: Sequence[Row], out: Path, counted: Path) -> list[Row]:
    """The rows, each wiring of ours tested against the best model that is not ours, and the best of these that is learned.

    The first wiring also against the others, and against Mamba4Rec, which is ours without the backward direction.
    """
    done = [row for row in rows if row.metrics]
    ours = [row for row in done if row.model in WIRINGS]
    baselines = [row for row in done if row.model not in WIRINGS]
    learned = [row for row in baselines if row.model not in COUNTED]
    best = {_best(among).label: _best(among) for among in (baselines, learned) if among}
    more = [*ours[1:], *(row for row in learned if row.model == "mamba4rec")]
    against = {row.label: best for row in ours}
    if ours:
        against[ours[0].label] = best | {row.label: row for row in more}
    return [_tested(row, against[row.label].values(), out, counted) if row.label in against else row for row in rows]


def against_whole(rows: Sequence[Row], out: Path) -> list[Row]:
    """The rows, each model with something taken away tested against the whole one."""
    return _against(rows[0], rows, out)


def against_start(rows: Sequence[Row], out: Path) -> list[Row]:
    """The rows, each point of a figure tested against the one without what is varied, or with whole histories."""
    start = next((row for row in rows if not row.x), None)
    return list(rows) if start is None else _against(start, rows, out)


def _against(one: Row, rows: Sequence[Row], out: Path) -> list[Row]:
    return [_tested(row, [one], out, out) if row is not one and row.metrics and one.metrics else row for row in rows]


def _tested(row: Row, others: Iterable[Row], out: Path, counted: Path) -> Row:
    tests = tuple(
        PairedTest(baseline=other.label, **paired_bootstrap(_ranks(row, out, counted), _ranks(other, out, counted)))
        for other in others
    )
    return row.model_copy(update={"against_baselines": tests})


def _best(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: row.metrics[MONITORED_METRIC].mean)


def _ranks(row: Row, out: Path, counted: Path) -> list[Ranks]:
    if row.model in COUNTED:
        return [ranks_of(counted, f"{row.model}.npy")]
    return [_checked(ranks_of(out / "runs" / seed.key), seed, out) for seed in row.finished]


def _checked(ranks: Ranks, seed: Finished, out: Path) -> Ranks:
    """Runs are handed on: that the ranks are of its figures."""
    folder = out / "runs" / seed.key
    held = (f"{len(ranks):,} ranks", f"{seed.targets:,} targets")
    if len(ranks) == seed.targets:
        found, said = ndcg(ranks, MONITORED_CUTOFF), seed.test[MONITORED_METRIC]
        if isclose(found, said, rel_tol=1e-9):
            return ranks
        held = (f"ranks of {MONITORED_METRIC} {found:.6f}", f"{said:.6f}")
    raise DataError(
        f"{folder / RANKS} holds {held[0]}, {RESULT} beside it says {held[1]}; remove {folder} and give the command again"
    )
