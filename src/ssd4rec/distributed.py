"""The processes of a distributed training, on top of `torch.distributed`.

Tensors on a CPU are exchanged with gloo, those on a GPU with NCCL. A process that loses another one ends with a
`ProcessGroupError`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from ssd4rec.errors import ProcessGroupError, first_line

TIMEOUT = timedelta(minutes=30)  # a process that died is noticed at once; this is for one that hangs


@dataclass(frozen=True)
class World:
    """This process among those that train one model together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace dense tensors by their sums over all processes, in one message per dtype."""
        if self.size == 1:
            return
        for dtype in {tensor.dtype: None for tensor in tensors}:
            group = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in group])
            with _collective(self):
                dist.all_reduce(flat)
            for tensor, total in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def sum_sparse(self, tensor: Tensor) -> Tensor:
        """Return the sum of a sparse tensor over all processes."""
        if self.size == 1:
            return tensor
        coalesced = tensor.coalesce()
        with _collective(self):
            dist.all_reduce(coalesced)
        return coalesced.coalesce()

    def gather(self, values: npt.NDArray[np.int64], places: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
        """Collect integers that the processes hold: entry `places[i]` of the result is `values[i]` of some process.

        Args:
            values: int64 [n] of this process.
            places: int64 [n]; those of all processes are 0 … total - 1, each once.
            total: length of the result.

        Returns:
            int64 [total], the same on every process.
        """
        result = torch.zeros(total, dtype=torch.int64)
        result[torch.from_numpy(places)] = torch.from_numpy(values)
        self.sum_([result])
        collected: npt.NDArray[np.int64] = result.numpy()
        return collected

    def total(self, count: int) -> int:
        """Return the sum of an integer over all processes."""
        counts = torch.tensor(count)
        self.sum_([counts])
        return int(counts)

    def max_(self, values: Tensor) -> None:
        """Replace a tensor by its elementwise maximum over all processes."""
        if self.size > 1:
            with _collective(self):
                dist.all_reduce(values, op=dist.ReduceOp.MAX)

    def exchange(self, rows: Tensor, counts: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Send consecutive rows to the processes 0, 1, …; return the rows that they sent to this one, and how many each sent.

        Args:
            rows: [sum of counts, …].
            counts: of the rows for each process.
        """
        if self.size == 1:
            return rows, list(counts)
        sent = torch.tensor(counts)
        received = torch.empty_like(sent)
        with _collective(self):
            dist.all_to_all_single(received, sent)
            sizes: list[int] = received.tolist()
            result = rows.new_empty(sum(sizes), *rows.shape[1:])
            dist.all_to_all_single(result, rows.contiguous(), sizes, list(counts))
        return result, sizes

    def all_rows(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """Return the rows of all processes, one process after the other, and how many each had. [n, width] -> [N, width]."""
        if self.size == 1:
            return rows, [len(rows)]
        counts = [torch.tensor(0) for _ in range(self.size)]
        with _collective(self):
            dist.all_gather(counts, torch.tensor(len(rows)))
            sizes = [int(count) for count in counts]
            padded = rows.new_zeros(max(sizes), *rows.shape[1:])
            padded[: len(rows)] = rows
            every = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(every, padded)
        return torch.cat([part[:size] for part, size in zip(every, sizes, strict=True)]), sizes

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.size > 1:
            with _collective(self):
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)


def current_world() -> World:
    """Return this process's place in the process group; a world of one if there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size())


@contextmanager
def process_group() -> Iterator[World]:
    """Join the process group that `ssd4rec train --devices N` or torchrun set up in the environment, if there is one.

    Raises:
        ProcessGroupError: the other processes cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield current_world()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with _collective(World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))):
        dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield current_world()
    finally:
        with suppress(RuntimeError):  # the others may be gone
            dist.destroy_process_group()


@contextmanager
def _collective(world: World) -> Iterator[None]:
    """Turn the errors of a lost connection into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessGroupError(
            f"process {world.rank} of {world.size} lost contact with another one, so all of them stop "
            f"({first_line(error)[:200]}); look for the error of the process that failed first, then run the same command "
            f"again with --resume"
        ) from error
