"""Limit how many positions an encoder reads at once: the last ones, or windows that overlap by half."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.ops import keyed_random
from ssd4rec.ops.segments import check_cu_seqlens, to_device

Encoder = Callable[[Hidden, CuSeqlens], Hidden]  # one vector per position of a packed batch, [T, D] -> [T, D]


@dataclass(frozen=True)
class Windows:
    """Long sequences cut into overlapping windows.

    cu_seqlens [0, 5], length 2 -> index [0, 1, 1, 2, 2, 3, 3, 4], cu_seqlens [0, 2, 4, 6, 8], outputs [0, 1, 3, 5, 7].
    """

    index: Tensor  # [T'] positions that the windows contain
    cu_seqlens: CuSeqlens  # [windows + 1] in `index`
    outputs: Tensor  # [T]: the row of `index` whose output represents each position


def encode_last(encoder: Encoder, embedded: Hidden, cu_seqlens: CuSeqlens, length: int) -> States:
    """Encode the last `length` positions of each sequence and return the output at the last one. [T, D] -> [B, D].

    cu_seqlens are on the CPU, so that nothing synchronizes with the device of the embeddings.

    Raises:
        ShapeError: cu_seqlens do not increase from 0.
    """
    check_cu_seqlens(cu_seqlens)
    index, truncated = last_positions(cu_seqlens, length)
    device = embedded.device
    with keyed_random.at(index):
        return encoder(embedded[to_device(index, device)], truncated)[to_device(truncated[1:] - 1, device)]


def encode_windows(encoder: Encoder, embedded: Hidden, cu_seqlens: CuSeqlens, length: int) -> Hidden:
    """Encode every position, in windows of `length` positions; see `cut_into_windows` and `encode_last`. [T, D] -> [T, D]."""
    check_cu_seqlens(cu_seqlens)
    windows = cut_into_windows(cu_seqlens, length)
    device = embedded.device
    with keyed_random.at(windows.index):
        return encoder(embedded[to_device(windows.index, device)], windows.cu_seqlens)[to_device(windows.outputs, device)]


def last_positions(cu_seqlens: CuSeqlens, length: int) -> tuple[Tensor, CuSeqlens]:
    """Return the index of the last `length` positions of each sequence, and the cu_seqlens of the truncated sequences."""
    lengths = cu_seqlens.diff().clamp(max=length)
    return _ranges(cu_seqlens[1:] - lengths, lengths), _offsets(lengths)


def cut_into_windows(cu_seqlens: CuSeqlens, length: int) -> Windows:
    """Cut sequences into windows of at most `length` positions that start half a window apart.

    The output for a position comes from the first window that contains it.
    The first `length` positions of a sequence therefore see their whole past; later ones see `length` / 2 to `length` positions.
    """
    stride = (length + 1) // 2
    lengths = cu_seqlens.diff()
    count = 1 + (lengths - length).clamp(min=0).add(stride - 1) // stride
    sequence = torch.repeat_interleave(count)
    starts = (torch.arange(len(sequence), device=cu_seqlens.device) - _offsets(count)[sequence]) * stride
    sizes = (lengths[sequence] - starts).clamp(max=length)
    offsets = _offsets(sizes)
    seq_idx = torch.repeat_interleave(lengths)
    position = torch.arange(len(seq_idx), device=cu_seqlens.device) - cu_seqlens[seq_idx]
    window = torch.where(position < length, 0, (position - length) // stride + 1)
    outputs = offsets[_offsets(count)[seq_idx] + window] + position - window * stride
    return Windows(_ranges(cu_seqlens[sequence] + starts, sizes), offsets, outputs)


def _offsets(sizes: Tensor) -> Tensor:
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _ranges(start: Tensor, sizes: Tensor) -> Tensor:
    """[5, 0], [2, 3] -> [5, 6, 0, 1, 2]."""
    shift = start - _offsets(sizes)[:-1]
    return torch.arange(int(sizes.sum()), device=start.device) + torch.repeat_interleave(shift, sizes)
