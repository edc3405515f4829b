"""How long does it take, and how much memory, to read, filter and lay out a large Parquet file of interactions?

Run: python benchmarks/bench_data.py [--rows 10000000] [--users 200000] [--items 100000] [--threads 2]

The file is made up (activity and popularity fall off as in real logs), the pipeline runs in a fresh process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECONDS_ALLOWED, BYTES_ALLOWED = 60, 2 * 10**9


def main() -> None:
    """Make the file, measure the pipeline, print a table and one JSON line."""
    arguments = _arguments()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure))))
        return
    if arguments.write:
        write_interactions(Path(arguments.write), arguments.rows, arguments.users, arguments.items, text_ids=arguments.text_ids)
        return
    environment = {**os.environ, "POLARS_MAX_THREADS": str(arguments.threads), "OMP_NUM_THREADS": str(arguments.threads)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.parquet"
        # Both in processes of their own: on Linux a child's peak memory begins at its parent's.
        subprocess.run([sys.executable, *sys.argv, "--write", str(path)], env=environment, check=True)
        megabytes = path.stat().st_size / 1e6
        command = [sys.executable, __file__, "--measure", str(path)]
        measured = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    from common import publish  # imports torch, which must not count in the measurement

    counts, seconds = measured["kept"], measured["seconds"]
    row = {
        "rows": f"{arguments.rows:,}",
        "ids": "text" if arguments.text_ids else "integers",
        "file": f"{megabytes:.0f} MB",
        "kept": f"{counts['interactions']:,} of {counts['users']:,} users and {counts['items']:,} items",
        **{name: f"{spent:.2f} s" for name, spent in seconds.items()},
        "peak": f"{measured['peak_bytes'] / 1e9:.2f} GB",
        "after imports": f"{measured['imported_bytes'] / 1e9:.2f} GB",
    }
    publish("bench_data", [row], arguments)
    if seconds["all"] > SECONDS_ALLOWED or measured["peak_bytes"] > BYTES_ALLOWED:
        sys.exit(f"over the limit of {SECONDS_ALLOWED} s or {BYTES_ALLOWED / 1e9:.0f} GB")


def write_interactions(path: Path, rows: int, users: int, items: int, *, text_ids: bool) -> None:
    """Write a made-up log: ids as numbers or text, times in seconds, rows in no order."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(2024)
    frame = pl.DataFrame(
        {
            "user_id": _skewed(rng, users, rows, 0.9),
            "item_id": _skewed(rng, items, rows, 1.1),
            "timestamp": rng.integers(1_600_000_000, 1_700_000_000, rows),
        }
    )
    if text_ids:
        frame = frame.with_columns(
            pl.format("user-{}", "user_id").alias("user_id"), pl.format("item-{}", "item_id").alias("item_id")
        )
    frame.write_parquet(path)


def measure(path: Path) -> dict[str, Any]:
    """Run the pipeline once; seconds a stage and the peak resident memory of this process."""
    start = time.perf_counter()
    from ssd4rec.data.interactions import read_interactions
    from ssd4rec.data.sequences import build_sequences
    from ssd4rec.data.split import leave_last_out

    marks = {"import": time.perf_counter()}
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    interactions = read_interactions(path)
    marks["read"] = time.perf_counter()
    histories, catalog = build_sequences(interactions, min_interactions=5)
    marks["filter and lay out"] = time.perf_counter()
    split = leave_last_out(histories)
    marks["split"] = time.perf_counter()
    seconds, before = {}, start
    for name, mark in marks.items():
        seconds[name], before = round(mark - before, 2), mark
    return {
        "kept": {"users": histories.kept.users, "items": len(catalog), "interactions": histories.kept.interactions},
        "rounds": histories.filtering.rounds,
        "targets": split.train.targets,
        "seconds": {**seconds, "all": round(before - start, 2)},
        "imported_bytes": imported * 1024,  # ru_maxrss counts kilobytes on Linux
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _skewed(rng: Any, choices: int, rows: int, exponent: float) -> Any:
    """Return draws with weights 1 / rank^exponent, the ranks in no order."""
    import numpy as np

    edges = np.cumsum(1.0 / np.arange(1, choices + 1) ** exponent)
    ranks = np.searchsorted(edges, rng.random(rows) * edges[-1])
    return rng.permutation(choices)[ranks]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write results/<bench>_<machine>_<date>.{md,json}")
    parser.add_argument("--text-ids", action="store_true", help="ids such as user-17 instead of 17")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
