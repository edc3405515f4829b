"""Where does the time of one training step go, and how much of the machine's matrix rate does it reach?

And what does `training.precision = "bf16-mixed"` make of it?
All-positions training, D=64 and D=256, Beauty-like (mean 9 events, 12,101 items) and ML-1M-like (mean 165, 3,416 items) rows.
"""

from itertools import accumulate

import torch

from common import arguments, gemm_rate, measure, publish
from ssd4rec.config import SSD4RecConfig, TrainingConfig
from ssd4rec.data.packing import PackedBatch
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.training.objective import next_item_loss

EVENTS = 8192
WORLDS = {"Beauty-like": (9, 12_101), "ML-1M-like": (165, 3_416)}


def batch(mean: int, items: int) -> PackedBatch:
    """A full row of histories of about `mean` events."""
    random = torch.Generator().manual_seed(0)
    lengths: list[int] = []
    while sum(lengths) < EVENTS:
        length = 3 + int(-(mean - 3) * torch.rand(1, generator=random).log())
        lengths.append(min(length, EVENTS - sum(lengths)))
    drawn_items = torch.randint(1, items + 1, (2, EVENTS), generator=random)
    return PackedBatch(drawn_items[0], torch.tensor([0, *accumulate(lengths)]), drawn_items[1])


def gflop(config: SSD4RecConfig, items: int) -> float:
    """Matrix work of one step, forward and backward, in GFLOP: projections, feed-forward, scan, prefix sums, softmax."""
    D, E, N, H, Q = config.width, config.inner_width, config.state_dim, config.heads, 64
    layer = D * (2 * E + 2 * N + H) + E * D + 8 * D * D + Q / 2 * (N + E) + 2 * N * E + Q * E
    return 2 * 3 * EVENTS * (config.layers * layer + D * items) / 1e9


def main() -> None:
    """Print the table."""
    options = arguments(__doc__)
    rate = gemm_rate()
    rows = []
    for name, (mean, items) in WORLDS.items():
        for width in (64, 256):
            config = SSD4RecConfig(width=width, dropout=0.2)
            model = NextItemModel(SSD4Rec(config), items)
            optimizer = torch.optim.Adam(model.parameters(), fused=True)
            packed = batch(mean, items)

            def step(*, bf16: bool = False) -> None:
                optimizer.zero_grad()  # noqa: B023 - used in this turn of the loop only
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = next_item_loss(model, packed, TrainingConfig())  # noqa: B023
                loss.backward()
                optimizer.step()  # noqa: B023

            whole = measure(step, repeats=5)
            mixed = measure(lambda: step(bf16=True), repeats=5)
            states = torch.randn(EVENTS, width, requires_grad=True)
            softmax = measure(lambda: model.loss(states, packed.targets).backward(), repeats=5)  # noqa: B023
            work = gflop(config, items)
            rows.append(
                {
                    "row": name,
                    "D": width,
                    "items": items,
                    "step": str(whole),
                    "bf16-mixed": str(mixed),
                    "softmax": f"{softmax.median / whole.median:.0%}",
                    "events/s": f"{EVENTS / whole.median:,.0f}",
                    "GFLOP": f"{work:.0f}",
                    "of GEMM": f"{work / whole.median / rate:.0%}",
                }
            )
    publish("bench_step", rows, options, [f"GEMM rate in the same run: {rate:.0f} GFLOP/s; {EVENTS} events a step"])


if __name__ == "__main__":
    main()
