"""Index tensors of a packed batch, computed once per batch and shared by every layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, Positions
from ssd4rec.errors import ShapeError
from ssd4rec.ops.heads import add_scaled_heads_, scale_heads

CHUNK = 64  # Q: positions per chunk


def autocasts_to_bfloat16(device: str) -> bool:
    """Whether autocast to bfloat16 is active for this type of device."""
    active = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return active and torch.get_autocast_dtype(device) == torch.bfloat16


def promote_to_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Widen half precision to float32, so that sums over a sequence are not accumulated in half precision."""
    return tuple(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors)


@dataclass(frozen=True)
class Chunks:
    """The packed batch cut into C chunks of Q positions, and the chunk boundaries that sequences cross.

    The last chunk is padded. Padding has sequence index -1 and is masked out.
    """

    size: int  # Q
    seq_idx: Tensor  # [C, Q]: index of the sequence of each position; -1 = padding
    # [crossings]: a sequence crosses the boundary between the chunks before[l] and before[l] + 1. If most boundaries are crossed,
    # all are listed, because slices are cheaper than gathers; the state passed over an unused boundary is masked out.
    before: Tensor
    # A sequence that spans the chunks 3, 4, 5, 6 crosses three boundaries, and the state at 4|5 depends on the state at 3|4.
    # Each level lists the crossings that depend only on earlier levels. A single crossing is stored as a slice.
    levels: tuple[Tensor | slice, ...]
    levels_reverse: tuple[Tensor | slice, ...]  # the same for a scan from the last position to the first

    @property
    def count(self) -> int:
        """C: number of chunks."""
        return self.seq_idx.shape[0]

    def source_and_target(self, *, reverse: bool) -> tuple["Tensor | slice", "Tensor | slice"]:
        """Return for each crossing the chunk that a state leaves and the chunk that it enters."""
        lower: Tensor | slice = self.before
        upper: Tensor | slice = self.before + 1
        if self.before.shape[0] == self.count - 1:
            lower, upper = slice(0, -1), slice(1, None)
        return (upper, lower) if reverse else (lower, upper)

    def exit(self, *, reverse: bool) -> int:
        """Return the place in a chunk at which a state leaves it."""
        return 0 if reverse else self.size - 1

    def dependencies(self, *, reverse: bool) -> list[tuple["Tensor | slice", "Tensor | slice"]]:
        """Return for each level its crossings, and the crossings that they depend on."""
        levels, offset = (self.levels_reverse, 1) if reverse else (self.levels, -1)
        return [(level, _shift_index(level, offset)) for level in levels]

    def pad(self, values: Tensor) -> Tensor:
        """Append zeros up to a whole number of chunks. [T, ...] -> [C * Q, ...]."""
        missing = self.seq_idx.numel() - values.shape[0]
        if not missing:
            return values.contiguous()
        return torch.cat([values, values.new_zeros(missing, *values.shape[1:])])


@dataclass(frozen=True)
class Layout:
    """Index tensors of a packed batch of non-empty sequences."""

    cu_seqlens: CuSeqlens  # [B + 1]
    seq_start: Positions  # first position of the sequence that each position belongs to
    seq_end: Positions  # its last position, inclusive
    position: Positions  # 0-based position within the sequence
    seq_idx: Positions  # 0-based index of the sequence
    chunks: Chunks

    @property
    def last_index(self) -> Tensor:
        """[B]: the last position of each sequence."""
        return self.cu_seqlens[1:] - 1

    @property
    def reversed_index(self) -> Positions:
        """Index that reverses each sequence in place: cu_seqlens [0, 2, 5] -> [1, 0, 4, 3, 2]."""
        return self.seq_start + self.seq_end - torch.arange(self.seq_start.shape[0], device=self.seq_start.device)


