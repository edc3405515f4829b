"""How long does ranking a large catalog take, and how much memory: 100,000 items, 200,000 users, D=64?

    python benchmarks/bench_evaluation.py [--users 200000]

The model is untrained: ranking costs the same. Measured in this process, which does nothing else.
"""

import argparse
import resource
import time

import numpy as np
import polars as pl
import torch

from common import publish
from ssd4rec.config import Config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.split import training_counts
from ssd4rec.models.next_item import make_model
from ssd4rec.pipeline import evaluate, prepare

ITEMS, EVENTS_A_USER = 100_000, 20


def main() -> None:
    """Print one row: seconds, users a second, peak memory before and after ranking."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = Config.model_validate({"data": {"min_interactions": 1}})
    data = prepare(read_interactions(_table(options.users)), None, config)
    model = make_model(config, len(data.catalog))
    counts = training_counts(data.histories, data.split.train, len(data.catalog))
    before, began = _peak(), time.perf_counter()
    ranking = evaluate(model, data, config, counts)
    seconds = time.perf_counter() - began
    row = {
        "users": len(ranking.ranks),
        "items": len(data.catalog),
        "seconds": f"{seconds:.0f}",
        "users/s": f"{len(ranking.ranks) / seconds:.0f}",
        "peak before": f"{before:.2f} GB",
        "peak": f"{_peak():.2f} GB",
    }
    publish("bench_evaluation", [row], options)


def _table(users: int) -> pl.DataFrame:
    random = np.random.default_rng(0)
    events = users * EVENTS_A_USER
    return pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), EVENTS_A_USER),
            "item_id": np.concatenate([np.arange(ITEMS), random.integers(0, ITEMS, max(events - ITEMS, 0))])[:events],
            "timestamp": np.arange(events),
        }
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts KiB


if __name__ == "__main__":
    main()
