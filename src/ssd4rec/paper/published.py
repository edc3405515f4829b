"""Published figures, with where they come from and how sure that is.

Grades: A, read in code or logs; B, a careful transcription; C, one third-party source. Each row names its source.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

METRICS = ("ndcg@10", "ndcg@20", "mrr@10", "mrr@20", "hr@10", "hr@20")


@dataclass(frozen=True)
class Published:
    """One row of somebody's table."""

    figures: Mapping[str, float]
    grade: str
    source: str
    exclude_seen: bool = False  # of the protocol; results with and without cannot be compared


def _row(source: str, grade: str, *values: float | None) -> Published:
    figures = {name: value for name, value in zip(METRICS, values, strict=True) if value is not None}
    return Published(figures, grade, source)


def _two(source: str, ndcg: float, hit_rate: float) -> Published:
    return Published({"ndcg@10": ndcg, "hr@10": hit_rate}, "C", source)


PAPER = "SSD4Rec paper, Table 4"
CITED = "a third party's citation of the SSD4Rec paper"
OTHERS = "other papers under the same protocol"
HSTU = "HSTU's own paper"
SIGMA_RANGE = "the higher of two published rows (.1831-.1851 / .3136-.3187)"

PUBLISHED: Mapping[str, Mapping[str, Published]] = {
    "kuairand-pure": {
        "caser": _row(PAPER, "B", 0.0545, 0.0692, 0.0414, 0.0453, 0.0982, 0.1571),
        "gru4rec": _row(PAPER, "B", 0.0563, 0.0722, 0.0426, 0.0470, 0.1017, 0.1653),
        "bert4rec": _row(PAPER, "B", 0.0534, 0.0683, 0.0404, 0.0444, 0.0968, 0.1563),
        "sasrec": _row(PAPER, "B", 0.0567, 0.0733, 0.0426, 0.0471, 0.1040, 0.1705),
        "mamba4rec": _row(PAPER, "B", 0.0558, 0.0710, 0.0427, 0.0468, 0.0994, 0.1601),
        "sigma": _row(PAPER, "B", 0.0572, 0.0727, 0.0433, 0.0475, 0.1036, 0.1655),
        "ssd4rec": _row(PAPER, "B", 0.0593, 0.0757, 0.0448, 0.0493, 0.1075, 0.1731),
        "authors' code, re-run": _row("a third party's log", "A", 0.0576, 0.0739, None, None, 0.1032, 0.1683),
        "tim4rec": _row("TiM4Rec's own paper", "B", 0.0611, 0.0779, 0.0463, 0.0508, 0.1109, 0.1774),
    },
    "amazon-beauty": {
        "ssd4rec": _row(CITED, "C", 0.0477, 0.0543, 0.0392, 0.0411, 0.0751, 0.1015),
        "sasrec": _two(CITED, 0.0447, 0.0845),
        "mamba4rec": _two(CITED, 0.0417, 0.0681),
    },
    "amazon-video-games": {
        "ssd4rec": _row(CITED, "C", 0.0610, 0.0742, 0.0458, 0.0494, 0.1113, 0.1636),
        "sasrec": _two(CITED, 0.0569, 0.1124),
        "sigma": _two(CITED, 0.0612, 0.1152),
    },
    "ml-1m": {
        "mamba4rec": _two(OTHERS, 0.1822, 0.3121),
        "sigma": _two(SIGMA_RANGE, 0.1851, 0.3187),
        "sasrec": _two(OTHERS, 0.1687, 0.2977),
        "bert4rec": _two(OTHERS, 0.1674, 0.2958),
        "gru4rec": _two(OTHERS, 0.1642, 0.2934),
        "caser": _two(OTHERS, 0.1283, 0.2399),
        "lrurec": _two(OTHERS, 0.1772, 0.3057),
        "hstu": replace(_two(HSTU, 0.1720, 0.3097), exclude_seen=True),
        "hstu-large": replace(_two(HSTU, 0.1893, 0.3294), exclude_seen=True),
    },
}


def published_row(data: str | None, model: str, *, exclude_seen: bool) -> Published | None:
    """The published row under the same protocol that a model of ours stands beside.

    Both of SSD4Rec's wirings that read backwards share the paper's; forwards only is a network that nobody published.
    """
    name = "ssd4rec" if model == "ssd4rec-all" else model
    row = PUBLISHED.get(data or "", {}).get(name)
    return row if row is not None and row.exclude_seen == exclude_seen else None


def highest_published(data: str | None, *, exclude_seen: bool) -> tuple[str, float] | None:
    """Whose NDCG@10 is the highest in print under this protocol, and what it is; None: nothing is published."""
    rows = {
        name: row.figures["ndcg@10"] for name, row in PUBLISHED.get(data or "", {}).items() if row.exclude_seen == exclude_seen
    }
    return max(rows.items(), key=lambda entry: entry[1]) if rows else None
