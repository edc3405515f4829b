"""What does an item table cost in memory and time when it is spread over processes?

Trains SSD4Rec's item table, with a sampled softmax and row-wise Adagrad, on synthetic histories with Zipf items; each process
measures its own memory before and after.

python benchmarks/bench_sharded_table.py --items 1000000 --processes 1 2 --threads 1 --save
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from common import arguments, publish

WIDTH, EVENTS, NEGATIVES, STEPS = 64, 8192, 4096, 10


def main() -> None:
    """Print the table, or be one of the processes."""
    if "RANK" in os.environ:
        work(int(os.environ["BENCH_ITEMS"]))
        return
    options = arguments(__doc__, add_options)
    rows = [measure(options.items, processes, options.threads) for processes in options.processes]
    notes = [
        f"D = {WIDTH}, {EVENTS} events a step over all processes, {NEGATIVES} negatives; bytes an item: table and optimizer "
        "of the process that has most; memory: what a process added until its peak"
    ]
    publish("bench_sharded_table", rows, options, notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes."""
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])


def measure(items: int, processes: int, threads: int) -> dict[str, Any]:
    """Run a group of processes; return the row of the table."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {
        "BENCH_ITEMS": str(items), "OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
    }  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, __file__], env={**os.environ, **group, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(processes)
    ]
    results = [json.loads(worker.communicate()[0]) for worker in workers]
    most = max(results, key=lambda each: each["table"])
    return {
        "items": f"{items:,}",
        "processes": processes,
        "table and optimizer": f"{most['table'] / 1e6:.0f} MB",
        "bytes an item": f"{most['table'] / items:.0f}",
        "memory added": f"{max(each['added'] for each in results) / 1e6:.0f} MB",
        "step": f"{max(each['seconds'] for each in results):.2f} s",
        "loss": f"{results[0]['losses'][0]:.4f} … {results[0]['losses'][-1]:.4f}",
    }


def work(items: int) -> None:
    """Train for some steps; print what it took."""
    from ssd4rec.config import SSD4RecConfig
    from ssd4rec.distributed import process_group
    from ssd4rec.models.ssd4rec import SSD4Rec
    from ssd4rec.sharded_table import RowAdagrad, ShardedTable

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with process_group() as world:
        before = resident()
        table = ShardedTable(items, WIDTH, world)
        torch.manual_seed(0)
        backbone = SSD4Rec(SSD4RecConfig(width=WIDTH))
        rows = RowAdagrad([table.weight])
        dense = torch.optim.Adam(backbone.parameters(), lr=1e-3)
        losses, seconds = [], []
        length = EVENTS // world.size
        edges = torch.arange(0, length + 1, 64).clamp(max=length).unique()
        popularity = torch.arange(1, items + 1, dtype=torch.float64).pow(-1.05).cumsum(0)
        for step in range(STEPS):
            torch.manual_seed(step)
            sequence = torch.searchsorted(popularity, torch.rand(EVENTS + 1, dtype=torch.float64) * popularity[-1]) + 1
            sequence = sequence.clamp(max=items)[world.rank * length : (world.rank + 1) * length + 1]
            began = time.perf_counter()
            states = backbone.encode_prefixes(table(sequence[:-1]), edges)
            loss = table.sampled_cross_entropy(states, sequence[1:], NEGATIVES)
            rows.zero_grad()
            dense.zero_grad()
            loss.backward()
            world.sum_([parameter.grad for parameter in backbone.parameters() if parameter.grad is not None])
            rows.step()
            dense.step()
            seconds.append(time.perf_counter() - began)
            reported = loss.detach().clone()
            world.sum_([reported])
            losses.append(float(reported))
        table_bytes = table.weight.nbytes + rows.state[table.weight]["sum"].nbytes
        added = resident("VmHWM") - before
        print(json.dumps({"table": table_bytes, "added": added, "seconds": sorted(seconds)[len(seconds) // 2], "losses": losses}))


def resident(name: str = "VmRSS") -> int:
    """Return the resident memory of this process, or its peak, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
