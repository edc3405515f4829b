"""`ops.dropout.dropout` in one pass, compiled by numba."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.ops.numba.rows import for_groups, row_groups
from ssd4rec.ops.numba.vectors import FAST


class Dropout(torch.autograd.Function):
    """The kernel, which is its own gradient; only the random numbers are saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: Tensor, below: int, scale: float) -> Tensor:
        ctx.settings = levels.view(-1).numpy(), np.int16(below), np.float32(scale)
        return _dropped(x, *ctx.settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _dropped(grad, *ctx.settings), None, None, None


def _dropped(x: Tensor, levels: Any, below: np.int16, scale: np.float32) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    source, result = x.view(-1).numpy(), out.view(-1).numpy()
    for_groups(lambda group: _dropped_to(result, source, levels, below, scale, *group), row_groups(len(x), x[0].numel()))
    return out


@njit(**FAST)
def _dropped_to(out, x, levels, below, scale, first, last):
    for j in range(first, last):
        out[j] = x[j] * scale * np.float32(levels[j] < below)
