"""Does `torch.compile` make a training step on a CPU faster?

The encoder is compiled with dynamic shapes, so that the number of sequences in a batch and the length of the last batch do not
compile it again; the scan, the softmax and the kernels of numba stay as they are, and what lies between them is compiled. A
compiled and an eager model make the same steps in turns. `--dropout torch` replaces the library's dropout by PyTorch's, which the
compiler can fuse with its neighbors; losses then differ.

python benchmarks/bench_compile.py --threads 1 --width 64 256 --save
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F

from bench_step import EVENTS, WORLDS
from common import arguments, publish
from ssd4rec.config import SSD4RecConfig, TrainingConfig
from ssd4rec.data.packing import PackedBatch
from ssd4rec.layers import dropout as dropout_layer
from ssd4rec.layers import mamba2
from ssd4rec.models import next_item, ssd4rec
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops import dispatch
from ssd4rec.training.memory import freed_memory_kept
from ssd4rec.training.objective import next_item_loss

NAME = "ML-1M-like"


def main() -> None:
    """Print the table."""
    options = arguments(__doc__, add_options)
    keep_operations_whole(options.dropout)
    with freed_memory_kept():
        rows = [compare(width, options.batches) for width in options.width]
    note = f"{NAME}, {EVENTS} events a batch, the last one 5,003; processor time, median of {options.batches} pairs; "
    publish("bench_compile", rows, options, [note + f"dropout: {options.dropout}"])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes."""
    parser.add_argument("--width", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--dropout", choices=["ssd4rec", "torch"], default="ssd4rec")


def keep_operations_whole(dropout: str) -> None:
    """Exclude the operations that have code of their own from compilation."""
    whole: Callable[..., Any] = torch.compiler.disable
    for name in ("scan", "backward_prefix_readout", "convolve", "gated_norm"):
        setattr(dispatch, name, whole(getattr(dispatch, name)))
    for module, name in ((next_item, "linear_cross_entropy"), (ssd4rec, "make_layout"), (mamba2, "broadcast_first")):
        setattr(module, name, whole(getattr(module, name)))
    ours = whole(dropout_layer.dropout)
    dropout_layer.dropout = ours if dropout == "ssd4rec" else F.dropout


def compare(width: int, count: int) -> dict[str, Any]:
    """Return the row of one width."""
    mean, items = WORLDS[NAME]
    batches = make_batches(mean, items, count)
    eager, compiled = (make_step(width, items) for _ in range(2))
    compiled[0].encode_prefixes = torch.compile(compiled[0].encode_prefixes, dynamic=True)  # type: ignore[method-assign]
    counters.clear()
    began = time.perf_counter()
    first = [step(*compiled, batches[0], 0), step(*eager, batches[0], 0)]
    compiling = time.perf_counter() - began
    step(*compiled, batches[-1], 1), step(*eager, batches[-1], 1)
    graphs = counters["frames"]["ok"]
    pairs, losses = [], [[loss for loss, _ in first]]
    for number, packed in enumerate(batches):
        turns = [(step(*each, packed, 2 + number)) for each in (compiled, eager)]
        losses.append([loss for loss, _ in turns])
        pairs.append([seconds for _, seconds in turns])
    after, before = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "D": width,
        "eager": f"{before * 1e3:.0f} ms",
        "compiled": f"{after * 1e3:.0f} ms",
        "eager / compiled": f"{statistics.median(eager / new for new, eager in pairs):.2f}",
        "first step": f"{compiling:.0f} s",
        "graphs": graphs,
        "compiled again": counters["frames"]["ok"] - graphs,
        "largest difference of losses": f"{max(abs(ours / theirs - 1) for ours, theirs in losses):.0e}",
    }


def make_batches(mean: int, items: int, count: int) -> Sequence[PackedBatch]:
    """Return batches with other lengths each; the last is not full."""
    random = torch.Generator().manual_seed(0)
    batches = []
    for size in [EVENTS] * (count - 1) + [5003]:
        lengths: list[int] = []
        while sum(lengths) < size:
            length = 3 + int(-(mean - 3) * torch.rand(1, generator=random).log())
            lengths.append(min(length, size - sum(lengths)))
        items_of_batch = torch.randint(1, items + 1, (2, size), generator=random)
        batches.append(PackedBatch(items_of_batch[0], torch.tensor([0, *accumulate(lengths)]), items_of_batch[1]))
    return batches


def make_step(width: int, items: int) -> tuple[NextItemModel, torch.optim.Optimizer]:
    """Return a model and its optimizer."""
    torch.manual_seed(0)
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=width, dropout=0.2)), items)
    return model, torch.optim.Adam(model.parameters(), fused=True)


def step(model: NextItemModel, optimizer: torch.optim.Optimizer, packed: PackedBatch, seed: int) -> tuple[float, float]:
    """Make a step; return the loss and the processor time."""
    torch.manual_seed(seed)
    began = time.process_time()
    optimizer.zero_grad()
    loss = next_item_loss(model, packed, TrainingConfig())
    loss.backward()
    optimizer.step()
    return float(loss.detach()), time.process_time() - began


if __name__ == "__main__":
    main()
