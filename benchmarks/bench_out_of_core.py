"""Compare three engines that build sequences from more events than memory holds.

python benchmarks/make_log.py --events 20000000 --out log.parquet
python benchmarks/bench_out_of_core.py log.parquet --memory 1000000000 --limit 1500000000 --engines ours duckdb polars

Every engine runs in a process of its own under a limit of its address space (`ulimit -v`), reads the same Parquet file, numbers
users and items by first appearance, takes the 5-core, sorts each user's events by time and row, and writes the same arrays.
Their SHA-256 shows whether the results are equal. DuckDB needs `pip install duckdb`.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

K = 5
ENGINES = ("ours", "duckdb", "polars")


def build_ours(log: Path, out: Path, memory: int) -> None:
    """Radix partition by user, sort in memory: `ssd4rec data build`."""
    from ssd4rec.data.out_of_core.memory import reserve_little

    reserve_little()
    from ssd4rec.data.out_of_core.build import build_folder

    build_folder([log], out / "folder", memory=memory, min_interactions=K)


def build_duckdb(log: Path, out: Path, memory: int) -> None:
    """Group by and order by in SQL; DuckDB spills to disk."""
    import duckdb

    db = duckdb.connect(str(out / "events.duckdb"))
    db.execute(f"SET memory_limit='{memory // 10**6 * 6 // 10}MB'; SET threads=2; SET temp_directory='{out / 'spill'}'")
    db.execute("SET preserve_insertion_order=false")
    db.execute(
        f"""CREATE TABLE log AS SELECT user_id, item_id, timestamp AS time, file_row_number AS row
        FROM read_parquet('{log}', file_row_number=true)"""
    )
    for role in ("user", "item"):
        db.execute(
            f"""CREATE TABLE {role}s AS SELECT {role}_id, (row_number() OVER (ORDER BY first))::INTEGER AS code
            FROM (SELECT {role}_id, min(row) AS first FROM log GROUP BY {role}_id)"""
        )
    db.execute(
        """CREATE TABLE kept AS SELECT users.code AS user, items.code AS item, time, row
        FROM log JOIN users USING (user_id) JOIN items USING (item_id)"""
    )
    db.execute("DROP TABLE log")
    while True:
        before = db.execute("SELECT count(*) FROM kept").fetchone()[0]
        db.execute(
            f"""CREATE OR REPLACE TABLE kept AS SELECT * FROM kept
            WHERE user IN (SELECT user FROM kept GROUP BY user HAVING count(*) >= {K})
            AND item IN (SELECT item FROM kept GROUP BY item HAVING count(*) >= {K})"""
        )
        if db.execute("SELECT count(*) FROM kept").fetchone()[0] == before:
            break
    db.execute(
        "CREATE TABLE new_items AS SELECT item, row_number() OVER (ORDER BY item) AS new FROM (SELECT DISTINCT item FROM kept)"
    )
    reader = db.sql(
        "SELECT user, new::INTEGER AS item, time FROM kept JOIN new_items USING (item) ORDER BY user, time, row"
    ).to_arrow_reader(100_000)
    counts = np.zeros(0, dtype=np.int64)
    with (out / "items.bin").open("wb") as items, (out / "times.bin").open("wb") as times:
        for batch in reader:
            items.write(batch["item"].to_numpy().astype(np.int32).data)
            times.write(batch["time"].to_numpy().astype(np.int64).data)
            more = np.bincount(batch["user"].to_numpy())
            counts = np.pad(counts, (0, max(len(more) - len(counts), 0)))
            counts[: len(more)] += more
    np.save(out / "lengths.npy", counts[counts > 0])


def build_polars(log: Path, out: Path, memory: int) -> None:
    """Polars' streaming engine: sink the sorted events to Parquet."""
    import polars as pl

    del memory  # polars has no limit to set
    events = pl.scan_parquet(log, row_index_name="row").rename({"timestamp": "time"})
    codes = {}
    for role in ("user", "item"):
        firsts = events.group_by(f"{role}_id").agg(pl.col("row").min()).collect(engine="streaming")
        codes[role] = firsts.sort("row").with_row_index(role).select(f"{role}_id", role)
    coded = events.join(codes["user"].lazy(), on="user_id").join(codes["item"].lazy(), on="item_id")
    coded.select("user", "item", "time", "row").sink_parquet(out / "coded.parquet", engine="streaming")
    path, number = out / "coded.parquet", 0
    while True:
        rows_left = pl.scan_parquet(path)
        users = rows_left.group_by("user").len().filter(pl.col("len") >= K)
        items = rows_left.group_by("item").len().filter(pl.col("len") >= K)
        number += 1
        new = out / f"kept-{number}.parquet"
        rows_left.join(users, on="user", how="semi").join(items, on="item", how="semi").sink_parquet(new, engine="streaming")
        rows = [pl.scan_parquet(each).select(pl.len()).collect().item() for each in (path, new)]
        path = new
        if rows[0] == rows[1]:
            break
    core = pl.scan_parquet(path)
    new_items = core.select("item").unique().sort("item").with_row_index("new", offset=1).collect(engine="streaming")
    ordered = core.join(new_items.lazy(), on="item").sort("user", "time", "row").select("user", "new", "time")
    ordered.sink_parquet(out / "sorted.parquet", engine="streaming")
    done = pl.scan_parquet(out / "sorted.parquet")
    lengths = done.group_by("user").len().sort("user").collect(engine="streaming")["len"].to_numpy().astype(np.int64)
    np.save(out / "lengths.npy", lengths)
    import pyarrow.parquet as pq

    with (out / "items.bin").open("wb") as items, (out / "times.bin").open("wb") as times:
        for batch in pq.ParquetFile(out / "sorted.parquet").iter_batches(100_000):
            items.write(batch["new"].to_numpy().astype(np.int32).data)
            times.write(batch["time"].to_numpy().astype(np.int64).data)


