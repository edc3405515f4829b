"""A batch job as plain values, which any process can open."""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ssd4rec.config import DataConfig
from ssd4rec.data.interactions import Columns
from ssd4rec.data.options import ReadOptions, options_of
from ssd4rec.data.request_times import check_clock
from ssd4rec.serving.arrow import USERS_AT_ONCE, ArrowRecommender, BatchOptions
from ssd4rec.serving.parts import USERS_PER_PART, PartsFolder
from ssd4rec.serving.sources import open_source

FILTERS = ("where", "min_rating", "drop_missing", "duplicates")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A batch job as a worker needs it: everything is a path or a plain value. Paths must be the same on all machines."""

    model: str
    users: str
    out: str
    options: BatchOptions
    columns: Columns = field(default_factory=Columns)
    users_per_part: int = USERS_PER_PART
    device: str = "cpu"

    def open(self) -> PartsFolder:
        """Load the model, open the source and join the output folder."""
        if self.device == "cpu":
            torch.set_num_threads(1)  # a worker a core; sums in one order, whoever computes them
        recommender = ArrowRecommender(self.model, self.options, self.device)
        artifact = recommender.recommender.artifact
        columns = _remembered(self.columns, artifact.config.data)
        source = open_source(self.users, columns, artifact.catalog, artifact.config.data.tie_order)
        if self.options.at is not None:
            check_clock(source.clock)
        if self.options.retrieval == "approximate":
            logger.warning(recommender.measure(source.batch(0, min(USERS_AT_ONCE, len(source)))))
        return PartsFolder(self.out, recommender, source, self.users_per_part)


def _remembered(columns: Columns, data: DataConfig) -> Columns:
    """Return column names, those of the training where none are passed; warn about filters of the training."""
    options = asdict(options_of(data))
    filters = [name for name in FILTERS if options[name] != asdict(ReadOptions())[name]]
    if filters:
        logger.warning(
            "the model was trained with %s, which a folder of parts does not apply; filter the data before, or write one file",
            ", ".join(f"data.{name} = {options[name]!r}" for name in filters),
        )
    return Columns(columns.user or data.user, columns.item or data.item, columns.time or data.time)


def make_job(model: str | Path, users: str | Path, out: str | Path, options: BatchOptions, **others: Any) -> Job:
    """Return a job whose paths do not depend on the working folder."""
    model_path, users_path, out_path = (str(Path(each).resolve()) for each in (model, users, out))
    return Job(model_path, users_path, out_path, options, **others)
