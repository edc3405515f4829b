"""Published results, each with its source, protocol and number of seeds: the rows of published.csv.

All rows are leave-last-out over the whole catalog. Rows with other candidates (`exclude_seen`), or of models that know the
time of the event they predict (`request_time`), are not comparable with each other.
"""

import csv
from collections.abc import Iterator
from importlib import resources
from typing import Literal

from pydantic import BaseModel

METRICS = ("ndcg@10", "ndcg@20", "mrr@10", "mrr@20", "hr@10", "hr@20")


class Published(BaseModel):
    """One row of a published table."""

    data: str  # a named data set
    model: str
    metrics: dict[str, float]
    exclude_seen: bool = False  # whether items of the history are excluded from the candidates
    request_time: bool = False  # whether the model is given the time of the event it predicts
    seeds: int | None = None  # None: the source does not say
    grade: Literal["A", "B", "C"]  # A: read in code or logs; B: transcribed from the paper's own table; C: a third-party source
    source: str


def _read_rows() -> Iterator[Published]:
    text = resources.files("ssd4rec.paper").joinpath("published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        stated = {name: value for name, value in row.items() if value}
        metrics = {name: stated.pop(name) for name in METRICS if name in stated}
        yield Published.model_validate({**stated, "metrics": metrics})


PUBLISHED = tuple(_read_rows())


def published_rows(data: str | None, model: str | None = None) -> list[Published]:
    """Return the published rows of a data set, or those of one model.

    SSD4Rec's variants with a backward direction share the paper's rows. Nobody published the variant without one.
    """
    name = "ssd4rec" if model == "ssd4rec-all" else model
    return [row for row in PUBLISHED if row.data == data and name in (None, row.model)]


def highest_published(data: str | None, *, exclude_seen: bool) -> Published | None:
    """Return the row with the highest NDCG@10 under one protocol, among models without the request time."""
    rows = [row for row in published_rows(data) if row.exclude_seen == exclude_seen and not row.request_time]
    return max(rows, key=lambda row: row.metrics["ndcg@10"], default=None)
