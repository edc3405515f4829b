"""How much faster is a training step, and the scan in it, than at another commit?

Two processes, one with the sources of the other commit and one with those of this tree, take turns: a pair of steps is measured
within a second or two, so that other work on the machine slows both. The ratio is the median over the pairs. The rate of a matrix
product is measured in the same turns.

Bytes are the inputs and outputs of all operations of one step, as PyTorch dispatches them, and of the kernels of numba; views are
not counted. That is the traffic to the caches, and to memory where the caches do not hold it.

python benchmarks/bench_step_ab.py 6727d0c --threads 1 --save
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import arguments, publish

HERE = Path(__file__).resolve()
WORKER = HERE.with_name("step_worker.py")
CASES = [
    (kind, name, width) for kind in ("step", "scan") for width in (64, 256) for name in ("ML-1M-like", "Beauty-like")
]  # fmt: skip


def main() -> None:
    """Print the table."""
    options = arguments(__doc__, add_options)
    root = HERE.parents[1]
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", options.commit, "src"], capture_output=True, check=True, cwd=root).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        workers = [Worker(sources, options.threads) for sources in (Path(folder) / "src", root / "src")]
        rows = [compare(workers, case, options.pairs) for case in CASES if case[0] in options.kinds and case[2] in options.width]
        for worker in workers:
            worker.close()
    notes = [
        f"old: {options.commit}; milliseconds of processor time, forward and backward (a step: and Adam); 8,192 events",
        "of GEMM: share of the rate of a matrix product of 1,024 squared, measured in the same turns; dropout 0.2, all positions",
        f"bf16: time in float32 over time with bfloat16 autocast, new; bfloat16 instructions: {workers[1].bfloat16}",
    ]
    publish("bench_step_ab", rows, options, notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the other commit and the number of pairs."""
    parser.add_argument("commit", help="the commit to compare with")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--kinds", nargs="+", default=["step", "scan"], choices=["step", "scan"])
    parser.add_argument("--width", type=int, nargs="+", default=[64, 256], choices=[64, 256])


class Worker:
    """A process that makes steps with the library in a folder, which it checks.

    Args:
        sources: the folder that holds `ssd4rec`.
        threads: of PyTorch.
    """

    def __init__(self, sources: Path, threads: int) -> None:
        environment = os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        about = json.loads(self._pipe(self.process.stdout).readline())
        self.bfloat16 = about["bfloat16"]
        if not Path(about["library"]).is_relative_to(sources):
            raise SystemExit(f"the process for {sources} imported {about['library']}; is another ssd4rec first on its path?")

    def ask(self, *words: str) -> float:
        """Return the number that answers a request."""
        pipe = self._pipe(self.process.stdin)
        pipe.write(" ".join(words) + "\n")
        pipe.flush()
        return float(self._pipe(self.process.stdout).readline())

    def close(self) -> None:
        """End the process."""
        self._pipe(self.process.stdin).close()
        self.process.wait(timeout=30)

    @staticmethod
    def _pipe(pipe: Any) -> Any:
        return pipe


def compare(workers: list[Worker], case: tuple[str, str, int], pairs: int) -> dict[str, Any]:
    """Return the row of one case."""
    kind, name, width = case
    words = (kind, name, str(width))
    for worker in workers:  # the first two compile and warm up
        worker.ask(*words, "float32")
        worker.ask(*words, "float32")
    losses = [worker.ask("loss", *words[1:], "float32") for worker in workers]
    if kind == "step" and abs(losses[0] / losses[1] - 1) > 1e-4:
        raise SystemExit(f"{name}, D = {width}: the loss was {losses[0]} and is {losses[1]}: these are not the same steps")
    seconds: list[list[float]] = []
    rates: list[list[float]] = []
    for turn in range(pairs):
        order = workers if turn % 2 else workers[::-1]
        measured = {id(worker): (worker.ask(*words, "float32"), worker.ask("gemm")) for worker in order}
        seconds.append([measured[id(worker)][0] for worker in workers])
        rates.append([measured[id(worker)][1] for worker in workers])
    work, new = workers[1].ask("gflop", *words), workers[1]
    rate = statistics.median(
        [each for turn in rates for each in turn]
    )  # one rate for both, so that their shares differ as their times do
    shares = [work / statistics.median(each[i] for each in seconds) / rate for i in (0, 1)]
    ratios = sorted(old / now for old, now in seconds)
    new.ask(*words, "bfloat16")  # the first one makes oneDNN's kernels
    bfloat16 = [new.ask(*words, "float32") / new.ask(*words, "bfloat16") for _ in range(pairs)]
    return {
        "what": kind,
        "events": name,
        "D": width,
        "old": f"{statistics.median(s[0] for s in seconds) * 1e3:.0f} ms",
        "new": f"{statistics.median(s[1] for s in seconds) * 1e3:.0f} ms",
        "old / new": f"{statistics.median(ratios):.2f}",
        "range": f"{ratios[0]:.2f} … {ratios[-1]:.2f}",
        "GFLOP": f"{work:.1f}",
        "old of GEMM": f"{shares[0]:.0%}",
        "new of GEMM": f"{shares[1]:.0%}",
        "old GB": f"{workers[0].ask('bytes', *words) / 1e9:.2f}",
        "new GB": f"{new.ask('bytes', *words) / 1e9:.2f}",
        "bf16": f"{statistics.median(bfloat16):.2f}",
        "GEMM rate": f"{rate:.0f} GFLOP/s",
    }


if __name__ == "__main__":
    main()
