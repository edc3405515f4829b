"""Published results, each with its source, protocol and number of seeds.

Grades: A, read in code or logs; B, transcribed from the paper's own table; C, one third-party source.
All rows are leave-last-out over the whole catalog. Rows with other candidates (`exclude_seen`), or of models that know the
time of the event they predict (`request_time`), are not comparable with each other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

METRICS = ("ndcg@10", "ndcg@20", "mrr@10", "mrr@20", "hr@10", "hr@20")


@dataclass(frozen=True)
class Published:
    """One row of a published table."""

    model: str
    metrics: Mapping[str, float]
    grade: str
    source: str
    exclude_seen: bool = False  # whether items of the history are excluded from the candidates
    request_time: bool = False  # whether the model is given the time of the event it predicts
    seeds: int | None = None  # None: the source does not say


def _row(
    model: str,
    source: str,
    grade: str,
    *values: float | None,
    exclude_seen: bool = False,
    request_time: bool = False,
    seeds: int | None = None,
) -> Published:
    """Make a row from the values of `METRICS`, or of NDCG@10 and HR@10 alone."""
    names = METRICS if len(values) == len(METRICS) else ("ndcg@10", "hr@10")
    metrics = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return Published(model, metrics, grade, source, exclude_seen, request_time, seeds)


PAPER = "SSD4Rec paper, Table 4"
CITED = "a third party's citation of the SSD4Rec paper"
OTHERS = "other papers under the same protocol"
HSTU = "HSTU's own paper"
BSAREC = "BSARec, width 64"
RECBOARD = "RecBoard's re-run"
WEAREC = "WEARec's log, best of many runs by test"

PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "kuairand-pure": (
        _row("caser", PAPER, "B", 0.0545, 0.0692, 0.0414, 0.0453, 0.0982, 0.1571),
        _row("gru4rec", PAPER, "B", 0.0563, 0.0722, 0.0426, 0.0470, 0.1017, 0.1653),
        _row("bert4rec", PAPER, "B", 0.0534, 0.0683, 0.0404, 0.0444, 0.0968, 0.1563),
        _row("sasrec", PAPER, "B", 0.0567, 0.0733, 0.0426, 0.0471, 0.1040, 0.1705),
        _row("mamba4rec", PAPER, "B", 0.0558, 0.0710, 0.0427, 0.0468, 0.0994, 0.1601),
        _row("sigma", PAPER, "B", 0.0572, 0.0727, 0.0433, 0.0475, 0.1036, 0.1655),
        _row("ssd4rec", PAPER, "B", 0.0593, 0.0757, 0.0448, 0.0493, 0.1075, 0.1731),
        _row("ssd4rec, authors' code", "a third party's log", "A", 0.0576, 0.0739, None, None, 0.1032, 0.1683),
        _row("tim4rec", "TiM4Rec's own paper", "B", 0.0611, 0.0779, 0.0463, 0.0508, 0.1109, 0.1774),
    ),
    "amazon-beauty": (
        _row("ssd4rec", CITED, "C", 0.0477, 0.0543, 0.0392, 0.0411, 0.0751, 0.1015),
        _row("sasrec", CITED, "C", 0.0447, 0.0845),
        _row("mamba4rec", CITED, "C", 0.0417, 0.0681),
        _row("wearec", WEAREC, "A", 0.0614, 0.1041, exclude_seen=True),
        _row("bsarec", BSAREC, "C", 0.0611, 0.1008, exclude_seen=True),
        _row("bsarec", RECBOARD, "C", 0.0609, 0.1004, exclude_seen=True, seeds=5),
        _row("sasrec", "the blog of FreeRec's author, full cross-entropy", "C", 0.0595, 0.0990, exclude_seen=True),
    ),
    "amazon-video-games": (
        _row("ssd4rec", CITED, "C", 0.0610, 0.0742, 0.0458, 0.0494, 0.1113, 0.1636),
        _row("sasrec", CITED, "C", 0.0569, 0.1124),
        _row("sigma", CITED, "C", 0.0612, 0.1152),
    ),
    "ml-1m": (
        _row("mamba4rec", OTHERS, "C", 0.1822, 0.3121),
        _row("sigma", "the higher of two published rows (0.1831 and 0.1851)", "C", 0.1851, 0.3187),
        _row("sasrec", OTHERS, "C", 0.1687, 0.2977),
        _row("bert4rec", OTHERS, "C", 0.1674, 0.2958),
        _row("gru4rec", OTHERS, "C", 0.1642, 0.2934),
        _row("caser", OTHERS, "C", 0.1283, 0.2399),
        _row("lrurec", OTHERS, "C", 0.1772, 0.3057),
        _row("lrurec", "LRURec, width 64", "C", 0.1930, 0.3264, exclude_seen=True),
        _row("hstu", HSTU, "C", 0.1720, 0.3097, exclude_seen=True, request_time=True),
        _row("hstu-large", HSTU, "C", 0.1893, 0.3294, exclude_seen=True, request_time=True),
    ),
}


def published_rows(data: str | None, model: str) -> Iterator[Published]:
    """Yield the published rows of a model.

    SSD4Rec's variants with a backward direction share the paper's rows. Nobody published the variant without one.
    """
    name = "ssd4rec" if model == "ssd4rec-all" else model
    return (row for row in PUBLISHED.get(data or "", ()) if row.model == name)


def highest_published(data: str | None, *, exclude_seen: bool) -> Published | None:
    """Return the row with the highest NDCG@10 under one protocol, among models without the request time."""
    rows = [row for row in PUBLISHED.get(data or "", ()) if row.exclude_seen == exclude_seen and not row.request_time]
    return max(rows, key=lambda row: row.metrics["ndcg@10"], default=None)
