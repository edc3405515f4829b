"""An item table whose rows are spread over the processes of a training, for catalogs that one process should not hold.

Row i is on process i modulo the number of processes. Every number here is the same for any number of processes, up to rounding:
the initial rows are keyed by item, losses are means over all targets, and the gradients are those of these means.

Bytes an item, with width D in float32: 4 D for the row and 4 for its optimizer (`RowAdagrad`), over the number of processes.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Items
from ssd4rec.distributed import World
from ssd4rec.errors import ArtifactError
from ssd4rec.ops import keyed_random
from ssd4rec.ops.cross_entropy import AddedLogits, smoothing_loss
from ssd4rec.ops.sampled_softmax import sampled_cross_entropy
from ssd4rec.sharded_softmax import sharded_cross_entropy

BLOCK = 1 << 16  # rows that are drawn, read or written at once
SHARD = "table-{:05}-of-{:05}.safetensors"


class ShardedTable(nn.Module):
    """The rows of this process of a table [V + 1, D]; row 0 is the mask, which is never scored.

    All processes call each method together.

    Args:
        catalog_size: V.
        width: D.
        world: the processes.
        seed: of the initial rows, which are normal with standard deviation 0.02; None: they are not set.
        dtype: of the rows.
    """

    weight: nn.Parameter  # [rows of this process, D]

    def __init__(
        self, catalog_size: int, width: int, world: World, seed: int | None = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.catalog_size, self.width, self.world = catalog_size, width, world
        count = len(range(world.rank, catalog_size + 1, world.size))
        self.weight = nn.Parameter(torch.empty(count, width, dtype=dtype))
        if seed is not None:
            self._draw_rows(seed)

    @classmethod
    def like_embedding(cls, catalog_size: int, width: int, world: World) -> "ShardedTable":
        """Return this process's part of the item table that a new model draws with torch's generator, a block at a time."""
        table = cls(catalog_size, width, world, seed=None)
        rows = catalog_size + 1
        for keep in (False, True):  # nn.Embedding draws its own values first
            # The last block is never short: torch draws fewer than 16 numbers in another way.
            starts = range(0, max(rows - BLOCK, 0) + 1, BLOCK)
            for start, stop in zip(starts, [*starts[1:], rows], strict=True):
                block = nn.init.normal_(torch.empty(stop - start, width), std=0.02)
                if keep:
                    offset = (world.rank - start) % world.size
                    first = (start + offset) // world.size
                    mine = block[offset :: world.size]
                    table.weight.data[first : first + len(mine)] = mine
        return table

    @classmethod
    def part_of(cls, rows: Tensor, world: World) -> "ShardedTable":
        """Return this process's part of a table [V + 1, D] that every process has."""
        table = cls(len(rows) - 1, rows.shape[1], world, seed=None, dtype=rows.dtype)
        table.weight = nn.Parameter(rows[world.rank :: world.size].clone())
        return table

    def __repr__(self) -> str:
        """Describe the table that this is a part of: a training resumes with and without shards."""
        return f"Embedding({self.catalog_size + 1}, {self.width})"

    @torch.no_grad()
    def _draw_rows(self, seed: int) -> None:
        for start in range(0, len(self.weight), BLOCK):
            rows = self.weight[start : start + BLOCK]
            items = (torch.arange(start, start + len(rows)) * self.world.size + self.world.rank) + (seed << 40)
            rows.copy_(0.02 * _normal(keyed_random.splitmix64(items * keyed_random.GOLDEN), self.width))

    def forward(self, items: Items) -> Tensor:
        """Return the rows of items, fetched from the processes that have them. [n] -> [n, D]; n may differ between processes."""
        return _Lookup.apply(self.weight, items, self.world)

    def cross_entropy(self, states: Tensor, targets: Items, added: AddedLogits | None = None, smoothing: float = 0.0) -> Tensor:
        """Return `sharded_cross_entropy`, the mean over the targets of all processes, with label smoothing.

        Its own gradients are those of the whole mean: add up the gradients of other parameters over the processes.
        """
        with torch.autocast(states.device.type, enabled=False):
            states = states.to(self.weight.dtype)
            loss = sharded_cross_entropy(states, self.weight, targets, self.world, added)
            return loss + smoothing * self._mean_smoothing_loss(states, targets) if smoothing else loss

    def _mean_smoothing_loss(self, states: Tensor, targets: Items) -> Tensor:
        """Return `smoothing_loss` over the targets of all processes, with the gradients of this one's part."""
        mine = self.smoothing_loss(states, targets) * (len(targets) / max(self.world.total(len(targets)), 1))
        every = mine.detach().clone()
        self.world.sum_([every])
        return mine + (every - mine.detach())

    def smoothing_loss(self, states: Tensor, targets: Items) -> Tensor:
        """Return `ops.cross_entropy.smoothing_loss` of this process's targets; all processes call it together."""
        rows, mean = self(targets), self.mean_row()
        return smoothing_loss(states, rows, mean[None]) if len(targets) else 0 * (rows.sum() + mean.sum() + states.sum())

    def mean_row(self) -> Tensor:
        """Return the mean of the rows of all items, without the mask. [D].

        Its gradients are summed over the processes: each process gives the gradient of its own part of a sum.
        """
        return _MeanRow.apply(self.weight, self.catalog_size, self.world)

    def sampled_cross_entropy(self, states: Tensor, targets: Items, negatives: int) -> Tensor:
        """Return the mean sampled softmax loss over the targets of all processes, with uniform negatives.

        `negatives` of them, which all targets share, are drawn with torch's generator, one from each of equally long runs of
        items. All processes need the same state of it. States are [M, D] of this process, targets int64 [M]; M may be 0.
        """
        count = min(negatives, self.catalog_size)
        points = (torch.arange(count) + torch.rand(count, dtype=torch.float64)) * (self.catalog_size / count)
        samples = (points.long().clamp_(max=self.catalog_size - 1) + 1).to(targets.device)
        rows = self(torch.cat([targets, samples]))
        total = self.world.total(len(targets))
        if not len(targets):
            return 0 * (rows.sum() + states.sum())  # both take part in the exchange of gradients
        expected = torch.full((count,), math.log(count / self.catalog_size), device=targets.device)
        mean = sampled_cross_entropy(states, rows[: len(targets)], targets, rows[len(targets) :], samples, expected)
        return mean * (len(targets) / total)

    def save(self, folder: str | Path) -> None:
        """Write this process's rows as one file of a folder."""
        name = SHARD.format(self.world.rank, self.world.size)
        metadata = {"ssd4rec": json.dumps({"catalog_size": self.catalog_size, "width": self.width, "shards": self.world.size})}
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({"rows": self.weight.detach()}, Path(folder) / name, metadata)

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        """Read this process's rows from a folder that any number of processes wrote.

        Raises:
            ArtifactError: a file is missing, or belongs to a table of another size.
        """
        paths = sorted(Path(folder).glob(SHARD.format(0, 0).replace("00000", "*")))
        if not paths:
            raise ArtifactError(f"{folder} has no files table-*.safetensors; give a folder that ShardedTable.save wrote")
        shards = int(paths[0].stem.rpartition("-")[2])
        for shard in range(shards):
            path = Path(folder) / SHARD.format(shard, shards)
            if not path.is_file():
                raise ArtifactError(f"{path} is missing; the folder needs all {shards} files")
            with safe_open(path, framework="pt") as file:
                metadata = json.loads(file.metadata()["ssd4rec"])
                if (metadata["catalog_size"], metadata["width"]) != (self.catalog_size, self.width):
                    raise ArtifactError(
                        f"{path} is of a table with {metadata['catalog_size']:,} items of width {metadata['width']}, expected "
                        f"{self.catalog_size:,} of width {self.width}"
                    )
                self._copy_rows(file.get_slice("rows"), shard, shards)

    def _copy_rows(self, source: Any, shard: int, shards: int) -> None:
        """Copy the items that are in a file and belong to this process."""
        for start in range(0, source.get_shape()[0], BLOCK):
            rows = source[start : start + BLOCK]
            items = torch.arange(start, start + len(rows)) * shards + shard
            mine = items % self.world.size == self.world.rank
            self.weight[items[mine] // self.world.size] = rows[mine]


class RowAdagrad(torch.optim.Optimizer):
    """Adagrad with one number a row, the sum of its mean squared gradients; rows without a gradient stay unchanged.

    For parameters with sparse gradients [rows, D]; the state is 4 bytes a row instead of the 8 D of Adam.

    Args:
        parameters: matrices.
        lr: the learning rate.

    Source: Duchi et al. 2011; the mean over a row as in torchrec's and DLRM's row-wise Adagrad.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float = 0.05) -> None:
        super().__init__(parameters, {"lr": lr, "eps": 1e-10})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the rows that have a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.coalesce() if parameter.grad.is_sparse else parameter.grad.to_sparse(1).coalesce()
                state = self.state[parameter]
                if not state:
                    state["sum"] = parameter.new_zeros(len(parameter))
                rows, values = gradient.indices()[0], gradient.values()
                state["sum"].index_add_(0, rows, values.square().mean(1))
                scale = state["sum"][rows].sqrt_().add_(group["eps"])
                parameter.index_add_(0, rows, values / scale[:, None], alpha=-group["lr"])
        return loss


class _Lookup(torch.autograd.Function):
    """Each distinct item is requested once, and its gradient is sent back once."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, items: Tensor, world: World) -> Tensor:
        distinct, inverse = items.unique(return_inverse=True)
        order = (distinct % world.size).argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        sent = torch.bincount(distinct % world.size, minlength=world.size).tolist()
        requested, received = world.exchange(distinct[order], sent)
        rows, _ = world.exchange(weight[requested // world.size], received)
        ctx.world, ctx.sent, ctx.received, ctx.size = world, sent, received, len(weight)
        ctx.save_for_backward(requested // world.size, place[inverse])
        return rows[place[inverse]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        local, index = ctx.saved_tensors
        distinct = grad.new_zeros(sum(ctx.sent), grad.shape[1]).index_add_(0, index, grad)
        values, _ = ctx.world.exchange(distinct, ctx.sent)
        gradient = torch.sparse_coo_tensor(local[None], values, (ctx.size, grad.shape[1]), check_invariants=False)
        return gradient, None, None


class _MeanRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, catalog_size: int, world: World) -> Tensor:
        ctx.world, ctx.size, ctx.rows = world, catalog_size, len(weight)
        total = weight[1 if world.is_first else 0 :].sum(0)  # the mask is on the first process
        world.sum_([total])
        return total / catalog_size

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total = grad / ctx.size
        ctx.world.sum_([total])
        d_weight = total.expand(ctx.rows, -1).clone()
        if ctx.world.is_first:
            d_weight[0] = 0
        return d_weight, None, None


def _normal(keys: Tensor, width: int) -> Tensor:
    """Return standard normal numbers [rows, width] that depend on the keys only (Box and Muller 1958)."""
    with keyed_random.keyed(keys):
        uniform = keyed_random.uniform(torch.Size([len(keys), 2 * width]), keys.device).double()
    radius = (-2 * torch.log1p(-uniform[:, :width])).sqrt_()
    return radius * torch.cos(2 * math.pi * uniform[:, width:])
