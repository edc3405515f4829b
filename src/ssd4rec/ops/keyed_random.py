"""Random numbers that are a function of keys, and not of the order in which they are drawn.

With one generator per batch, the dropout and the masks of a sequence depend on its place in the batch. They must not when
several processes share a batch. Inside `keyed(keys)` each row (a position of the packed batch) has a key, and its numbers are
a function of that key, the number of the draw within the step, and the column. Outside, numbers come from PyTorch's
generator.

The function is SplitMix64 (Steele, Lea and Flood 2014) as a counter-based generator: output i of the stream with seed `key`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens
from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import append_to_each, to_device

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
COLUMNS = 1 << 24  # distance of two draws in the stream of a row: the largest number of columns of a draw


@dataclass
class _Stream:
    keys: Tensor  # int64 [rows]
    draws: list[int]  # one number, the draws of this step so far: shared with the streams of `at` and `appended`


_current: list[_Stream] = []


@contextmanager
def _drawing_from(stream: _Stream | None) -> Iterator[None]:
    """Draw from a stream inside the block; None: change nothing."""
    if stream is None:
        yield
        return
    _current.append(stream)
    try:
        yield
    finally:
        _current.pop()


def keyed(keys: Tensor | None) -> AbstractContextManager[None]:
    """Draw by keys inside the block.

    Args:
        keys: int64 [rows], one for each row of the random tensors; None: use PyTorch's generator.
    """
    return _drawing_from(None if keys is None else _Stream(keys, [0]))


def _with_keys(change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """Inside the block, draw by other keys that are computed from those of the rows, if these have keys."""
    stream = _current[-1] if _current else None
    return _drawing_from(stream and _Stream(change(stream.keys), stream.draws))


def at(rows: Tensor) -> AbstractContextManager[None]:
    """Inside the block, draw for a selection of the rows: row i of the random tensors has the key of row `rows[i]`.

    Args:
        rows: int64 [n], on the CPU or on the device of the keys.
    """
    return _with_keys(lambda keys: keys[to_device(rows, keys.device)])


def appended(cu_seqlens: CuSeqlens) -> AbstractContextManager[None]:
    """Inside the block, each of the sequences has one more row at its end, whose key follows from its last one."""

    def append(keys: Tensor) -> Tensor:
        last = keys[to_device(cu_seqlens[1:] - 1, keys.device)]
        return append_to_each(keys, cu_seqlens, splitmix64(last))[0]

    return _with_keys(append)


def active() -> bool:
    """Return whether numbers are drawn by keys."""
    return bool(_current)


def bits(rows: int, columns: int) -> Tensor:
    """Draw 64 random bits for each row and column: int64 [rows, columns].

    Raises:
        ShapeError: the number of keys is not `rows`.
    """
    stream = _current[-1]
    if len(stream.keys) != rows:
        raise ShapeError(f"keyed random numbers need one key for each row, found {len(stream.keys)} keys for {rows} rows")
    first = stream.draws[0] * COLUMNS
    stream.draws[0] += 1
    counter = torch.arange(first + 1, first + columns + 1, device=stream.keys.device) * GOLDEN
    return splitmix64(stream.keys[:, None] + counter)


def uniform(shape: torch.Size, device: torch.device) -> Tensor:
    """Draw float32 numbers in [0, 1) of the shape [rows] or [rows, columns]."""
    if not active():
        return torch.rand(shape, device=device)
    columns = 1 if len(shape) == 1 else shape[1]
    high_bits = (bits(shape[0], columns) >> 40) & 0xFFFFFF
    return (high_bits.to(torch.float32) * 2.0**-24).view(shape)


def splitmix64(value: Tensor) -> Tensor:
    """Mix the bits of int64 numbers; `value` is a seed plus a multiple of GOLDEN."""
    value = (value ^ _shifted(value, 30)) * MIX_1
    value = (value ^ _shifted(value, 27)) * MIX_2
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, by: int) -> Tensor:
    """Shift right without the sign."""
    return (value >> by) & ((1 << (64 - by)) - 1)
