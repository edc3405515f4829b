"""Depthwise convolution and SiLU as Triton kernels; both directions read the channels once.

out[t] = SiLU(bias + sum_k weight[K-1-k] in[t -+ k]) over the positions of the same sequence. In the backward pass
`_pre_activation_backward` recomputes the convolution and stores the gradient before SiLU and partial gradients of the weights;
`_input_backward` convolves that gradient in the opposite direction.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Channels
from ssd4rec.ops.segments import Layout
from ssd4rec.ops.triton.common import contiguous_rows

ROWS, COLUMNS = 32, 128  # estimates, not measurements
BLOCKS_A_PROGRAM = 8  # row blocks whose weight gradients are summed before they are stored


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """Compute `ops.dispatch.convolve`; the result has the type of the channels."""
    with torch.autocast(channels.device.type, enabled=False), torch.cuda.device_of(channels):
        return _Convolve.apply(channels, weight, bias, layout, (reverse,))[0]


def convolve_bidirectional(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout) -> tuple[Channels, Channels]:
    """Compute `ops.dispatch.convolve_bidirectional`; the results have the type of the channels."""
    with torch.autocast(channels.device.type, enabled=False), torch.cuda.device_of(channels):
        return _Convolve.apply(channels, weight, bias, layout, (False, True))


@triton.jit
def _shifted(values, edge, rows, columns, T, stride, channels, k: tl.constexpr, BACKWARD: tl.constexpr):
    """Load row t - k (BACKWARD: t + k) for each row t, zero outside its sequence. `edge`: its first (BACKWARD: last) row."""
    if BACKWARD:
        neighbors = rows + k
        inside = (rows < T) & (neighbors <= edge)
    else:
        neighbors = rows - k
        inside = (rows < T) & (neighbors >= edge)
    mask = inside[:, None] & (columns < channels)[None, :]
    return tl.load(values + neighbors[:, None] * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _convolve_rows(values, edge, weight, bias, rows, columns, T, stride, channels, K: tl.constexpr, BACKWARD: tl.constexpr):
    """[rows, columns]: the convolution before SiLU."""
    valid = columns < channels
    total = tl.load(bias + columns, mask=valid, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(K):
        tap = tl.load(weight + columns * K + (K - 1 - k), mask=valid, other=0.0).to(tl.float32)
        total = total + tap[None, :] * _shifted(values, edge, rows, columns, T, stride, channels, k, BACKWARD)
    return total


@triton.jit
def _block(T, channels, block, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    tiles = tl.cdiv(channels, COLUMNS)
    rows = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    return rows, columns, (rows < T)[:, None] & (columns < channels)[None, :]


@triton.jit(do_not_specialize=["T"])
def _forward(
    values, weight, bias, seq_starts, seq_ends, forward_out, backward_out, T, stride, channels,
    K: tl.constexpr, FORWARD: tl.constexpr, BACKWARD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows, columns, inside = _block(T, channels, tl.program_id(0) // tl.cdiv(channels, COLUMNS), ROWS, COLUMNS)
    at = rows[:, None] * channels + columns[None, :]
    if FORWARD:
        edge = tl.load(seq_starts + rows, mask=rows < T, other=0)
        total = _convolve_rows(values, edge, weight, bias, rows, columns, T, stride, channels, K, False)
        tl.store(forward_out + at, (total * tl.sigmoid(total)).to(forward_out.dtype.element_ty), mask=inside)
    if BACKWARD:
        edge = tl.load(seq_ends + rows, mask=rows < T, other=0)
        total = _convolve_rows(values, edge, weight, bias, rows, columns, T, stride, channels, K, True)
        tl.store(backward_out + at, (total * tl.sigmoid(total)).to(backward_out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["T"])
def _pre_activation_backward(
    values, weight, bias, edges, grad, d_total, d_weight, d_bias, T, stride, channels,
    K: tl.constexpr, BACKWARD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Store d_total [T, channels], before SiLU; d_weight [programs, K, channels] and d_bias [programs, channels] to sum."""
    program = (tl.program_id(0) // tl.cdiv(channels, COLUMNS)).to(tl.int64)
    taps = tl.arange(0, triton.next_power_of_2(K))
    sums = tl.zeros((triton.next_power_of_2(K), COLUMNS), dtype=tl.float32)
    bias_sum = tl.zeros((COLUMNS,), dtype=tl.float32)
    for block in range(BLOCKS):
        rows, columns, inside = _block(T, channels, program * BLOCKS + block, ROWS, COLUMNS)
        edge = tl.load(edges + rows, mask=rows < T, other=0)
        total = _convolve_rows(values, edge, weight, bias, rows, columns, T, stride, channels, K, BACKWARD)
        at = rows[:, None] * channels + columns[None, :]
        sigmoid = tl.sigmoid(total)
        d = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) * sigmoid * (1 + total * (1 - sigmoid))
        tl.store(d_total + at, d.to(d_total.dtype.element_ty), mask=inside)
        bias_sum += tl.sum(d, axis=0)
        for k in tl.static_range(K):
            tap_sum = tl.sum(d * _shifted(values, edge, rows, columns, T, stride, channels, k, BACKWARD), axis=0)
            sums += tl.where((taps == K - 1 - k)[:, None], tap_sum[None, :], 0.0)
    columns = (tl.program_id(0) % tl.cdiv(channels, COLUMNS)) * COLUMNS + tl.arange(0, COLUMNS)
    at = (program * K + taps[:, None]) * channels + columns[None, :]
    tl.store(d_weight + at, sums, mask=(taps < K)[:, None] & (columns < channels)[None, :])
    tl.store(d_bias + program * channels + columns, bias_sum, mask=columns < channels)


