"""Sequences of which a backbone reads at most so many events at once: the last ones, or windows that overlap by half."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.ops import keyed_random
from ssd4rec.ops.segments import check, to_device

Read = Callable[[Hidden, CuSeqlens], Hidden]  # of histories of any length: a vector a position, [T, D] -> [T, D]


@dataclass(frozen=True)
class Windows:
    """Long histories cut into overlapping windows.

    cu_seqlens [0, 5], length 2 -> rows [0, 1, 1, 2, 2, 3, 3, 4], cu_seqlens [0, 2, 4, 6, 8], answers [0, 1, 3, 5, 7].
    """

    rows: Tensor  # [T'] the positions that are read
    cu_seqlens: CuSeqlens  # [windows + 1] in rows
    answers: Tensor  # [T]: the place in `rows` at which position t has read the most


def read_ends(read: Read, embedded: Hidden, cu_seqlens: CuSeqlens, length: int) -> States:
    """What is read of the last position of each history, from its last `length` events.

    Args:
        read: a backbone's layers.
        embedded: [T, D] item vectors of the packed row.
        cu_seqlens: int64 [B + 1]. On the CPU, nothing waits for the device that the vectors are on.
        length: events that are read at most.

    Returns:
        [B, D].

    Raises:
        ShapeError: cu_seqlens do not rise from 0.
    """
    check(cu_seqlens)
    rows, shorter = last_events(cu_seqlens, length)
    device = embedded.device
    with keyed_random.at(rows):
        return read(embedded[to_device(rows, device)], shorter)[to_device(shorter[1:] - 1, device)]


def read_positions(read: Read, embedded: Hidden, cu_seqlens: CuSeqlens, length: int) -> Hidden:
    """What is read of every position, in windows of `length` events: `cut_into_windows`.

    Args:
        read: a backbone's layers.
        embedded: [T, D] item vectors of the packed row.
        cu_seqlens: int64 [B + 1]. On the CPU, nothing waits for the device that the vectors are on.
        length: events that are read at most.

    Returns:
        [T, D].

    Raises:
        ShapeError: cu_seqlens do not rise from 0.
    """
    check(cu_seqlens)
    windows = cut_into_windows(cu_seqlens, length)
    device = embedded.device
    with keyed_random.at(windows.rows):
        return read(embedded[to_device(windows.rows, device)], windows.cu_seqlens)[to_device(windows.answers, device)]


def last_events(cu_seqlens: CuSeqlens, length: int) -> tuple[Tensor, CuSeqlens]:
    """The last `length` events of each history: their positions, and the cu_seqlens of what is left."""
    kept = cu_seqlens.diff().clamp(max=length)
    return _ranges(cu_seqlens[1:] - kept, kept), _edges(kept)


def cut_into_windows(cu_seqlens: CuSeqlens, length: int) -> Windows:
    """Windows of at most `length` events; in a longer history each begins half a window after the one before it.

    A position is answered by the first window that holds it, so it has read all of its history if it is one of the first
    `length`, and otherwise at least the last half of `length`, at most all of `length`.
    """
    stride = (length + 1) // 2
    lengths = cu_seqlens.diff()
    count = 1 + (lengths - length).clamp(min=0).add(stride - 1) // stride
    history = torch.repeat_interleave(count)
    begins = (torch.arange(len(history), device=cu_seqlens.device) - _edges(count)[history]) * stride
    sizes = (lengths[history] - begins).clamp(max=length)
    edges = _edges(sizes)
    of_position = torch.repeat_interleave(lengths)
    place = torch.arange(len(of_position), device=cu_seqlens.device) - cu_seqlens[of_position]
    which = torch.where(place < length, 0, (place - length) // stride + 1)
    answers = edges[_edges(count)[of_position] + which] + place - which * stride
    return Windows(_ranges(cu_seqlens[history] + begins, sizes), edges, answers)


def _edges(sizes: Tensor) -> Tensor:
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _ranges(start: Tensor, sizes: Tensor) -> Tensor:
    """[5, 0], [2, 3] -> [5, 6, 0, 1, 2]."""
    shift = start - _edges(sizes)[:-1]
    return torch.arange(int(sizes.sum()), device=start.device) + torch.repeat_interleave(shift, sizes)