def make_layout(cu_seqlens: CuSeqlens, chunk: int = CHUNK, device: torch.device | None = None) -> Layout:
    """Compute the index tensors of a packed batch.

    Everything that depends on the values of cu_seqlens is computed on the CPU.
    If cu_seqlens are on the CPU, no operation synchronizes with the device; if they are on a GPU, they are copied once.

    Args:
        cu_seqlens: int64 [B + 1]; sequence b owns positions cu_seqlens[b]:cu_seqlens[b + 1].
        chunk: Q, a power of two, at least 8.
        device: device of the result; None: the device of cu_seqlens.

    Raises:
        ShapeError: cu_seqlens do not start at 0 or do not increase (an empty sequence has no last position).
    """
    edges = cu_seqlens.cpu()
    check_cu_seqlens(edges)
    device = device or cu_seqlens.device
    length = int(edges[-1])
    before, dependent = _find_crossings(edges, chunk)
    forward = _dependency_levels(dependent)
    reverse = tuple(before.shape[0] - 1 - level for level in _dependency_levels(dependent.flip(0)))
    on_device, before, *levels = _transfer([edges, before, *forward, *reverse], device)
    slices = [slice(int(cpu), int(cpu) + 1) if len(cpu) == 1 else None for cpu in (*forward, *reverse)]
    steps = tuple(single or level for single, level in zip(slices, levels, strict=True))

    seq_idx = torch.repeat_interleave(on_device.diff(), output_size=length)
    seq_start, seq_end = on_device[:-1][seq_idx], on_device[1:][seq_idx] - 1
    position = torch.arange(length, device=device) - seq_start
    padded = torch.full((-(-length // chunk) * chunk,), -1, dtype=seq_idx.dtype, device=device)
    padded[:length] = seq_idx
    chunks = Chunks(chunk, padded.view(-1, chunk), before, steps[: len(forward)], steps[len(forward) :])
    return Layout(on_device, seq_start, seq_end, position, seq_idx, chunks)


def check_cu_seqlens(cu_seqlens: CuSeqlens) -> None:
    """Check that cu_seqlens describe non-empty sequences.

    Raises:
        ShapeError: they do not start at 0 or do not increase (an empty sequence has no last position).
    """
    edges = cu_seqlens.cpu()
    if edges.dim() != 1 or edges.shape[0] < 2 or int(edges[0]) != 0 or int(edges.diff().min()) < 1:
        shown = edges.flatten()[:8].tolist()
        raise ShapeError(f"cu_seqlens must start at 0 and increase by at least 1 at each step, found {shown}…")


def append_to_each(items: Items, cu_seqlens: CuSeqlens, last: Tensor) -> tuple[Tensor, CuSeqlens]:
    """Append the items last [B] to sequences, and return the items [T + B] and their cu_seqlens, which may stay on the CPU.

    Items [5, 7, 2], cu_seqlens [0, 2, 3], last [0, 9] -> [5, 7, 0, 2, 9], [0, 3, 5].
    """
    longer = cu_seqlens + torch.arange(len(cu_seqlens), device=cu_seqlens.device)
    shift = torch.repeat_interleave(cu_seqlens.diff(), output_size=len(items))
    out = items.new_empty(len(items) + len(last))
    out[to_device(torch.arange(len(items), device=cu_seqlens.device) + shift, items.device)] = items
    out[to_device(longer[1:] - 1, items.device)] = last
    return out, longer


def flat_score_index(items: Items, cu_seqlens: CuSeqlens, sequences: slice, catalog_size: int) -> Tensor:
    """Return the flat index of each sequence's own items in a score matrix [sequences, V]; item 0 stands for no item.

    `sequences` are those that the rows of the matrix belong to; cu_seqlens may stay on the CPU. An item that occurs twice in a
    sequence is listed twice. Items [3, 1, 0], cu_seqlens [0, 1, 3], both sequences, V = 3 -> [2, 3].
    """
    edges = cu_seqlens[sequences.start : sequences.stop + 1]
    own_items = items[int(edges[0]) : int(edges[-1])]
    row = to_device(torch.repeat_interleave(edges.diff()), own_items.device)
    return (row * catalog_size + own_items - 1)[own_items > 0]


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Copy values to a device; unlike `Tensor.to`, a copy from CPU to GPU is asynchronous."""
    if torch.device(device).type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _transfer(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Copy several tensors to a device in one transfer."""
    if tensors[0].device == device:
        return tensors
    return list(to_device(torch.cat(tensors), device).split([len(tensor) for tensor in tensors]))


def _find_crossings(edges: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return `Chunks.before`, and [crossings - 1] whether crossing l + 1 depends on crossing l."""
    starts = torch.arange(0, int(edges[-1]), chunk)
    first_seq, last_seq = (
        torch.searchsorted(edges, at, right=True)  # 1-based index of the sequence at the first and last position of each chunk
        for at in (starts, (starts + chunk - 1).clamp(max=int(edges[-1]) - 1))
    )
    crossed = first_seq[1:] == last_seq[:-1]
    before = torch.arange(len(crossed)) if 2 * crossed.sum() > len(crossed) else crossed.nonzero().squeeze(1)
    adjacent = crossed[before[:-1]] & crossed[before[1:]] & (before[1:] == before[:-1] + 1)
    return before, adjacent & (first_seq == last_seq)[before[1:]]  # one sequence fills the chunk between the two boundaries


def _dependency_levels(dependent: Tensor) -> tuple[Tensor, ...]:
    """Group crossings by depth; level 0, which depends on nothing, is left out.

    dependent [T, T, F, T]: depths [0, 1, 2, 0, 1] -> levels ([1, 4], [2]).
    """
    crossing = torch.arange(dependent.shape[0] + 1)
    depth = crossing.clone()
    depth[1:] -= torch.where(dependent, 0, crossing[1:]).cummax(0).values
    order = depth.argsort(stable=True)
    sizes: list[int] = torch.bincount(depth).tolist()
    return order.split(sizes)[1:]


def add_rows_(total: Tensor, index: Tensor | slice, values: Tensor) -> None:
    """Compute total[index] += values for distinct indices."""
    if isinstance(index, slice):
        total[index] += values
    else:
        total.index_add_(0, index, values)


def _shift_index(index: Tensor | slice, offset: int) -> Tensor | slice:
    """Add an offset to an index or slice."""
    return slice(index.start + offset, index.stop + offset) if isinstance(index, slice) else index + offset


def pass_states_(states: Tensor, source: Tensor | slice, target: Tensor | slice, decay: Tensor) -> None:
    """Compute states[target] += scale_heads(states[source], decay) for crossings of one level."""
    if isinstance(target, slice):
        add_scaled_heads_(states[target], states[source], decay)
    else:
        states[target] += scale_heads(states[source], decay)
