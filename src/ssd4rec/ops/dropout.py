"""Dropout with fast random numbers on a CPU: four masks from each 64-bit random integer.

`ops.dispatch` calls these functions or numba's kernels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.ops import keyed_random

LEVELS = 1 << 16  # values of the 16 random bits that decide about one element


def keep_levels(p: float) -> int:
    """Return how many of the levels keep an element."""
    return round((1 - p) * LEVELS)


def drops(p: float, *, training: bool) -> bool:
    """Whether any element can be zeroed."""
    return training and keep_levels(p) < LEVELS


def dropout(x: Tensor, p: float, *, training: bool) -> Tensor:
    """Zero each element with probability p; see `ops.dispatch.dropout` for the arguments."""
    if x.device.type != "cpu" and not keyed_random.active():
        return F.dropout(x, p, training)
    if not drops(p, training=training):
        return x
    return _Dropout.apply(x, keep_levels(p))


def random_levels(shape: torch.Size) -> Tensor:
    """Draw int16 numbers, uniform in -32768 … 32767."""
    if keyed_random.active():
        columns = shape[1:].numel()
        return keyed_random.bits(shape[0], -(-columns // 4)).view(torch.int16)[:, :columns].reshape(shape).contiguous()
    random_integers = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    return random_integers.view(torch.int16)[: shape.numel()].view(shape)


def scale_of(kept: int) -> float:
    """Return the factor of an element that is kept with probability kept / LEVELS."""
    return LEVELS / kept if kept else 0.0


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: int) -> Tensor:
        mask = random_levels(x.shape) < kept - LEVELS // 2
        ctx.save_for_backward(mask)
        scale = ctx.scale = scale_of(kept)
        return (x * scale).mul_(mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        d_x: Tensor = (grad * ctx.scale).mul_(mask)
        return d_x, None
