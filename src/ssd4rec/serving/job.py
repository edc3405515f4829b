"""A batch job as plain values, which any process can open."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ssd4rec.data.interactions import Columns
from ssd4rec.serving.arrow import ArrowRecommender, BatchOptions
from ssd4rec.serving.parts import USERS_PER_PART, PartsFolder
from ssd4rec.serving.sources import open_source


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
        source = open_source(self.users, self.columns, artifact.catalog, artifact.config.data.tie_order)
        return PartsFolder(self.out, recommender, source, self.users_per_part)


def make_job(model: str | Path, users: str | Path, out: str | Path, options: BatchOptions, **others: Any) -> Job:
    """Return a job whose paths do not depend on the working folder."""
    model_path, users_path, out_path = (str(Path(each).resolve()) for each in (model, users, out))
    return Job(model_path, users_path, out_path, options, **others)
