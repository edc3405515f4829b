"""Dropout with fast random numbers on a CPU: four masks from each 64-bit random integer."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.ops import keyed_random

LEVELS = 1 << 16  # values of the 16 random bits that decide about one element


def dropout(x: Tensor, p: float, *, training: bool) -> Tensor:
    """Zero each element with probability p and rescale the others so that the mean is unchanged.

    On a CPU p is rounded to a multiple of 1/65536, and the scale is that of the rounded p.
    On other devices this is `torch.nn.functional.dropout`.
    The random numbers come from torch's generator (`torch.manual_seed`), or are keyed by row (`ops.keyed_random`).
    Only the mask is saved for the backward pass.

    Args:
        x: floating point, any shape.
        p: 0 … 1.
        training: if false, x is returned unchanged.

    Source: Srivastava et al. 2014.
    """
    if x.device.type != "cpu" and not keyed_random.active():
        return F.dropout(x, p, training)
    keep_levels = round((1 - p) * LEVELS)
    if not training or keep_levels == LEVELS:
        return x
    dropped: Tensor = _Dropout.apply(x, keep_levels)  # type: ignore[no-untyped-call]  # torch has no types here
    return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep_levels: int) -> Tensor:
        # each int64 provides four int16, uniform in -32768 … 32767
        if keyed_random.active():
            columns = x.shape[1:].numel()
            levels = keyed_random.bits(len(x), -(-columns // 4)).view(torch.int16)[:, :columns].reshape(x.shape)
        else:
            random_integers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
            levels = random_integers.view(torch.int16)[: x.numel()].view(x.shape)
        mask = levels < keep_levels - LEVELS // 2
        ctx.save_for_backward(mask)
        scale = ctx.scale = LEVELS / keep_levels if keep_levels else 0.0
        return (x * scale).mul_(mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        d_x: Tensor = (grad * ctx.scale).mul_(mask)
        return d_x, None
