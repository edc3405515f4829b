"""The depthwise convolution and SiLU on a GPU: both directions from one read of the channels.

out[t] = SiLU(bias + sum_k weight[K-1-k] in[t -+ k]) over the events of the same history. Backward, `_before` works out the
gradient before SiLU (the convolution again) and its share of the weights' gradients, and `_spread` convolves it the other way.
"""
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-untyped-def, unused-ignore"
# ruff: noqa: ANN001 - kernels: pointers and constexprs carry no types that Python knows

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Channels
from ssd4rec.ops.segments import Layout
from ssd4rec.ops.triton.common import rows_together

ROWS, COLUMNS = 32, 128  # estimates, as all sizes in this folder that no GPU has measured
BLOCKS_A_PROGRAM = 8  # row blocks whose share of the weights' gradients is summed before it is written


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """out_t = SiLU(bias + sum_k weight[K-1-k] in_{t-k}), over the events t-k of the same history.

    Args:
        channels: [T, channels].
        weight: [channels, K], the last column meets the event itself.
        bias: [channels].
        layout: of the row.
        reverse: read t+k in place of t-k, as if each history ran backwards.

    Returns:
        [T, channels] in the channels' type.
    """
    with torch.autocast(channels.device.type, enabled=False), torch.cuda.resolve_device(channels):
        out: tuple[Channels, ...] = _Convolve.apply(channels, weight, bias, layout, (reverse,))  # type: ignore[no-untyped-call]  # torch has no types here
    return out[0]


def convolve_both_ways(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout) -> tuple[Channels, Channels]:
    """`convolve` and `convolve(reverse=True)` from one read of the channels.

    Args:
        channels: [T, channels].
        weight: [channels, K], the last column meets the event itself.
        bias: [channels].
        layout: of the row.

    Returns:
        Two of [T, channels] in the channels' type.
    """
    with torch.autocast(channels.device.type, enabled=False), torch.cuda.resolve_device(channels):
        both: tuple[Channels, Channels] = _Convolve.apply(channels, weight, bias, layout, (False, True))  # type: ignore[no-untyped-call]  # torch has no types here
    return both


