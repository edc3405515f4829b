"""Where histories begin and end in a packed row, worked out once a batch and reused by every layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, Positions
from ssd4rec.errors import ShapeError
from ssd4rec.ops.heads import add_by_head_, by_head

CHUNK = 64  # Q: positions that are worked on as one matrix


def promote_to_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half precision is widened: what is summed over a history is not summed in half precision."""
    return tuple(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors)


@dataclass(frozen=True)
class Chunks:
    """The row cut into C chunks of Q positions, and the links over which a history runs on from one to the next.

    The last chunk is padded; padding belongs to no history (-1) and the op multiplies it by zero.
    """

    length: int  # Q
    history: Tensor  # [C, Q]: which history a position belongs to; -1 = padding
    # [links]: link l lies between the chunks left[l] and left[l] + 1. Where most chunks are linked all are: a link over which no
    # history runs hands over what nobody reads, and slices are cheaper than gathering.
    left: Tensor
    # A history over the chunks 3, 4, 5, 6 makes three links. What 3|4 hands on is needed before 4|5 can be worked out, and so
    # on: relays lists the links that wait for the link before them, those that can be finished at the same time together.
    # A link alone is a slice.
    relays: tuple[Tensor | slice, ...]
    relays_back: tuple[Tensor | slice, ...]  # the same for a scan from the end of the row to its start: each waits for the next

    @property
    def count(self) -> int:
        """C: how many chunks."""
        return self.history.shape[0]

    def ends(self, *, reverse: bool) -> tuple["Tensor | slice", "Tensor | slice"]:
        """For each link the chunk that hands its state over, and the one that takes it."""
        lower: Tensor | slice = self.left
        upper: Tensor | slice = self.left + 1
        if self.left.shape[0] == self.count - 1:
            lower, upper = slice(0, -1), slice(1, None)
        return (upper, lower) if reverse else (lower, upper)

    def padded(self, values: Tensor) -> Tensor:
        """[T, ...] -> [C * Q, ...], zeros after the end."""
        missing = self.history.numel() - values.shape[0]
        if not missing:
            return values.contiguous()
        return torch.cat([values, values.new_zeros(missing, *values.shape[1:])])


@dataclass(frozen=True)
class Layout:
    """The places of a packed row. Sequences are not empty."""

    cu_seqlens: CuSeqlens  # [B + 1]
    first: Positions  # where the history of each position starts
    last: Positions  # where it ends, inclusive
    place: Positions  # 0-based place in its history
    history: Positions  # which history, 0-based
    chunks: Chunks

    @property
    def read_out(self) -> Tensor:
        """[B]: the last position of each history."""
        return self.cu_seqlens[1:] - 1

    @property
    def mirror(self) -> Positions:
        """Each history reversed in its own place: cu_seqlens [0, 2, 5] -> [1, 0, 4, 3, 2]."""
        return self.first + self.last - torch.arange(self.first.shape[0], device=self.first.device)


