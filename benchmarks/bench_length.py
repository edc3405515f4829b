"""Does an event cost the same in a long history as in a short one? One layer, D=64 and D=256, batches of 10,000 events.

Training: `encode_prefixes`, forward and backward. Reading: `encode`, as in evaluation and recommending.
The lengths are measured in turns, so that a slow minute of the machine is everybody's.
"""

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common import arguments, publish, saved_as
from ssd4rec.config import SSD4RecConfig
from ssd4rec.models.ssd4rec import SSD4Rec

LENGTHS = (50, 100, 500, 1_000, 5_000, 10_000)
EVENTS = 10_000
ROUNDS = 7


def main() -> None:
    """Print the table and the fitted exponents of cost = length^exponent for a whole history."""
    options = arguments(__doc__)
    rows, notes, curves = [], [], {}
    for width in (64, 256):
        backbone = SSD4Rec(SSD4RecConfig(width=width, dropout=0.0))
        for name, work in (("training", _train), ("reading", _read)):
            costs = _in_turns([work(backbone, length) for length in LENGTHS])
            curves[f"{name}, D={width}"] = costs
            for length, cost in zip(LENGTHS, costs, strict=True):
                against = cost / costs[0]
                row = {"what": name, "D": width, "length": length, "us an event": f"{cost:.2f}", "against 50": f"{against:.2f}"}
                rows.append(row)
            exponent, error = _exponent(costs)
            notes.append(f"{name}, D={width}: a history's cost grows with its length to the power {exponent:.3f} +- {error:.3f}")
    publish("bench_length", rows, options, notes)
    if options.save:
        _plot(curves, saved_as("bench_length", options.threads).with_suffix(".svg"))


def _train(backbone: SSD4Rec, length: int) -> Callable[[], Any]:
    cu_seqlens = torch.arange(0, EVENTS + 1, length)
    embedded = torch.randn(EVENTS, backbone.width, requires_grad=True)
    return lambda: backbone.encode_prefixes(embedded, cu_seqlens).sum().backward()


def _read(backbone: SSD4Rec, length: int) -> Callable[[], Any]:
    cu_seqlens = torch.arange(0, EVENTS + 1, length)
    embedded = torch.randn(EVENTS, backbone.width)

    def work() -> None:
        with torch.inference_mode():
            backbone.encode(embedded, cu_seqlens)

    return work


def _in_turns(works: list[Callable[[], Any]]) -> list[float]:
    """Median microseconds an event of each."""
    seconds: list[list[float]] = [[] for _ in works]
    for turn in range(ROUNDS + 1):
        for work, kept in zip(works, seconds, strict=True):
            began = time.perf_counter()
            work()
            if turn:
                kept.append(time.perf_counter() - began)
    return [statistics.median(kept) / EVENTS * 1e6 for kept in seconds]


def _exponent(costs: list[float]) -> tuple[float, float]:
    """Least squares of log cost on log length, and the standard error of the slope."""
    x = [math.log(length) for length in LENGTHS]
    y = [math.log(length * cost) for length, cost in zip(LENGTHS, costs, strict=True)]
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    residual = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    return slope, math.sqrt(residual / (len(x) - 2) / spread)


def _plot(curves: dict[str, list[float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, costs in curves.items():
        axes.plot(LENGTHS, costs, marker="o", label=name)
    axes.set(xscale="log", xlabel="events in each history", ylabel="microseconds an event", ylim=(0, None))
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
