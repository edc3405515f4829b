"""What do loss and gradients over a catalog cost: our full softmax, torch's two, and the sampled one?

Forward + backward down to the gradient of the item table; each figure has a process of its own, so that peaks of memory do
not mix. Rows fall with the catalog, so that all scores together stay near --scores; the sampled softmax has the same rows. With
more of them its lead grows, for the gradient of the table costs the same for any number of rows.

    cross_entropy          torch.nn.functional.cross_entropy of all scores
    linear_cross_entropy   torch's, in chunks (torch 2.13 or later, with default options)
    ours                   ops.softmax.linear_cross_entropy
    ours, bfloat16         the same under autocast, as `training.precision = "bf16-mixed"` has it
    sampled                4,096 negatives; a dense gradient of the table (`updated_rows = "all"`)
    sampled, touched       the same, the gradient of the touched rows only
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from common import arguments, measure, peak_memory, publish
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops.cross_entropy import linear_cross_entropy
from ssd4rec.ops.sampled_softmax import make_negative_sampler

CATALOGUES, WIDTHS = (3_416, 12_101, 100_000, 500_000), (64, 256)
FORMS = ("cross_entropy", "linear_cross_entropy", "ours", "ours, bfloat16", "sampled", "sampled, touched")
MOST_ROWS = 8_192
NEGATIVES = 4_096
REPEATS = 5


class Reader(nn.Module):
    """Stands where a backbone would; it is not batch_rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


def work_of(form: str, items: int, width: int, rows: int) -> Callable[[], None]:
    """One loss and its gradients."""
    torch.manual_seed(0)
    model = NextItemModel(Reader(width), items)
    model.table.sparse = form == "sampled, touched"
    states = torch.randn(rows, width, requires_grad=True)
    targets = torch.randint(items, (rows,))
    proposal = make_negative_sampler(torch.randint(1, 1000, (items,)), 0.5, NEGATIVES)

    def loss() -> torch.Tensor:
        if form == "cross_entropy":
            return F.cross_entropy(states @ model.item_vectors.T, targets)
        if form == "linear_cross_entropy":
            return F.linear_cross_entropy(states, model.item_vectors, targets, options=nn.LinearCrossEntropyOptions())
        if form.startswith("ours"):
            with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in form):
                return linear_cross_entropy(states, model.item_vectors, targets)
        return model.loss(states, targets + 1, proposal)

    def work() -> None:
        states.grad = model.table.weight.grad = None
        loss().backward()

    return work


def one_line(form: str, items: int, width: int, rows: int) -> dict[str, float]:
    """Seconds and bytes; runs in a process of its own."""
    work = work_of(form, items, width, rows)
    added = peak_memory(work, work_of(form, 100, width, 64))
    timing = measure(work, repeats=REPEATS, warm_up=1)
    return {"seconds": timing.median, "spread": timing.spread, "bytes": added}


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scores", type=int, default=1 << 25, help="rows x items of a line, at most")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--line", nargs=4, help=argparse.SUPPRESS)


def main() -> None:
    """Print the table."""
    options = arguments(__doc__, _add)
    if options.line:
        form, *sizes = options.line
        print(json.dumps(one_line(form, *(int(size) for size in sizes))))
        return
    forms = [form for form in FORMS if form != "linear_cross_entropy" or hasattr(F, "linear_cross_entropy")]
    rows = []
    for width in options.widths:
        for items in CATALOGUES:
            batch_rows = min(MOST_ROWS, options.scores // items)
            row = {"items": f"{items:,}", "D": width, "rows": batch_rows}
            for form in forms:
                command = [sys.executable, __file__, "--threads", str(options.threads), "--line", form]
                result = json.loads(subprocess.check_output([*command, str(items), str(width), str(batch_rows)]))
                row[form] = f"{result['seconds'] * 1e3:.0f} ms +-{result['spread'] / 2:.0%}, {result['bytes'] / 1e6:.0f} MB"
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    publish("bench_softmax", rows, options, [f"{NEGATIVES} negatives; median of {REPEATS}; memory: what the first call adds"])


if __name__ == "__main__":
    main()