def make_layout(cu_seqlens: CuSeqlens, chunk: int = CHUNK, device: torch.device | None = None) -> Layout:
    """Work out the places of a packed row.

    What depends on the numbers in cu_seqlens is worked out on the CPU. With cu_seqlens there, nothing waits for the device;
    cu_seqlens on a GPU are fetched once.

    Args:
        cu_seqlens: int64 [B + 1]; history u owns positions cu_seqlens[u]:cu_seqlens[u + 1].
        chunk: Q, a power of two of 8 or more.
        device: where the layout is wanted; None: where cu_seqlens are.

    Raises:
        ShapeError: cu_seqlens do not start at 0 or do not rise (an empty history has nothing to read out).
    """
    edges = cu_seqlens.cpu()
    check(edges)
    device = device or cu_seqlens.device
    length = int(edges[-1])
    left, waits = _links(edges, chunk)
    relays = _relays(waits)
    relays_back = tuple(left.shape[0] - 1 - links for links in _relays(waits.flip(0)))
    shared = [links for links in (*relays, *relays_back) if len(links) > 1]
    here, left, *shared = _sent_together([edges, left, *shared], device)
    remaining = iter(shared)
    forth, back = (
        tuple(next(remaining) if len(links) > 1 else slice(int(links), int(links) + 1) for links in each)
        for each in (relays, relays_back)
    )

    history = torch.repeat_interleave(here.diff(), output_size=length)
    first, last = here[:-1][history], here[1:][history] - 1
    place = torch.arange(length, device=device) - first
    table = torch.full((-(-length // chunk) * chunk,), -1, dtype=history.dtype, device=device)
    table[:length] = history
    chunks = Chunks(chunk, table.view(-1, chunk), left, forth, back)
    return Layout(here, first, last, place, history, chunks)


def check(cu_seqlens: CuSeqlens) -> None:
    """See whether cu_seqlens can be those of a packed row.

    Raises:
        ShapeError: they do not start at 0 or do not rise (an empty history has nothing to read out).
    """
    edges = cu_seqlens.cpu()
    if edges.dim() != 1 or edges.shape[0] < 2 or int(edges[0]) != 0 or int(edges.diff().min()) < 1:
        shown = edges.flatten()[:8].tolist()
        raise ShapeError(f"cu_seqlens must be [0, …] and rise by 1 or more at each step, found {shown}…")


def append(items: Items, cu_seqlens: CuSeqlens, ends: Tensor) -> tuple[Tensor, CuSeqlens]:
    """One more place at the end of each history.

    Args:
        items: [T].
        cu_seqlens: [B + 1]; they may stay on the CPU.
        ends: [B] what the new places hold.

    Returns:
        Items [T + B] and their cu_seqlens: items [5, 7, 2], cu_seqlens [0, 2, 3], ends [0, 9] -> [5, 7, 0, 2, 9], [0, 3, 5].
    """
    longer = cu_seqlens + torch.arange(len(cu_seqlens), device=cu_seqlens.device)
    shift = torch.repeat_interleave(cu_seqlens.diff(), output_size=len(items))
    out = items.new_empty(len(items) + len(ends))
    out[to_device(torch.arange(len(items), device=cu_seqlens.device) + shift, items.device)] = items
    out[to_device(longer[1:] - 1, items.device)] = ends
    return out, longer


def cells_of_items(items: Items, cu_seqlens: CuSeqlens, rows: slice, catalog_size: int) -> Tensor:
    """Where the items of a few histories stand in a table of scores [rows, V].

    Args:
        items: int64 [T] packed histories; 0 stands for no item.
        cu_seqlens: int64 [B + 1]; they may stay on the CPU.
        rows: which histories.
        catalog_size: V.

    Returns:
        int64 [n] cells, counted through; an item that a history has twice stands twice. Items [3, 1, 0], cu_seqlens [0, 1, 3],
        both rows, V = 3 -> [2, 3].
    """
    edges = cu_seqlens[rows.start : rows.stop + 1]
    read = items[int(edges[0]) : int(edges[-1])]
    history = to_device(torch.repeat_interleave(edges.diff()), read.device)
    return (history * catalog_size + read - 1)[read > 0]


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """The values on a device; unlike `Tensor.to`, a GPU fetches them while the CPU goes on."""
    if torch.device(device).type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _sent_together(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    if tensors[0].device == device:
        return tensors
    return list(to_device(torch.cat(tensors), device).split([len(tensor) for tensor in tensors]))


def _links(edges: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """(left [links], waits [links - 1]): link l + 1 begins where link l ends, and the history fills the chunk between."""
    starts = torch.arange(0, int(edges[-1]), chunk)
    begins, ends = (
        torch.searchsorted(edges, at, right=True)  # the history, 1-based, of each chunk's first and last position
        for at in (starts, (starts + chunk - 1).clamp(max=int(edges[-1]) - 1))
    )
    linked = begins[1:] == ends[:-1]
    left = torch.arange(len(linked)) if 2 * linked.sum() > len(linked) else linked.nonzero().squeeze(1)
    runs_on = linked[left[:-1]] & linked[left[1:]] & (left[1:] == left[:-1] + 1)
    return left, runs_on & (begins == ends)[left[1:]]


def _relays(waits: Tensor) -> tuple[Tensor, ...]:
    # waits [T, T, F, T]: depth of the links [0, 1, 2, 0, 1] -> relays ([1, 4], [2])
    link = torch.arange(waits.shape[0] + 1)
    depth = link.clone()
    depth[1:] -= torch.where(waits, 0, link[1:]).cummax(0).values
    order = depth.argsort(stable=True)
    sizes: list[int] = torch.bincount(depth).tolist()
    relays: tuple[Tensor, ...] = order.split(sizes)[1:]
    return relays


def add_at_(total: Tensor, at: Tensor | slice, values: Tensor) -> None:
    """total[at] += values; no place twice."""
    if isinstance(at, slice):
        total[at] += values
    else:
        total.index_add_(0, at, values)


def beside(links: Tensor | slice, step: int) -> Tensor | slice:
    """The links `step` further on."""
    return slice(links.start + step, links.stop + step) if isinstance(links, slice) else links + step


def hand_on_(total: Tensor, source: Tensor | slice, to: Tensor | slice, factor: Tensor) -> None:
    """total[to] += by_head(total[source], factor), for links that do not wait for each other."""
    if isinstance(to, slice):
        add_by_head_(total[to], total[source], factor)
    else:
        total[to] += by_head(total[source], factor)