@triton.jit
@no_type_check
def _shifted(values, edge, rows, columns, T, stride, channels, k: tl.constexpr, BACK: tl.constexpr):
    """Row t of the result is row t - k (BACK: t + k) of the same history, else zero. `edge`: first (BACK: last) of each row."""
    if BACK:
        there = rows + k
        inside = (rows < T) & (there <= edge)
    else:
        there = rows - k
        inside = (rows < T) & (there >= edge)
    mask = inside[:, None] & (columns < channels)[None, :]
    return tl.load(values + there[:, None] * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def _taps(values, edge, weight, bias, rows, columns, T, stride, channels, K: tl.constexpr, BACK: tl.constexpr):
    """[rows, columns]: the convolution before its SiLU."""
    here = columns < channels
    total = tl.load(bias + columns, mask=here, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(K):
        tap = tl.load(weight + columns * K + (K - 1 - k), mask=here, other=0.0).to(tl.float32)
        total = total + tap[None, :] * _shifted(values, edge, rows, columns, T, stride, channels, k, BACK)
    return total


@triton.jit
@no_type_check
def _place(T, channels, block, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    tiles = tl.cdiv(channels, COLUMNS)
    rows = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    return rows, columns, (rows < T)[:, None] & (columns < channels)[None, :]


@triton.jit(do_not_specialize=["T"])
@no_type_check
def _forward(
    values, weight, bias, first, last, ahead, back, T, stride, channels,
    K: tl.constexpr, AHEAD: tl.constexpr, BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows, columns, inside = _place(T, channels, tl.program_id(0) // tl.cdiv(channels, COLUMNS), ROWS, COLUMNS)
    at = rows[:, None] * channels + columns[None, :]
    if AHEAD:
        edge = tl.load(first + rows, mask=rows < T, other=0)
        total = _taps(values, edge, weight, bias, rows, columns, T, stride, channels, K, False)
        tl.store(ahead + at, (total * tl.sigmoid(total)).to(ahead.dtype.element_ty), mask=inside)
    if BACK:
        edge = tl.load(last + rows, mask=rows < T, other=0)
        total = _taps(values, edge, weight, bias, rows, columns, T, stride, channels, K, True)
        tl.store(back + at, (total * tl.sigmoid(total)).to(back.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def _before(
    values, weight, bias, edges, grad, d_total, d_weight, d_bias, T, stride, channels,
    K: tl.constexpr, BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """d_total [T, channels], before SiLU; d_weight [programs, K, channels] and d_bias [programs, channels], to be summed."""
    program = (tl.program_id(0) // tl.cdiv(channels, COLUMNS)).to(tl.int64)
    taps = tl.arange(0, triton.next_power_of_2(K))
    sums = tl.zeros((triton.next_power_of_2(K), COLUMNS), dtype=tl.float32)
    of_bias = tl.zeros((COLUMNS,), dtype=tl.float32)
    for block in range(BLOCKS):
        rows, columns, inside = _place(T, channels, program * BLOCKS + block, ROWS, COLUMNS)
        edge = tl.load(edges + rows, mask=rows < T, other=0)
        total = _taps(values, edge, weight, bias, rows, columns, T, stride, channels, K, BACK)
        at = rows[:, None] * channels + columns[None, :]
        open_ = tl.sigmoid(total)
        d = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) * open_ * (1 + total * (1 - open_))
        tl.store(d_total + at, d.to(d_total.dtype.element_ty), mask=inside)
        of_bias += tl.sum(d, axis=0)
        for k in tl.static_range(K):
            share = tl.sum(d * _shifted(values, edge, rows, columns, T, stride, channels, k, BACK), axis=0)
            sums += tl.where((taps == K - 1 - k)[:, None], share[None, :], 0.0)
    columns = (tl.program_id(0) % tl.cdiv(channels, COLUMNS)) * COLUMNS + tl.arange(0, COLUMNS)
    at = (program * K + taps[:, None]) * channels + columns[None, :]
    tl.store(d_weight + at, sums, mask=(taps < K)[:, None] & (columns < channels)[None, :])
    tl.store(d_bias + program * channels + columns, of_bias, mask=columns < channels)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def _spread(
    d_ahead, d_back, weight, first, last, d_values, T, channels,
    K: tl.constexpr, AHEAD: tl.constexpr, BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """An event gives to those that it was heard by: forwards to the events after it, reversed to those before it."""
    rows, columns, inside = _place(T, channels, tl.program_id(0) // tl.cdiv(channels, COLUMNS), ROWS, COLUMNS)
    begins = tl.load(first + rows, mask=rows < T, other=0)
    ends = tl.load(last + rows, mask=rows < T, other=0)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for k in tl.static_range(K):
        tap = tl.load(weight + columns * K + (K - 1 - k), mask=columns < channels, other=0.0).to(tl.float32)[None, :]
        if AHEAD:
            total += tap * _shifted(d_ahead, ends, rows, columns, T, channels, channels, k, True)
        if BACK:
            total += tap * _shifted(d_back, begins, rows, columns, T, channels, channels, k, False)
    at = rows[:, None] * channels + columns[None, :]
    tl.store(d_values + at, total.to(d_values.dtype.element_ty), mask=inside)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, layout: Layout, directions: tuple[bool, ...]
    ) -> tuple[Tensor, ...]:
        values = rows_together(values)
        weight, bias = weight.contiguous(), bias.contiguous()
        length, channels = values.shape
        out = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in directions]
        _forward[_grid(length, channels)](
            values, weight, bias, layout.first, layout.last, out[0], out[-1], length, values.stride(0), channels,
            K=weight.shape[1], AHEAD=False in directions, BACK=True in directions, ROWS=ROWS, COLUMNS=COLUMNS,
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
        for place, (reverse, grad) in enumerate(zip(directions, grads, strict=True)):
            d_total.append(torch.empty_like(values, memory_format=torch.contiguous_format))
            _before[(programs * tiles,)](
                values, weight, bias, layout.last if reverse else layout.first, grad.contiguous(), d_total[-1],
                d_weight[place], d_bias[place], length, values.stride(0), channels,
                K=K, BACK=reverse, ROWS=ROWS, COLUMNS=COLUMNS, BLOCKS=BLOCKS_A_PROGRAM,
            )  # fmt: skip
        d_values = torch.empty_like(d_total[0])
        _spread[_grid(length, channels)](
            d_total[0], d_total[-1], weight, layout.first, layout.last, d_values, length, channels,
            K=K, AHEAD=False in directions, BACK=True in directions, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip
        return d_values, d_weight.sum((0, 1)).T.to(weight.dtype), d_bias.sum((0, 1)).to(bias.dtype), None, None


def _grid(length: int, channels: int) -> tuple[int]:
    return (triton.cdiv(length, ROWS) * triton.cdiv(channels, COLUMNS),)
