"""How much faster is a training step than at another commit?

Two processes, one with the sources of the other commit and one with those of this tree, take turns: a pair of steps is measured
within a second or two, so that other work on the machine slows both. The ratio is the median over the pairs.

python benchmarks/bench_step_ab.py 6727d0c --threads 1 --save
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from common import arguments, publish

HERE = Path(__file__).resolve()
CASES = [("ML-1M-like", 64), ("Beauty-like", 64), ("ML-1M-like", 256), ("Beauty-like", 256)]


def main() -> None:
    """Print the table, or serve steps to the process that does."""
    if os.environ.get("SSD4REC_BENCH_WORKER"):
        work()
        return
    options = arguments(__doc__, add_options)
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", options.commit, "src"], capture_output=True, check=True, cwd=HERE.parents[1]
        ).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        workers = [start(Path(folder) / "src", options.threads), start(HERE.parents[1] / "src", options.threads)]
        rows = [compare(workers, f"{name} {width}", options.pairs) for name, width in CASES[: options.cases]]
        for worker in workers:
            worker.stdin.close()
            worker.wait(timeout=30)
    notes = [f"old: {options.commit}; milliseconds of processor time a step, 8192 events; the ratio is of paired steps"]
    publish("bench_step_ab", rows, options, notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the other commit and the number of pairs."""
    parser.add_argument("commit", help="the commit to compare with")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first cases")


def start(sources: Path, threads: int) -> Any:
    """Start a process that makes steps with the library in `sources`."""
    environment = os.environ | {
        "PYTHONPATH": str(sources), "SSD4REC_BENCH_WORKER": "1", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(HERE)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def compare(workers: list[Any], case: str, pairs: int) -> dict[str, Any]:
    """Return the row of one case."""
    for worker in workers:  # the first step compiles and warms up
        step(worker, case)
        step(worker, case)
    measured = []
    for turn in range(pairs):
        order = workers if turn % 2 else workers[::-1]
        seconds = {id(worker): step(worker, case) for worker in order}
        measured.append([seconds[id(worker)] for worker in workers])
    old, new = (statistics.median(column) for column in zip(*measured, strict=True))
    ratios = sorted(before / after for before, after in measured)
    return {
        "case": case,
        "old": f"{old * 1e3:.0f} ms",
        "new": f"{new * 1e3:.0f} ms",
        "old / new": f"{statistics.median(ratios):.2f}",
        "range": f"{ratios[0]:.2f} … {ratios[-1]:.2f}",
    }


def step(worker: Any, case: str) -> float:
    """Make one step in a worker; return its processor time in seconds."""
    send(worker.stdin, case)
    return float(worker.stdout.readline())


def send(pipe: IO[str], line: str) -> None:
    """Write one line."""
    pipe.write(line + "\n")
    pipe.flush()


def work() -> None:
    """Make a step for each line of standard input, and print the processor time that it took."""
    import torch

    from bench_step import WORLDS, batch
    from ssd4rec.config import SSD4RecConfig, TrainingConfig
    from ssd4rec.models.next_item import NextItemModel
    from ssd4rec.models.ssd4rec import SSD4Rec
    from ssd4rec.training.objective import next_item_loss

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if find_spec("ssd4rec.training.memory"):  # as `fit` does, where it does
        memory = import_module("ssd4rec.training.memory").freed_memory_kept()
        memory.__enter__()  # until the process ends
    cases: dict[str, Any] = {}
    for line in sys.stdin:
        case = line.strip()
        if case not in cases:
            cases.clear()
            name, width = case.split()
            mean, items = WORLDS[name]
            torch.manual_seed(0)
            model = NextItemModel(SSD4Rec(SSD4RecConfig(width=int(width), dropout=0.2)), items)
            cases[case] = model, batch(mean, items), torch.optim.Adam(model.parameters(), fused=True)
        model, packed, optimizer = cases[case]
        began = time.process_time()
        optimizer.zero_grad()
        next_item_loss(model, packed, TrainingConfig()).backward()
        optimizer.step()
        send(sys.stdout, str(time.process_time() - began))


if __name__ == "__main__":
    main()
