"""What does an item table cost in memory and time when it is spread over processes?

Trains SSD4Rec's item table, with a sampled softmax and row-wise Adagrad, on synthetic histories with Zipf items; each process
measures its own memory before and after. With --training, it is `fit` with `training.shard_item_table` instead: an epoch with
Adam on the rows that a step touches, a validation over the whole catalog, and the checkpoints.

python benchmarks/bench_sharded_table.py --items 1000000 --processes 1 2 --threads 1 --save
python benchmarks/bench_sharded_table.py --items 1000000 --processes 2 --threads 1 --training
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

import numpy as np
import torch

from common import arguments, publish

WIDTH, EVENTS, NEGATIVES, STEPS = 64, 8192, 4096, 10
USERS, BUDGET = 1000, 2048  # of a whole training


def main() -> None:
    """Print the table, or be one of the processes."""
    if "RANK" in os.environ:
        (train if os.environ["BENCH_TRAINING"] else work)(int(os.environ["BENCH_ITEMS"]))
        return
    options = arguments(__doc__, add_options)
    rows = [measure(options.items, processes, options.threads, training=options.training) for processes in options.processes]
    notes = [
        f"D = {WIDTH}, {EVENTS} events a step over all processes, {NEGATIVES} negatives; bytes an item: table and optimizer "
        "of the process that has most; memory: what a process added until its peak"
    ]
    if options.training:
        notes = [
            f"D = {WIDTH}, `fit` with {USERS} users of 12 events, {BUDGET} events a step, {NEGATIVES} negatives; "
            "bytes an item: row and two moments; memory: anonymous, beyond that before the model; step: mean of an epoch"
        ]
    publish("bench_sharded_table", rows, options, notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes."""
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--training", action="store_true", help="a whole training with its validation")


def measure(items: int, processes: int, threads: int, *, training: bool) -> dict[str, Any]:
    """Run a group of processes; return the row of the table."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {
        "BENCH_ITEMS": str(items), "OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes), "BENCH_TRAINING": "1" if training else "",
    }  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, __file__], env={**os.environ, **group, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(processes)
    ]
    results = [json.loads(worker.communicate()[0]) for worker in workers]
    most = max(results, key=lambda each: each["table"])
    row = {
        "items": f"{items:,}",
        "processes": processes,
        "table and optimizer": f"{most['table'] / 1e6:.0f} MB",
        "bytes an item": f"{most['table'] / items:.0f}",
        "memory added": f"{max(each['added'] for each in results) / 1e6:.0f} MB",
        "step": f"{max(each['seconds'] for each in results):.2f} s",
        "loss": f"{results[0]['losses'][0]:.4f} … {results[0]['losses'][-1]:.4f}",
    }
    if training:
        row["memory added in the validation"] = f"{max(each['validation'] for each in results) / 1e6:.0f} MB"
        row["validation"] = f"{max(each['validation_seconds'] for each in results):.1f} s of processor time"
    return row


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


def train(items: int) -> None:
    """Run a whole training with a validation; print what it took."""
    import polars as pl

    from ssd4rec.config import Config
    from ssd4rec.data.k_core import Counts, Filtering
    from ssd4rec.data.sequences import Sequences
    from ssd4rec.data.split import leave_last_out
    from ssd4rec.data.timestamps import Clock
    from ssd4rec.distributed import process_group
    from ssd4rec.models.next_item import make_model
    from ssd4rec.training.callbacks import Callback
    from ssd4rec.training.loop import TrainingLoop, fit

    class Memory(Callback):
        """Notes the memory and the processor time around a validation."""

        def on_batch_end(self, loop: TrainingLoop) -> None:  # noqa: ARG002
            self.most = max(getattr(self, "most", 0), resident("RssAnon"))

        def on_validation_start(self, loop: TrainingLoop) -> None:
            weight = loop.model.table.weight
            self.table = weight.nbytes + sum(loop.optimizer.state[weight][name].nbytes for name in ("exp_avg", "exp_avg_sq"))
            self.seconds, self.before, self.steps = time.process_time(), resident("RssAnon"), loop.batches

        def on_epoch_end(self, loop: TrainingLoop) -> None:  # noqa: ARG002
            self.seconds, self.validation = time.process_time() - self.seconds, resident("RssAnon") - self.before

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    random = np.random.default_rng(0)
    items_of_events = np.minimum(random.zipf(1.05, 12 * USERS), items).astype(np.int32)
    users = pl.Series([str(user) for user in range(USERS)])
    offsets, unfiltered = np.arange(USERS + 1) * 12, Filtering(0, 0, Counts(0, 0, 0), Counts(0, 0, 0))
    sequences = Sequences(items_of_events, np.arange(12 * USERS), offsets, users, unfiltered, Clock("seconds"))
    training = {"max_epochs": 1, "token_budget": BUDGET, "softmax": "sampled", "negatives": NEGATIVES, "updated_rows": "touched"}
    training |= {"shard_item_table": True, "random_numbers": "sequence"}
    config = Config.model_validate({"training": training, "backbone": {"width": WIDTH}})
    with process_group() as world:
        before, memory = resident("RssAnon"), Memory()
        model = make_model(config, items, world=world)
        report = fit(model, sequences, leave_last_out(sequences), config.training, callbacks=[memory])
        result = {
            "table": memory.table,
            "added": memory.most - before,
            "seconds": report.seconds / memory.steps,
            "losses": [each.loss for each in report.history],
            "validation": memory.validation,
            "validation_seconds": memory.seconds,
        }
        print(json.dumps(result))


def resident(name: str = "VmRSS") -> int:
    """Return the resident memory of this process, or its peak, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
