"""Dropout whose random numbers do not hold up a CPU: torch draws a Bernoulli number at a time, this four from each 64 bits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.ops import keyed_random

LEVELS = 1 << 16  # values of the 16 bits that decide over one element


def dropout(x: Tensor, p: float, *, training: bool) -> Tensor:
    """Set each element to 0 with probability p, independently, and scale the others so that the mean stays.

    On a CPU p is rounded to a multiple of 1/65536, and the scale is that of the rounded p; anywhere else this is torch's own.
    The random numbers are those of torch's generator (`torch.manual_seed`), or keyed by row (`ops/keyed_random.py`). Only the
    mask is kept for the backward pass.

    Args:
        x: floating point, any shape.
        p: 0 … 1.
        training: if not, x is returned as it is.

    Source: Srivastava et al. 2014.
    """
    if x.device.type != "cpu" and not keyed_random.active():
        return F.dropout(x, p, training)
    kept = round((1 - p) * LEVELS)  # of all levels
    if not training or kept == LEVELS:
        return x
    dropped: Tensor = _Dropout.apply(x, kept)  # type: ignore[no-untyped-call]  # torch has no types here
    return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: int) -> Tensor:
        # each int64 is four int16, uniform in -32768 … 32767
        if keyed_random.active():
            columns = x.shape[1:].numel()
            levels = keyed_random.bits(len(x), -(-columns // 4)).view(torch.int16)[:, :columns].reshape(x.shape)
        else:
            drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
            levels = drawn.view(torch.int16)[: x.numel()].view(x.shape)
        mask = levels < kept - LEVELS // 2
        ctx.save_for_backward(mask)
        scale = ctx.scale = LEVELS / kept if kept else 0.0
        return (x * scale).mul_(mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        dropped: Tensor = (grad * ctx.scale).mul_(mask)
        return dropped, None
