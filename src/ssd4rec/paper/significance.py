"""Paired tests between rows of a table, over the same users."""

from collections.abc import Container, Sequence
from functools import cache
from itertools import product

import numpy as np

from ssd4rec.evaluation.metrics import MONITORED_CUTOFF, MONITORED_METRIC, Ranks, ndcg_gains
from ssd4rec.paper.results import BASELINES, VARIANTS, PairedTest, RankTable, Results, Row, Section, Variant, ranks_of
from ssd4rec.paper.studies import CURVES, DIRECTIONS

RESAMPLES = 2000


def paired_bootstrap(ours: Sequence[Ranks], theirs: Sequence[Ranks]) -> dict[str, float]:
    """Return the mean difference in NDCG@10 over users, with a bootstrap interval; a user's NDCG is its mean over seeds.

    Args:
        ours: Ranks of every user, one array per seed.
        theirs: The same users in the same order; the number of seeds may differ.

    Returns:
        difference, low and high (95 % percentile interval), p (two-sided: twice the share of resamples on the other side of
        0, where the sample itself counts as one more; so at least 2 / (resamples + 1)).

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap"; Davison and Hinkley 1997, "Bootstrap Methods and
    their Application", section 4.2.
    """
    first = np.mean([ndcg_gains(ranks, MONITORED_CUTOFF) for ranks in ours], axis=0)
    second = np.mean([ndcg_gains(ranks, MONITORED_CUTOFF) for ranks in theirs], axis=0)
    return dict(_bootstrap((first - second).astype(np.float64).tobytes()))


@cache  # about a second, and a sweep writes its report after every run
def _bootstrap(differences: bytes) -> dict[str, float]:
    difference = np.frombuffer(differences)
    rng = np.random.default_rng(2024)
    users = len(difference)
    means = np.array([difference[rng.integers(0, users, users)].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    beyond = 1 + min(int(np.sum(means <= 0)), int(np.sum(means >= 0)))
    return {"difference": float(difference.mean()), "low": low, "high": high, "p": min(1.0, 2 * beyond / (RESAMPLES + 1))}


def add_tests(results: Results, identities: Container[tuple[object, ...]], ranks: RankTable) -> Results:
    """Return results with the paired tests of the given sections, as far as ranks are available."""
    sections = (_tested(each, ranks) if each.identity in identities else each for each in results.sections)
    return results.model_copy(update={"sections": tuple(sections)})


def _tested(section: Section, ranks: RankTable) -> Section:
    finished = [row for row in section.rows if row.finished]
    tests = {(row.model, row.label): _tests(row, _compared_with(row, finished, section.study), ranks) for row in finished}
    rows = tuple(row.model_copy(update={"tests": tests.get((row.model, row.label), ())}) for row in section.rows)
    return section.model_copy(update={"rows": rows})


def _compared_with(row: Row, rows: Sequence[Row], study: str) -> list[Row]:
    """Return the full model in an ablation, the best other models in accuracy.

    On a curve: its start (0, or whole sequences), and the same point of the first curve.
    """
    if study == "accuracy":
        return _best_others(row, rows)
    if study in CURVES:
        start = [each for each in rows if each.model == row.model and not each.x]
        first = [each for each in rows if each.model == rows[0].model and each.x == row.x]
        return [each for each in (*start, *first) if each is not row]
    return [each for each in rows if study == "ablation" and each.label == "SSD4Rec" and each is not row]


def _best_others(row: Row, rows: Sequence[Row]) -> list[Row]:
    """For our rows: the best other model and the best trained one; for the first of ours also Mamba4Rec and the rest of ours."""
    ours = [each for each in rows if each.model in DIRECTIONS]
    others = [each for each in rows if each.model not in DIRECTIONS]
    trained = [each for each in others if each.model not in BASELINES]
    if row not in ours:
        return []
    best = [max(among, key=lambda each: each.test[MONITORED_METRIC].mean) for among in (others, trained) if among]
    if row is ours[0]:
        best += [*ours[1:], *(each for each in trained if each.model == "mamba4rec")]
    return list({each.label: each for each in best}.values())


def _tests(row: Row, others: Sequence[Row], ranks: RankTable) -> tuple[PairedTest, ...]:
    def ranked(each: Row, variant: Variant) -> list[Ranks]:
        return [ranks_of(run, variant, ranks) for run in each.finished]

    return tuple(
        PairedTest(
            baseline=other.model if other.label == row.label else other.label,
            variant=variant,
            **paired_bootstrap(ranked(row, variant), ranked(other, variant)),
        )
        for other, variant in product(others, VARIANTS)
        if all((run.key, variant) in ranks for run in (*row.finished, *other.finished))
    )
