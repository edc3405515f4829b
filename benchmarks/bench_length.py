"""Does an event cost the same in a long history as in a short one? Training step of one layer, D=64, one pass."""

import math

import torch

from common import arguments, measure, publish
from ssd4rec.backbones.ssd4rec import SSD4Rec
from ssd4rec.config import SSD4RecConfig

LENGTHS = (50, 100, 500, 1_000, 5_000, 10_000)
EVENTS = 20_000


def main() -> None:
    """Print the table and the fitted exponent of cost = length^exponent for a whole history."""
    options = arguments(__doc__)
    backbone = SSD4Rec(SSD4RecConfig(width=64, dropout=0.0))
    rows, costs = [], []
    for length in LENGTHS:
        boundaries = torch.arange(0, EVENTS + 1, length)
        embedded = torch.randn(EVENTS, 64, requires_grad=True)
        timing = measure(lambda: backbone.encode_prefixes(embedded, boundaries).sum().backward(), repeats=7)  # noqa: B023
        cost = timing.median / EVENTS * 1e6
        costs.append(cost)
        rows.append({"length": length, "us an event": f"{cost:.2f}", "against 50": f"{cost / costs[0]:.2f}", "all": str(timing)})
    x = [math.log(length) for length in LENGTHS]
    y = [math.log(length * cost) for length, cost in zip(LENGTHS, costs, strict=True)]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    exponent = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    publish("bench_length", rows, options, [f"cost of a history grows with its length to the power {exponent:.3f}"])


if __name__ == "__main__":
    main()
