"""Whether one model is better than another for the same users, and which rows of a table are asked."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ssd4rec.errors import DataError
from ssd4rec.evaluation.metrics import CUTOFF, WATCHED, Ranks, gains
from ssd4rec.reproduce.runs import RANKS, RESULT, ranks_of
from ssd4rec.reproduce.studies import COUNTED, WIRINGS

RESAMPLES = 2000


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
    mine = np.mean([gains(ranks, CUTOFF) for ranks in ours], axis=0)
    other = np.mean([gains(ranks, CUTOFF) for ranks in theirs], axis=0)
    return dict(_resampled((mine - other).astype(np.float64).tobytes()))


@cache  # a second of a core, and a sweep rewrites its report after every run
def _resampled(differences: bytes) -> dict[str, float]:
    difference = np.frombuffer(differences)
    rng = np.random.default_rng(2024)
    users = len(difference)
    means = np.array([difference[rng.integers(0, users, users)].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    p = 2 * min(float(np.mean(means <= 0)), float(np.mean(means >= 0)))
    return {"difference": float(difference.mean()), "low": low, "high": high, "p": min(1.0, max(p, 1 / RESAMPLES))}


def add_tests(rows: Sequence[dict[str, Any]], out: Path, counted: Path) -> None:
    """Beside each wiring of ours: paired tests against the best model that is not ours, and the best of these that is learnt.

    Beside the first wiring also tests against the others, and against Mamba4Rec, which is ours without the backward direction.
    """
    done = [row for row in rows if row["metrics"]]
    ours = [row for row in done if row["model"] in WIRINGS]
    baselines = [row for row in done if row["model"] not in WIRINGS]
    learnt = [row for row in baselines if row["model"] not in COUNTED]
    best = {_best(among)["label"]: _best(among) for among in (baselines, learnt) if among}
    for row in ours:
        more = [*ours[1:], *(other for other in learnt if other["model"] == "mamba4rec")]
        wirings = {other["label"]: other for other in more} if row is ours[0] else {}
        row["against_baselines"] = [
            {"baseline": label, **paired_bootstrap(_ranks(row, out, counted), _ranks(other, out, counted))}
            for label, other in (best | wirings).items()
        ]


def add_worth(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Beside each model with something taken away: a paired test against the whole one."""
    whole, *others = rows
    for row in others:
        if row["metrics"] and whole["metrics"]:
            test = paired_bootstrap(_ranks(row, out, out), _ranks(whole, out, out))
            row["against_baselines"] = [{"baseline": whole["label"], **test}]


def add_along(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Beside each point of a figure: a paired test against the one without what is varied, or with whole histories."""
    start = next((row for row in rows if not row["x"]), None)
    if start is not None and start["metrics"]:
        add_worth([start, *(row for row in rows if row is not start)], out)


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: float(row["metrics"][WATCHED]["mean"]))


def _ranks(row: Mapping[str, Any], out: Path, counted: Path) -> list[Ranks]:
    if row["model"] in COUNTED:
        return [ranks_of(counted, f"{row['model']}.npy")]
    return [_checked(ranks_of(out / "runs" / seed["key"]), seed, out) for seed in row["seeds"] if seed["state"] == "finished"]


def _checked(ranks: Ranks, seed: Mapping[str, Any], out: Path) -> Ranks:
    """Runs are handed on: that the ranks are of its figures."""
    if len(ranks) != seed["targets"]:
        folder = out / "runs" / seed["key"]
        raise DataError(
            f"{folder / RANKS} holds {len(ranks):,} ranks, {RESULT} beside it says {seed['targets']:,} targets; remove {folder} "
            "and give the command again"
        )
    return ranks
