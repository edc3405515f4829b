"""Does a first pass over the catalog in int8 make exact recommendations faster?

The first pass multiplies item vectors and states that are rounded to int8, with one scale for all items. A score s v differs from
its rounded form by at most |s| max |v - v'| + |s - s'| max |v'| (Cauchy and Schwarz), so an item whose rounded score is more than
twice that below the k-th largest one is not among the k best. The others are scored again in float32. A user for whom more than
512 are left is scored in float32 as before. The result has the k best items: "same items" checks it against all scores.

python benchmarks/bench_low_precision.py --threads 1 --save
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench_recommend import CLUSTERS, WIDTH
from common import arguments, publish
from ssd4rec.serving.topk import select_largest

K, BLOCK, COLUMNS, GROUP, GROUPS, CANDIDATES = 100, 32, 2048, 64, 400, 512


def main() -> None:
    """Print the table."""
    options = arguments(__doc__, add_options)
    with torch.inference_mode():
        rows = [compare(items, options.users, options.repeats) for items in options.items]
    note = f"microseconds of processor time a user, best of {options.repeats}; {K} items each, D = {WIDTH}, {BLOCK} users at once"
    publish("bench_low_precision", rows, options, [note])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes."""
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)


class Int8:
    """A matrix with rows rounded to int8: values = scale * whole numbers."""

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self.scale, self.whole = scale, (values / scale).round_().to(torch.int8)
        self.error = (values - self.whole * scale).norm(dim=1)
        self.size = values.norm(dim=1)
        self.rounded_size = (self.whole * scale).norm(dim=1)


def compare(items: int, users: int, repeats: int) -> dict[str, Any]:
    """Return the row of one catalog."""
    random = torch.Generator().manual_seed(0)
    centers = torch.randn(CLUSTERS, WIDTH, generator=random)
    table = centers[torch.randint(CLUSTERS, (items,), generator=random)] + 0.5 * torch.randn(items, WIDTH, generator=random)
    states = centers[torch.randint(CLUSTERS, (users,), generator=random)] + torch.randn(users, WIDTH, generator=random)
    catalog = Int8(table, table.abs().max() / 127)
    scores, rounded = torch.empty(BLOCK, items), torch.empty(BLOCK, items, dtype=torch.int32)
    low, low_states = torch.empty(BLOCK, items, dtype=torch.bfloat16), states.bfloat16()
    low_table = table.bfloat16()

    def exact() -> Tensor:
        return torch.cat([select_largest(product(states[b], table, scores), K)[1] for b in blocks(users)])

    def first_pass() -> tuple[Tensor, Tensor]:
        parts = [by_int8(states[b], table, catalog, rounded) for b in blocks(users)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    (candidates, complete), expected = first_pass(), exact()
    exact_sets = [set(row) for row in expected.tolist()]
    shares = [len(exact_sets[row] & set(candidates[row].tolist())) / K for row in complete.nonzero()[:, 0].tolist()]
    low_blocks = list(blocks(users))
    whole = {
        "float32 product": lambda: [product(states[b], table, scores) for b in low_blocks],
        "bfloat16 product": lambda: [product(low_states[b], low_table, low) for b in low_blocks],
        "int8 product": lambda: [int8_product(Int8(states[b], row_scales(states[b])), catalog, rounded) for b in low_blocks],
        "topk": lambda: [scores.topk(K + 1, dim=1) for _ in low_blocks],
        "topk by groups": lambda: [select_largest(scores, K + 1) for _ in low_blocks],
        "exact, float32": exact,
        "exact, int8 first": first_pass,
    }
    times = {name: f"{best(work, repeats) / users * 1e6:,.0f}" for name, work in whole.items()}
    return {"items": f"{items:,}", **times, "users with a bound": f"{complete.float().mean():.0%}", "same items": min(shares)}


def blocks(users: int) -> list[slice]:
    """Return the rows scored together."""
    return [slice(start, start + BLOCK) for start in range(0, users, BLOCK)]


def product(states: Tensor, table: Tensor, out: Tensor) -> Tensor:
    """Return all scores of a block of users, computed as in `evaluation.scoring`."""
    for start in range(0, len(table), COLUMNS):
        torch.mm(states, table[start : start + COLUMNS].T, out=out[:, start : start + COLUMNS])
    return out


def row_scales(values: Tensor) -> Tensor:
    """Return one scale a row."""
    return values.abs().amax(1, keepdim=True) / 127


def int8_product(states: Int8, catalog: Int8, out: Tensor) -> Tensor:
    """Return all whole-number scores of a block of users."""
    for start in range(0, len(catalog.whole), COLUMNS):
        out[:, start : start + COLUMNS] = torch._int_mm(states.whole, catalog.whole[start : start + COLUMNS].T)  # noqa: SLF001
    return out


def by_int8(values: Tensor, table: Tensor, catalog: Int8, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the K best items of a block of users, and for which of them the bound proves it."""
    states = Int8(values, row_scales(values))
    whole = int8_product(states, catalog, out)
    bound = states.size * catalog.error.max() + states.error * catalog.rounded_size.max()
    margin = 2 * bound / (states.scale[:, 0] * catalog.scale)
    count = whole.shape[1] // GROUP
    maxima = whole[:, : count * GROUP].unflatten(1, (count, GROUP)).amax(2)
    top, groups = maxima.topk(GROUPS + 1, dim=1)
    columns = (groups[:, :GROUPS, None] * GROUP + torch.arange(GROUP)).flatten(1)
    columns = torch.cat([columns, torch.arange(count * GROUP, whole.shape[1]).expand(len(values), -1)], dim=1)
    near, places = whole.gather(1, columns).topk(CANDIDATES + 1, dim=1)
    least = near[:, K - 1] - margin
    complete = (top[:, -1] < least) & (near[:, -1] < least)
    candidates = columns.gather(1, places[:, :CANDIDATES])
    scores = torch.bmm(table[candidates], values[:, :, None])[:, :, 0]
    return candidates.gather(1, scores.topk(K, dim=1).indices), complete


def best(work: Callable[[], Any], repeats: int) -> float:
    """Return the least processor time of some runs."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
