"""What does one more event cost a user with 10 … 10,000 events? `NextItemModel.advance`, one layer, both directions.

Beside it what reading the whole history again costs, and scoring the catalog, which both need. Measured in turns.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from common import arguments, publish
from ssd4rec.config import SSD4RecConfig
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec

EVENTS = (10, 100, 1_000, 10_000)
CATALOGUES = (12_101, 100_000)
ROUNDS = 300


def main() -> None:
    """Print the table."""
    options = arguments(__doc__)
    rows, notes = [], []
    for width in (64, 256):
        model = NextItemModel(SSD4Rec(SSD4RecConfig(width=width, dropout=0.0)), max(CATALOGUES)).eval()
        with torch.inference_mode():
            histories = [torch.randint(1, max(CATALOGUES), (events,)) for events in EVENTS]
            steps = [_step(model, history) for history in histories]
            again = [_again(model, history) for history in histories]
            one_more, whole = _in_turns(steps, ROUNDS), _in_turns(again, 15)
            for events, step, read in zip(EVENTS, one_more, whole, strict=True):
                rows.append(
                    {
                        "D": width,
                        "events before": f"{events:,}",
                        "one more event": f"{step * 1e6:.0f} us",
                        "against 10": f"{step / one_more[0]:.2f}",
                        "the whole history again": f"{read * 1e6:,.0f} us",
                        "times": f"{read / step:.0f}",
                    }
                )
            scoring = _in_turns([_score(model, items) for items in CATALOGUES], ROUNDS)
            shown = ", ".join(f"{items:,} items {spent * 1e6:,.0f} us" for items, spent in zip(CATALOGUES, scoring, strict=True))
            notes.append(f"D={width}: scoring the catalog costs as much again: {shown}")
    publish("bench_step_latency", rows, options, notes)


def _step(model: NextItemModel, history: torch.Tensor) -> Callable[[], Any]:
    state, _ = model.prefill(history, torch.tensor([0, len(history)]))
    event = torch.tensor([7])
    return lambda: model.advance(state, event)


def _again(model: NextItemModel, history: torch.Tensor) -> Callable[[], Any]:
    cu_seqlens = torch.tensor([0, len(history)])
    return lambda: model.encode(history, cu_seqlens)


def _score(model: NextItemModel, items: int) -> Callable[[], Any]:
    state, table = torch.randn(1, model.item_vectors.shape[1]), model.item_vectors[:items]
    return lambda: state @ table.T


def _in_turns(works: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median seconds of each."""
    seconds: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + 3):
        for work, kept in zip(works, seconds, strict=True):
            began = time.perf_counter()
            work()
            if turn >= 3:
                kept.append(time.perf_counter() - began)
    return [statistics.median(kept) for kept in seconds]


if __name__ == "__main__":
    main()
