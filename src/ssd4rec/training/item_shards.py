"""Train with the item table spread over the processes: `training.shard_item_table`.

During a step each process has its rows of the table, their gradients and their moments. The whole table is put together, in every
process, for a validation and at the end, and with its moments for a checkpoint: files are those of a training without shards, so
either kind continues the other, with any number of processes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn
from torch.optim import Optimizer

from ssd4rec.config import TrainingConfig
from ssd4rec.distributed import World
from ssd4rec.errors import ConfigError
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.sharded_table import ShardedTable


def check_shardable(model: NextItemModel, config: TrainingConfig) -> None:
    """Check that a training needs only rows and scores that the shards can give.

    Raises:
        ConfigError: it needs more.
    """
    if model.features is not None:
        raise ConfigError("training.shard_item_table = true does not support item features; train without --items or shards")
    uses = {"training.label_smoothing": config.label_smoothing > 0, "backbone.repeat_logits": model.repeat_logits is not None}
    if (unsupported := [name for name, is_used in uses.items() if is_used]) and not config.samples(model.catalog_size):
        raise ConfigError(
            f"training.shard_item_table = true supports {' and '.join(unsupported)} with a sampled softmax only; set "
            f"training.softmax=sampled, or leave them out"
        )


class ItemShards:
    """The item table of a model, spread over the processes. All processes call each method together.

    Args:
        model: its table is replaced by the rows of this process.
        world: the processes.
    """

    def __init__(self, model: NextItemModel, world: World) -> None:
        self.world, self.rows = world, len(model.table.weight)
        model.table = cast("nn.Embedding", ShardedTable.part_of(model.table.weight.detach(), world))

    def mine(self, whole: Tensor) -> Tensor:
        """Return the rows of this process. [V + 1, ...] -> [rows, ...]."""
        return whole[self.world.rank :: self.world.size].contiguous()  # the fused optimizer reads moments as if they were

    def whole(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes in the order of the table. [rows, ...] -> [V + 1, ...]."""
        result = rows.new_zeros(self.rows, *rows.shape[1:])
        result[self.world.rank :: self.world.size] = rows.detach()
        self.world.sum_([result])
        return result

    @contextmanager
    def assembled(self, model: NextItemModel) -> Iterator[None]:
        """Give a model the whole table inside the block, for reading."""
        table = model.table
        self.assemble(model)
        try:
            yield
        finally:
            model.table = table

    def assemble(self, model: NextItemModel) -> None:
        """Give a model the whole table for good."""
        model.table = nn.Embedding.from_pretrained(self.whole(model.table.weight), freeze=False)

    def gathered(self, tensors: Mapping[str, Tensor], model: NextItemModel, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint with the rows of all processes."""
        names = _with_table_rows(model, optimizer)
        return {name: self.whole(tensor) if name in names else tensor for name, tensor in tensors.items()}

    def scattered(self, tensors: Mapping[str, Tensor], model: NextItemModel, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint with the rows of this process."""
        names = _with_table_rows(model, optimizer)
        return {name: self.mine(tensor) if name in names else tensor for name, tensor in tensors.items()}


def _with_table_rows(model: NextItemModel, optimizer: Optimizer) -> set[str]:
    """Return the names of the tensors of a checkpoint that have a row for each row of the item table."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    index = next(place for place, each in enumerate(parameters) if each is model.table.weight)
    return {"model.table.weight", "average.table.weight", f"optimizer.{index}.exp_avg", f"optimizer.{index}.exp_avg_sq"}
