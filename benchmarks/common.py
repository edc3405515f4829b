"""Shared parts of the benchmarks: timing, the machine, and saved results."""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ssd4rec.diagnostics import processor

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs, without the warm-up."""

    median: float
    spread: float  # (largest - smallest) / median

    def __str__(self) -> str:
        return f"{self.median * 1e3:.1f} ms +-{self.spread / 2:.0%}"


def measure(work: Callable[[], Any], repeats: int = 5, warm_up: int = 1) -> Timing:
    """Time a function; the device is synchronized before and after."""
    seconds = []
    for run in range(warm_up + repeats):
        _wait()
        began = time.perf_counter()
        work()
        _wait()
        if run >= warm_up:
            seconds.append(time.perf_counter() - began)
    middle = statistics.median(seconds)
    return Timing(middle, (max(seconds) - min(seconds)) / middle)


def gemm_rate(size: int = 1024) -> float:
    """Return the GFLOP/s of a square float32 matrix product, the best of many runs."""
    first, second = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(60):
        began = time.perf_counter()
        first @ second
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds) / 1e9


def peak_memory(work: Callable[[], Any], warm_up: Callable[[], Any]) -> int:
    """Return the bytes that a function adds to the resident memory of this process at its peak (Linux).

    `warm_up`, the same at a small size, first starts threads and libraries. Run it early in the process: memory that was freed
    but not returned to the system would not be counted.
    """
    warm_up()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak to the present size
    before = _status("VmRSS")
    work()
    return 1024 * (_status("VmHWM") - before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def arguments(description: str | None, add: Callable[[argparse.ArgumentParser], None] = lambda _: None) -> argparse.Namespace:
    """Parse --threads, --save and the options of `add`; set the number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write results/<bench>_<machine>_<date>.{md,json}")
    add(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def publish(
    name: str, rows: Sequence[dict[str, Any]], options: argparse.Namespace, notes: Sequence[str] = (), study: str | None = None
) -> None:
    """Print a table and one JSON line; with --save also write both, to a folder of the study if the machine does not matter."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    place = {**where(name), "threads": options.threads}
    result = json.dumps({**place, "rows": list(rows), "notes": list(notes)})
    print("\n".join([f"# {name}", "", *lines, "", *notes]))
    print(result)
    if options.save:
        stem = saved_as(name, options.threads)
        report, data = stem.with_suffix(".md"), stem.with_suffix(".json")
        if study is not None:
            report, data = RESULTS / study / "report.md", RESULTS / study / "results.json"
            report.parent.mkdir(exist_ok=True)
        heading = ", ".join(f"{key} {value}" for key, value in place.items())
        report.write_text("\n".join([f"# {name}", "", heading, "", *lines, "", *notes, ""]), encoding="utf-8")
        data.write_text(result + "\n", encoding="utf-8")


def saved_as(name: str, threads: int) -> Path:
    """Return the path of a saved result, without its suffix."""
    return RESULTS / f"{name}_{platform.machine()}-{threads}threads_{datetime.now(UTC):%Y-%m-%d}"


def where(name: str) -> dict[str, Any]:
    """Describe the machine and the versions."""
    return {
        "bench": name,
        "machine": f"{platform.system()} {platform.machine()} {processor()}",
        "torch": torch.__version__,
        "ssd4rec": metadata.version("ssd4rec"),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def commit() -> str:
    """Return the commit of this tree."""
    process = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return process.stdout.strip() or "unknown"
