"""What does one more event cost a user with 10 … 10,000 events? `SSD4Rec.step`, one layer, both directions, scores left out."""

import torch

from common import arguments, measure, publish
from ssd4rec.backbones.ssd4rec import SSD4Rec
from ssd4rec.config import SSD4RecConfig

EVENTS = (10, 100, 1_000, 10_000)
STEPS = 200


def main() -> None:
    """Print the table."""
    options = arguments(__doc__)
    rows = []
    for width in (64, 256):
        backbone = SSD4Rec(SSD4RecConfig(width=width, dropout=0.0)).eval()
        with torch.inference_mode():
            state, read = backbone.empty_state(1), 0
            first = None
            for events in EVENTS:
                while read < events:
                    state, _ = backbone.step(state, torch.randn(1, width))
                    read += 1
                event = torch.randn(1, width)

                def several() -> None:
                    for _ in range(STEPS):
                        backbone.step(state, event)  # noqa: B023 - used in this turn of the loop only

                timing = measure(several, repeats=9)
                first = first or timing.median
                rows.append(
                    {
                        "D": width,
                        "events before": events,
                        "one more event": f"{timing.median / STEPS * 1e6:.0f} us +-{timing.spread / 2:.0%}",
                        "against 10": f"{timing.median / first:.2f}",
                    }
                )
    publish("bench_step_latency", rows, options)


if __name__ == "__main__":
    main()
