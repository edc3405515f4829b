"""Write a synthetic but realistic log of interactions: Zipf items, log-normal numbers of events a user, bursts in time.

python benchmarks/make_log.py --events 20000000 --out log.parquet
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MEAN_EVENTS = 50  # a user
SIGMA = 1.2  # of the logarithm of a user's events
EXPONENT = 1.05  # of Zipf's law over items
BURSTS = 8  # of a user; within a burst seconds pass, between bursts weeks
SECONDS_A_BURST = 360
BLOCK = 1 << 20  # rows of a row group
FIRST, LAST = 1_577_836_800, 1_704_067_200  # 2020-01-01 to 2024-01-01


def draw_users(events: int, rng: np.random.Generator) -> np.ndarray:
    """Return the user of each event, in no order: log-normal numbers of events."""
    users = max(events // MEAN_EVENTS, 1)
    weights = rng.lognormal(0.0, SIGMA, users)
    return np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(events)).astype(np.int32).clip(0, users - 1)


def draw_items(events: int, rng: np.random.Generator) -> np.ndarray:
    """Return the item of each event: a tenth as many items as users, at least 1,000, by Zipf's law."""
    items = max(events // MEAN_EVENTS // 10, 1_000)
    cumulative = np.cumsum(np.arange(1, items + 1, dtype=np.float64) ** -EXPONENT)
    popularity = np.searchsorted(cumulative / cumulative[-1], rng.random(events)).clip(0, items - 1)
    return rng.permutation(items).astype(np.int32)[popularity]


def draw_times(users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the time of each event: bursts of a user begin anywhere, their events are seconds apart."""
    user_count = np.max(users) + 1
    begins = rng.integers(0, LAST - FIRST, (user_count, BURSTS))
    return FIRST + begins[users, rng.integers(0, BURSTS, len(users))] + rng.integers(0, SECONDS_A_BURST, len(users))


def write_log(path: Path, events: int, seed: int) -> None:
    """Write the log in the order of time, with text ids of users and items."""
    rng = np.random.default_rng(seed)
    users = draw_users(events, rng)
    items = draw_items(events, rng)
    times = draw_times(users, rng)
    order = np.argsort(times, kind="stable")
    schema = pa.schema({"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, events, BLOCK):
            rows = order[start : start + BLOCK]
            columns = [
                pc.binary_join_element_wise("u", pc.cast(pa.array(users[rows]), pa.string()), ""),
                pc.binary_join_element_wise("item-", pc.cast(pa.array(items[rows]), pa.string()), ""),
                pa.array(times[rows], pa.int64()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_log(arguments.out, arguments.events, arguments.seed)


if __name__ == "__main__":
    main()