@triton.jit(do_not_specialize=["T"])
def _input_backward(
    d_forward, d_backward, weight, seq_starts, seq_ends, d_values, T, channels,
    K: tl.constexpr, FORWARD: tl.constexpr, BACKWARD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gather the gradient of each input row from the outputs that it contributed to."""
    rows, columns, inside = _block(T, channels, tl.program_id(0) // tl.cdiv(channels, COLUMNS), ROWS, COLUMNS)
    first = tl.load(seq_starts + rows, mask=rows < T, other=0)
    last = tl.load(seq_ends + rows, mask=rows < T, other=0)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in tl.static_range(K):
        tap = tl.load(weight + columns * K + (K - 1 - k), mask=columns < channels, other=0.0).to(tl.float32)[None, :]
        if FORWARD:
            total += tap * _shifted(d_forward, last, rows, columns, T, channels, channels, k, True)
        if BACKWARD:
            total += tap * _shifted(d_backward, first, rows, columns, T, channels, channels, k, False)
    at = rows[:, None] * channels + columns[None, :]
    tl.store(d_values + at, total.to(d_values.dtype.element_ty), mask=inside)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, layout: Layout, directions: tuple[bool, ...]
    ) -> tuple[Tensor, ...]:
        values = contiguous_rows(values)
        weight, bias = weight.contiguous(), bias.contiguous()
        length, channels = values.shape
        out = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in directions]
        _forward[_grid(length, channels)](
            values, weight, bias, layout.seq_start, layout.seq_end, out[0], out[-1], length, values.stride(0), channels,
            K=weight.shape[1], FORWARD=False in directions, BACKWARD=True in directions, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip
        ctx.save_for_backward(values, weight, bias)
        ctx.layout, ctx.directions = layout, directions
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, bias = ctx.saved_tensors
        layout, directions = ctx.layout, ctx.directions
        length, channels = values.shape
        K = weight.shape[1]
        programs, tiles = triton.cdiv(length, ROWS * BLOCKS_A_PROGRAM), triton.cdiv(channels, COLUMNS)
        d_weight = values.new_empty((len(directions), programs, K, channels), dtype=torch.float32)
        d_bias = values.new_empty((len(directions), programs, channels), dtype=torch.float32)
        d_total = []
        for index, (reverse, grad) in enumerate(zip(directions, grads, strict=True)):
            d_total.append(torch.empty_like(values, memory_format=torch.contiguous_format))
            _pre_activation_backward[(programs * tiles,)](
                values, weight, bias, layout.seq_end if reverse else layout.seq_start, grad.contiguous(), d_total[-1],
                d_weight[index], d_bias[index], length, values.stride(0), channels,
                K=K, BACKWARD=reverse, ROWS=ROWS, COLUMNS=COLUMNS, BLOCKS=BLOCKS_A_PROGRAM,
            )  # fmt: skip
        d_values = torch.empty_like(d_total[0])
        _input_backward[_grid(length, channels)](
            d_total[0], d_total[-1], weight, layout.seq_start, layout.seq_end, d_values, length, channels,
            K=K, FORWARD=False in directions, BACKWARD=True in directions, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip
        return d_values, d_weight.sum((0, 1)).T.to(weight.dtype), d_bias.sum((0, 1)).to(bias.dtype), None, None


def _grid(length: int, channels: int) -> tuple[int]:
    return (triton.cdiv(length, ROWS) * triton.cdiv(channels, COLUMNS),)
