"""Train with the item table spread over the processes: `training.shard_item_table`.

Each process has its rows of the table, their gradients and their moments, from the initial values on. Validation
ranks each target among the rows of each process (`evaluation.sharded_ranks`). The whole table is put together only in files, a
block of rows at a time: for the best weights, a checkpoint, and at the end. Processes map these files,
so their pages can be given back to the system, and processes of one machine share them. Files are those of a training without
shards, so either kind continues the other, with any number of processes.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssd4rec._io import sync
from ssd4rec.distributed import World
from ssd4rec.errors import ArtifactError, ConfigError
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.sharded_table import BLOCK, ShardedTable


def check_shardable(model: NextItemModel) -> None:
    """Check that a training needs only rows and scores that the shards can give.

    Raises:
        ConfigError: it has item features, or several members.
    """
    if model.members > 1:
        raise ConfigError(
            f"training.shard_item_table = true does not support backbone.members = {model.members}; set backbone.members=1, or "
            f"train without shards"
        )
    if model.features is not None:
        raise ConfigError("training.shard_item_table = true does not support item features; train without --items or shards")


class ItemShards:
    """The item table of a model, spread over the processes. All processes call each method together.

    Args:
        model: its table is replaced by the rows of this process, unless it is made so.
        world: the processes.
        folder: where the whole table is written for a moment; best on a disk that all processes read.
    """

    def __init__(self, model: NextItemModel, world: World, folder: Path) -> None:
        self.world, self.rows, self.folder = world, model.catalog_size + 1, folder
        if not isinstance(model.table, ShardedTable):
            model.table = cast("nn.Embedding", ShardedTable.part_of(model.table.weight.detach(), world))

    def mine(self, whole: Tensor) -> Tensor:
        """Return the rows of this process. [V + 1, ...] -> [rows, ...]."""
        return whole[self.world.rank :: self.world.size].contiguous()  # the fused optimizer reads moments as if they were

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield the rows of all processes in the order of the table, a block at a time. [rows, ...] -> [<= BLOCK, ...]."""
        size, rank = self.world.size, self.world.rank
        for start in range(0, self.rows, BLOCK):
            block = rows.new_zeros(min(BLOCK, self.rows - start), *rows.shape[1:])
            offset = (rank - start) % size
            own = len(range(offset, len(block), size))
            first = (start + offset) // size
            block[offset::size] = rows.detach()[first : first + own]
            self.world.sum_([block])
            yield block

    def written(self, rows: Tensor) -> Tensor | None:
        """Return the rows of all processes on the first one, mapped from a file without a name; None on the others."""
        blocks = self.blocks(rows)
        if not self.world.is_first:
            deque(blocks, maxlen=0)
            return None
        path = self.folder / f".table-{uuid4().hex}"
        try:
            _write(path, blocks)
            return _mapped(path, rows, self.rows)
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def assembled(self, model: NextItemModel) -> Iterator[None]:
        """Give a model the whole table inside the block, for reading."""
        table, rows = model.table, model.table.weight
        model.table = nn.Embedding.from_pretrained(self._shared(rows, self.blocks(rows)).to(rows.device))
        try:
            yield
        finally:
            model.table = table

    @torch.no_grad()
    def finish(self, model: NextItemModel, weights: Mapping[str, Tensor] | None) -> None:
        """Give a model the weights of a file for good; the item table stays mapped.

        Args:
            model: its table is replaced.
            weights: of all processes, on the first one; None on the others.
        """
        like = model.table.weight
        if weights is not None:
            like = weights["table.weight"]
            others = {name: tensor for name, tensor in weights.items() if name != "table.weight"}
            model.load_state_dict(others, strict=False)
        table = self._shared(like, iter(like.split(BLOCK) if weights is not None else ()))
        self.world.broadcast_([tensor for name, tensor in model.state_dict().items() if name != "table.weight"])
        model.table = nn.Embedding.from_pretrained(table, freeze=False)

    def _shared(self, like: Tensor, blocks: Iterator[Tensor]) -> Tensor:
        """Return a table that the first process writes: mapped from one file where all of them see it, otherwise in memory.

        Args:
            like: has the type and width of the table.
            blocks: of the table; every process exhausts them.
        """
        number = torch.tensor(uuid4().int >> 66)  # 62 bits
        self.world.broadcast_([number])
        path = self.folder / f".table-{int(number):016x}"
        if self.world.is_first:
            _write(path, blocks)
            sync([path])  # for processes on other machines
        else:
            deque(blocks, maxlen=0)
        self.world.total(0)  # the file is complete
        try:
            if not self.world.total(int(not path.is_file())):
                return _mapped(path, like, self.rows)
            whole = _mapped(path, like, self.rows).clone() if self.world.is_first else like.new_zeros(self.rows, like.shape[1])
            self.world.broadcast_([whole])
            return whole
        finally:
            self.world.total(0)  # all have opened it
            if self.world.is_first:
                path.unlink(missing_ok=True)

    def gathered(self, tensors: Mapping[str, Tensor], model: NextItemModel, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint with the rows of all processes; on the first process only, they are complete."""
        names = _with_table_rows(model, optimizer)
        every = {name: self.written(tensor) if name in names else tensor for name, tensor in tensors.items()}
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    def scattered(self, tensors: Mapping[str, Tensor], model: NextItemModel, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint with the rows of this process."""
        names = _with_table_rows(model, optimizer)
        return {name: self.mine(tensor) if name in names else tensor for name, tensor in tensors.items()}


def _write(path: Path, blocks: Iterator[Tensor]) -> None:
    try:
        with path.open("wb") as file:
            for block in blocks:
                file.write(block.detach().cpu().contiguous().numpy().data)
    except OSError as error:
        raise ArtifactError(
            f"the item table cannot be written to {path.parent}: {error.strerror or error}; free some space, and run the same "
            f"command again with --resume"
        ) from error


def _mapped(path: Path, like: Tensor, rows: int) -> Tensor:
    """Return a matrix that is mapped from a file, of the type and width of another."""
    return torch.from_file(str(path), size=rows * like.shape[1], dtype=like.dtype).view(rows, like.shape[1])


def _with_table_rows(model: NextItemModel, optimizer: Optimizer) -> set[str]:
    """Return the names of the tensors of a checkpoint that have a row for each row of the item table."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    index = next(place for place, each in enumerate(parameters) if each is model.table.weight)
    return {"model.table.weight", "average.table.weight", f"optimizer.{index}.exp_avg", f"optimizer.{index}.exp_avg_sq"}
