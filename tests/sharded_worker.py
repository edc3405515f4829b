"""One process of a group that trains a sharded table in float64; see test_sharded_table.py."""

import json
import sys
from pathlib import Path

import torch

from ssd4rec.distributed import process_group
from ssd4rec.sharded_table import RowAdagrad, ShardedTable

ITEMS, WIDTH, TOKENS, STEPS = 1001, 8, 37, 4
SHARES = {1: [], 2: [11], 3: [11, 30]}  # where the tokens are cut between processes


def train(world, *, sampled):
    """Train on the tokens of this process; return the losses, the table in the order of items, and the sharded table."""
    table = ShardedTable(ITEMS, WIDTH, world, seed=3, dtype=torch.float64)
    torch.manual_seed(1)
    encoder = torch.nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
    rows, dense = RowAdagrad([table.weight], lr=0.1), torch.optim.SGD(encoder.parameters(), lr=0.5)
    losses = []
    for step in range(STEPS):
        torch.manual_seed(step)
        items, targets = (torch.randint(1, ITEMS + 1, (TOKENS,)).clamp(max=ITEMS) for _ in range(2))
        items[:5] = 0
        targets[:7] = 7  # repeated items
        edges = [0, *SHARES[world.size], TOKENS]
        if step == 2 and world.size > 1:
            edges[-2] = TOKENS  # the last process has nothing
        own = slice(edges[world.rank], edges[world.rank + 1])
        states = torch.tanh(encoder(table(items[own])))
        options = {"negatives": 50} if sampled else {}
        loss = (table.sampled_cross_entropy if sampled else table.cross_entropy)(states, targets[own], **options)
        rows.zero_grad()
        dense.zero_grad()
        loss.backward()
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in encoder.parameters()]
        world.sum_(gradients)
        for each, gradient in zip(encoder.parameters(), gradients, strict=True):
            each.grad = gradient
        reported = loss.detach().clone()
        if sampled:
            world.sum_([reported])
        losses.append(float(reported))
        rows.step()
        dense.step()
    whole = torch.zeros(ITEMS + 1, WIDTH, dtype=torch.float64)
    whole[world.rank :: world.size] = table.weight.detach()
    world.sum_([whole])
    return losses, whole, table


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with process_group() as world:
        results = {}
        for sampled in (False, True):
            losses, whole, table = train(world, sampled=sampled)
            results["sampled" if sampled else "full"] = {"losses": losses, "weights": whole.tolist()}
        table.save(folder / "table")
        (folder / f"{world.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
