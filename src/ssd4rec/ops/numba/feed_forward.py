"""`ops.feed_forward.feed_forward` in blocks of rows whose wide values stay in the second-level cache.

The products are PyTorch's; GELU and dropout are one pass, compiled by numba.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Hidden
from ssd4rec.ops.cross_entropy import add_product
from ssd4rec.ops.numba.rows import flat_numbers, for_groups, row_groups
from ssd4rec.ops.numba.simd import LANES, clamped, exp, filled, load, smaller, store
from ssd4rec.ops.numba.vectors import FAST, HALF, ONE

BLOCK = 1 << 17  # wide values in a block: 512 KiB
FEWEST = 64  # rows of a block
INVERSE_SQRT_2, INVERSE_SQRT_2_PI = np.float32(0.5**0.5), np.float32((2 * np.pi) ** -0.5)
FLAT = np.float32(4.0)  # erf is 1 in float32 from here on
# erf(x) = x P(x^2) / Q(x^2) for |x| <= 4, Q(0) = 1: fitted for the smallest relative error, which is 4.3e-7 in float32
P0, P1, P2 = np.float32(1.1283791), np.float32(0.20712522), np.float32(0.05152488)
P3, P4, P5 = np.float32(0.0039905775), np.float32(0.00014728715), np.float32(-1.9423278e-6)
P6, Q1, Q2 = np.float32(1.9111104e-8), np.float32(0.5168912), np.float32(0.117970735)
Q3, Q4 = np.float32(0.014958072), np.float32(0.0010211158)


class FeedForward(torch.autograd.Function):
    """The blocks with their gradients; the input and the random numbers are saved, and the wide values computed again.

    `operands` is the type of the operands and results of products: float32, or bfloat16 under autocast.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Hidden, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor,
        levels: Tensor, below: int, scale: float, operands: torch.dtype,
    ) -> Hidden:  # fmt: skip
        ctx.types = x.dtype, widen.dtype
        x, widen, widen_bias, narrow, narrow_bias = (each.to(operands) for each in (x, widen, widen_bias, narrow, narrow_bias))
        ctx.save_for_backward(x, widen, widen_bias, narrow, levels)
        ctx.settings = np.int16(min(below, 32767)), np.float32(scale)
        out, (buffer,) = x.new_empty(len(x), len(narrow)), _buffers(1, x, len(widen))
        for rows in _blocks(len(x), len(buffer)):
            values = torch.addmm(widen_bias, x[rows], widen.T, out=buffer[: rows.stop - rows.start])
            _in_groups(_gelu_dropout_, (values, levels[rows]), ctx.settings)
            torch.addmm(narrow_bias, values, narrow.T, out=out[rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Hidden) -> tuple[Tensor | None, ...]:
        x, widen, widen_bias, narrow, levels = ctx.saved_tensors
        (x_type, weight_type), (buffer, d_buffer) = ctx.types, _buffers(2, x, len(widen))
        d_x = torch.empty_like(x)
        d_widen, d_widen_bias, d_narrow = (torch.zeros_like(each, dtype=weight_type) for each in (widen, widen_bias, narrow))
        for rows in _blocks(len(x), len(buffer)):
            values = torch.addmm(widen_bias, x[rows], widen.T, out=buffer[: rows.stop - rows.start])
            d_values = torch.mm(grad[rows], narrow, out=d_buffer[: rows.stop - rows.start])
            _in_groups(_gelu_dropout_backward_, (values, d_values, levels[rows]), ctx.settings)
            add_product(d_narrow, grad[rows].T, values)
            add_product(d_widen, d_values.T, x[rows])
            d_widen_bias += d_values.sum(0, dtype=weight_type)
            torch.mm(d_values, widen, out=d_x[rows])
        d_narrow_bias = grad.sum(0, dtype=weight_type)
        return d_x.to(x_type), d_widen, d_widen_bias, d_narrow, d_narrow_bias, None, None, None, None


def _buffers(number: int, x: Hidden, width: int) -> Tensor:
    """Return memory for the wide values of a block."""
    return x.new_empty(number, min(len(x), max(BLOCK // width, FEWEST)), width)


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _in_groups(kernel: Any, tensors: tuple[Tensor, ...], settings: tuple[np.int16, np.float32]) -> None:
    arrays = [flat_numbers(each) for each in tensors]
    for_groups(lambda group: kernel(*arrays, *settings, *group), row_groups(*tensors[0].shape))


@njit(**FAST)
def _normal_probability(x):
    """Return (1 + erf(x / sqrt(2))) / 2."""
    z = clamped(x * INVERSE_SQRT_2, -FLAT, FLAT)
    s = z * z
    p = (((((s * P6 + P5) * s + P4) * s + P3) * s + P2) * s + P1) * s + P0
    q = (((s * Q4 + Q3) * s + Q2) * s + Q1) * s + ONE
    return HALF + HALF * (z * p / q)


@njit(**FAST)
def _factor(levels, j, below, scale):
    return smaller(levels, j, below) * scale if len(levels) else filled(ONE)


@njit(**FAST)
def _gelu_dropout_(values, levels, below, scale, first, last):
    """Replace x by dropout(GELU(x)); without levels, by GELU(x)."""
    for j in range(first, last, LANES):
        x = load(values, j)
        store(values, j, x * _normal_probability(x) * _factor(levels, j, below, scale))


@njit(**FAST)
def _gelu_dropout_backward_(values, grads, levels, below, scale, first, last):
    """Replace x by dropout(GELU(x)) as above, and the gradient of that by the one of x."""
    for j in range(first, last, LANES):
        x, factor = load(values, j), _factor(levels, j, below, scale)
        probability = _normal_probability(x)
        slope = probability + x * INVERSE_SQRT_2_PI * exp(x * x * -HALF)
        store(grads, j, load(grads, j) * slope * factor)
        store(values, j, x * probability * factor)
