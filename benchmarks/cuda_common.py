"""Shared parts of the GPU benchmarks: peak rates of the machine, mixes of lengths, timing with a comparison, early results."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import measure, where
from ssd4rec.ops import triton

MIXES = {"Beauty-like": (9, 12_101), "ML-1M-like": (165, 3_416)}  # mean events of a history, items
CLOSE = 3e-2  # bfloat16 operands: what two orders of summing may differ by, of the largest number


def arguments(description: str | None) -> argparse.Namespace:
    """Parse --out, --quick, --smoke, --data and --minutes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a JSON file, rewritten after each row")
    parser.add_argument("--quick", action="store_true", help="64k positions only, small models only")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on a CPU; needs TRITON_INTERPRET=1")
    parser.add_argument("--data", type=Path, help="a folder with ml-1m.inter.gz; without it, drawn histories of its counts")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no row after so long")
    return parser.parse_args()


@dataclass
class Bench:
    """One run: the device, what it reaches, and the rows so far."""

    name: str
    device: torch.device
    operand: torch.dtype
    out: Path | None
    smoke: bool
    deadline: float
    copied: float = 1.0  # bytes a second, read and written
    multiplied: float = 1.0  # operations a second
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def begin(cls, name: str, options: argparse.Namespace) -> "Bench | None":
        """Look at the machine; None, and a line on standard error, if it cannot run the bench."""
        torch.manual_seed(0)
        deadline = time.monotonic() + 60 * options.minutes
        if options.smoke and triton.available():
            return cls(name, torch.device("cpu"), torch.float32, options.out, smoke=True, deadline=deadline)
        if options.smoke or not torch.cuda.is_available() or not triton.available():
            print(f"{name}: needs a CUDA device and Triton, found none; run it on a GPU machine", file=sys.stderr)
            return None
        bench = cls(name, torch.device("cuda"), torch.bfloat16, options.out, smoke=False, deadline=deadline)
        bench.copied, bench.multiplied = _copy_rate(), _product_rate()
        return bench

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.deadline

    def floor(self, moved: float, operations: float) -> float | None:
        """Seconds that moving and working cannot go below; None where nothing was timed."""
        return None if self.smoke else max(moved / self.copied, operations / self.multiplied)

    def add(self, row: dict[str, Any]) -> None:
        """Show a row, and write all rows so far."""
        self.rows.append(row)
        print("  ".join(f"{key} {value}" if key != "what" else str(value) for key, value in row.items()), flush=True)
        if self.out is not None:
            self.out.write_text(json.dumps({**self.machine, "rows": self.rows}, indent=1) + "\n", encoding="utf-8")

    def end(self, *notes: str) -> None:
        """The table and one JSON line."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in self.rows]
        print("\n".join(["", f"# {self.name}", "", *lines, "", *notes]))
        print(json.dumps({**self.machine, "rows": self.rows, "notes": list(notes)}))

    @property
    def machine(self) -> dict[str, Any]:
        """Describe the machine, its peak rates and the versions."""
        on_gpu = self.device.type == "cuda"
        return {
            **where(self.name),
            "device": torch.cuda.get_device_name() if on_gpu else "CPU, interpreter: times mean nothing",
            "triton": triton.version(),
            "operand": str(self.operand),
            "copy TB/s": round(self.copied / 1e12, 3),
            "product TFLOP/s": round(self.multiplied / 1e12, 1),
        }


def timed(bench: Bench, works: dict[str, Callable[[], Sequence[Tensor]]]) -> tuple[dict[str, float | None], float | None]:
    """Seconds of each work, None where it did not run; and how far triton's results are from torch's, of the largest number."""
    seconds: dict[str, float | None] = {}
    results: dict[str, list[Tensor]] = {}
    for form, work in works.items():
        seconds[form] = None
        if bench.late:
            continue
        try:
            if form in {"torch", "triton"}:
                results[form] = [values.detach().clone() for values in work()]
            repeats, warm_up = (1, 0) if bench.smoke else (7, 3)
            seconds[form] = measure(work, repeats=repeats, warm_up=warm_up).median
        except torch.OutOfMemoryError:
            results.pop(form, None)
            torch.cuda.empty_cache()
    error = None
    if len(results) == 2:
        pairs = zip(results["triton"], results["torch"], strict=True)
        error = max(float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max()) for ours, theirs in pairs)
    return seconds, error


def tolerance(error: float) -> str:
    """A word for a difference; NaN is never close."""
    return "equal" if error < CLOSE else "NOT EQUAL: do not use this number"


def milliseconds(seconds: float | None) -> str:
    """For the table."""
    return "-" if seconds is None else f"{seconds * 1e3:.3f} ms"


def boundaries_of(mix: str, length: int, device: torch.device) -> Tensor:
    """CuSeqlens of a row of one of the mixes."""
    return torch.tensor([0, *accumulate(lengths_of(MIXES[mix][0], length))], device=device)


def lengths_of(mean: int, total: int) -> list[int]:
    """Lengths of about `mean` events, three at least, that fill a row of `total` positions."""
    random = torch.Generator().manual_seed(0)
    lengths = 3 + (torch.empty(total // 3 + 1).exponential_(generator=random) * (mean - 3)).long()
    ends = lengths.cumsum(0)
    whole = int((ends < total).sum())
    return [*lengths[:whole].tolist(), total - (int(ends[whole - 1]) if whole else 0)]


def _copy_rate(size: int = 1 << 29) -> float:
    source = torch.empty(size, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    return 2 * size * source.element_size() / measure(lambda: target.copy_(source), repeats=9, warm_up=3).median


def _product_rate(size: int = 8192) -> float:
    first, second = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return 2 * size**3 / measure(lambda: first @ second, repeats=9, warm_up=3).median