def digest_of(out: Path) -> str:
    """Return a SHA-256 over items, times and lengths, however an engine wrote them."""
    digest = hashlib.sha256()
    if (out / "folder").is_dir():
        offsets = np.load(out / "folder" / "offsets.npy")
        arrays = [np.load(out / "folder" / f"{name}.npy", mmap_mode="r") for name in ("items", "times")]
        lengths = np.diff(offsets)
    else:
        arrays = [np.memmap(out / "items.bin", np.int32, "r"), np.memmap(out / "times.bin", np.int64, "r")]
        lengths = np.load(out / "lengths.npy")
    for array in (*arrays, lengths):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def run_limited(engine: str, log: Path, memory: int, limit: int) -> dict[str, object]:
    """Run one engine in a process of its own under a limit of its address space."""
    with tempfile.TemporaryDirectory(dir=log.parent) as folder:
        out = Path(folder)
        began = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.run(
            [sys.executable, __file__, str(log), "--memory", str(memory), "--run", engine, "--out", folder],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
            capture_output=True,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        lines = process.stderr.strip().splitlines()
        return {
            "engine": engine,
            "exit code": process.returncode,
            "wall seconds": round(time.monotonic() - began, 1),
            "cpu seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
            "peak MB": round(int(process.stdout.split()[-1]) / 1000) if process.returncode == 0 else None,
            "result": digest_of(out) if process.returncode == 0 else " ".join(lines[-4:])[:300],
        }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--memory", type=int, required=True, help="the limit given to each engine, in bytes")
    parser.add_argument("--limit", type=int, default=0, help="of the address space, in bytes")
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    parser.add_argument("--run", choices=ENGINES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.run:
        {"ours": build_ours, "duckdb": build_duckdb, "polars": build_polars}[arguments.run](
            arguments.log, arguments.out, arguments.memory
        )
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    for engine in arguments.engines:
        print(json.dumps(run_limited(engine, arguments.log, arguments.memory, arguments.limit)), flush=True)


if __name__ == "__main__":
    main()
