"""Where histories begin and end in a packed row, worked out once a batch and reused by every layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssd4rec.errors import ShapeError
from ssd4rec.shapes import Boundaries, Positions

CHUNK = 64  # Q: positions that are worked on as one matrix


def full(*tensors: Tensor) -> tuple[Tensor, ...]:
    """At least float32: what is summed over a history is not summed in half precision."""
    return tuple(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors)


@dataclass(frozen=True)
class Chunks:
    """The row cut into C chunks of Q positions, and the links over which a history runs on from one to the next.

    The last chunk is padded; padding belongs to no history (-1) and the op multiplies it by zero.
    """

    length: int  # Q
    history: Tensor  # [C, Q]: which history a position belongs to; -1 = padding
    left: Tensor  # [links]: link l lies between the chunks left[l] and left[l] + 1
    # A history over the chunks 3, 4, 5, 6 makes three links. What 3|4 hands on is needed before 4|5 can be worked out, and so
    # on: relays lists the links that wait for the link before them, those that can be finished at the same time together.
    relays: tuple[Tensor, ...]
    relays_back: tuple[Tensor, ...]  # the same for a scan from the end of the row to its start: each waits for the next

    @property
    def count(self) -> int:
        """C: how many chunks."""
        return self.history.shape[0]

    def padded(self, values: Tensor) -> Tensor:
        """[T, ...] -> [C * Q, ...], zeros after the end."""
        missing = self.history.numel() - values.shape[0]
        if not missing:
            return values.contiguous()
        return torch.cat([values, values.new_zeros(missing, *values.shape[1:])])


@dataclass(frozen=True)
class Layout:
    """The places of a packed row. Histories are not empty."""

    boundaries: Boundaries  # [B + 1]
    first: Positions  # where the history of each position starts
    last: Positions  # where it ends, inclusive
    place: Positions  # 0-based place in its history
    history: Positions  # which history, 0-based
    chunks: Chunks

    @property
    def read_out(self) -> Tensor:
        """[B]: the last position of each history."""
        return self.boundaries[1:] - 1

    @property
    def mirror(self) -> Positions:
        """Each history reversed in its own place: boundaries [0, 2, 5] -> [1, 0, 4, 3, 2]."""
        return self.first + self.last - torch.arange(self.first.shape[0], device=self.first.device)


def lay_out(boundaries: Boundaries, chunk: int = CHUNK) -> Layout:
    """Work out the places of a packed row.

    Args:
        boundaries: int64 [B + 1]; history u owns positions boundaries[u]:boundaries[u + 1].
        chunk: Q, a power of two of 8 or more.

    Raises:
        ShapeError: boundaries do not start at 0 or do not rise (an empty history has nothing to read out).
    """
    if boundaries.dim() != 1 or boundaries.shape[0] < 2 or int(boundaries[0]) != 0 or int(boundaries.diff().min()) < 1:
        shown = boundaries.flatten()[:8].tolist()
        raise ShapeError(f"boundaries must be [0, …] and rise by 1 or more at each step, found {shown}…")
    history = torch.repeat_interleave(boundaries.diff())
    first, last = boundaries[:-1][history], boundaries[1:][history] - 1
    place = torch.arange(history.shape[0], device=history.device) - first
    return Layout(boundaries, first, last, place, history, _chunks(history, chunk))


def _chunks(history: Tensor, length: int) -> Chunks:
    count = -(-history.shape[0] // length)
    padded = torch.full((count * length,), -1, dtype=history.dtype, device=history.device)
    padded[: history.shape[0]] = history
    table = padded.view(count, length)
    left = (table[1:, 0] == table[:-1, -1]).nonzero().squeeze(1)
    one_history = table[:, 0] == table[:, -1]
    neighbours = left[1:] == left[:-1] + 1
    waits = neighbours & one_history[left[1:]]  # link l + 1 begins where link l ends, and the history fills that chunk
    return Chunks(
        length=length,
        history=table,
        left=left,
        relays=_relays(waits),
        relays_back=tuple(left.shape[0] - 1 - links for links in _relays(waits.flip(0))),
    )


def _relays(waits: Tensor) -> tuple[Tensor, ...]:
    # waits [T, T, F, T]: depth of the links [0, 1, 2, 0, 1] -> relays ([1, 4], [2])
    link = torch.arange(waits.shape[0] + 1, device=waits.device)
    depth = link.clone()
    depth[1:] -= torch.where(waits, 0, link[1:]).cummax(0).values
    order = depth.argsort(stable=True)
    sizes: list[int] = torch.bincount(depth).tolist()
    relays: tuple[Tensor, ...] = order.split(sizes)[1:]
    return relays


def by_head(values: Tensor, factor: Tensor) -> Tensor:
    """[..., E] * [..., H]: a head's factor multiplies its P columns."""
    scaled: Tensor = (values.unflatten(-1, (factor.shape[-1], -1)) * factor[..., None]).flatten(-2)
    return scaled


def sum_of_head(values: Tensor, heads: int) -> Tensor:
    """[..., E] -> [..., H]: each head's P columns summed."""
    total: Tensor = values.unflatten(-1, (heads, -1)).sum(-1)
    return total
