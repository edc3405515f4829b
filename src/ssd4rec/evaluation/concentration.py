"""How interactions or recommendations are spread over the catalog: coverage, Lorenz curve, Gini index, popularity groups."""

from dataclasses import dataclass

import numpy as np

from ssd4rec._csr import IntArray

POINTS = 100  # of a Lorenz curve
GROUPS = ("never seen in training", "tail", "middle", "head")


@dataclass(frozen=True)
class Concentration:
    """How counts are spread over the items of a catalog."""

    total: int  # the sum of the counts
    items: int  # items with a count above 0
    coverage: float  # their share of the catalog
    gini: float  # 0: all items have the same count; near 1: one item has all
    lorenz: tuple[tuple[float, float], ...]  # share of the items, smallest counts first, and their share of the total


@dataclass(frozen=True)
class PopularityGroup:
    """Items of similar popularity, and their shares of the interactions and of the recommendations."""

    name: str
    items: int
    consumed: float  # share of the training interactions
    recommended: float  # share of the recommendations


def measure_concentration(counts: IntArray) -> Concentration:
    """Measure how counts are spread over the items.

    Args:
        counts: [V] one count for each item, 0 or more.

    Source: Lorenz 1905 and Gini 1912; for recommendations Adomavicius and Kwon 2012, "Improving aggregate recommendation
    diversity using ranking-based techniques".
    """
    items, total = len(counts), int(counts.sum())
    covered = int(np.count_nonzero(counts))
    if not total:
        return Concentration(0, 0, 0.0, 0.0, ())
    rising = np.sort(counts)
    sums = np.concatenate([[0], np.cumsum(rising)])
    places = np.unique(np.linspace(0, items, min(POINTS, items) + 1).round().astype(np.int64))
    lorenz = tuple(zip((places / items).tolist(), (sums[places] / total).tolist(), strict=True))
    gini = 2 * float(np.arange(1, items + 1) @ rising) / (items * total) - (items + 1) / items
    return Concentration(total, covered, covered / items, gini, lorenz)


def popularity_thirds(counts: IntArray) -> tuple[int, int]:
    """Return the smallest count of the middle and of the head of a catalog.

    Head: the fewest items with a third of the interactions; middle: those up to two thirds; tail: the rest.

    Args:
        counts: [V] training interactions of each item.
    """
    falling = np.sort(counts)[::-1]
    thirds = np.searchsorted(3 * np.cumsum(falling), [falling.sum(), 2 * falling.sum()])
    head, middle = np.maximum(falling[thirds], 1).tolist()
    return middle, head


def popularity_groups(counts: IntArray) -> IntArray:
    """Return the popularity group of each item, an index of `GROUPS`, [V]."""
    middle, head = popularity_thirds(counts)
    groups: IntArray = np.searchsorted([1, middle, head], counts, side="right")
    return groups


def compare_groups(counts: IntArray, recommended: IntArray) -> list[PopularityGroup]:
    """Return the popularity groups that have items, the most popular first.

    Args:
        counts: [V] training interactions of each item.
        recommended: [V] recommendations of each item.
    """
    groups = popularity_groups(counts)
    return [
        PopularityGroup(
            GROUPS[group],
            int((groups == group).sum()),
            float(counts[groups == group].sum() / max(counts.sum(), 1)),
            float(recommended[groups == group].sum() / max(recommended.sum(), 1)),
        )
        for group in range(len(GROUPS) - 1, -1, -1)
        if (groups == group).any()
    ]
