"""Depthwise causal convolution within each sequence of a packed batch, followed by SiLU.

`partial_convolutions` is the definition.
`convolve` computes SiLU of its last entry in blocks of rows, and saves only its inputs for the backward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.array_types import Channels
from ssd4rec.ops.blocks import blocks
from ssd4rec.ops.gather import shift_rows
from ssd4rec.ops.segments import Layout


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """Compute the convolution with SiLU; see `ops.dispatch.convolve` for the formula and the arguments."""
    return _Convolution.apply(channels, weight, bias, layout, reverse)


def partial_convolutions(
    channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False
) -> list[Channels]:
    """Return the partial sums of the convolution before SiLU: entry k uses the position itself and k neighbors.

    Entry k of the reversed convolution at position s is the convolution of the prefix that ends at position s + k.
    """
    width = weight.shape[1]
    partial = [torch.addcmul(bias, channels, weight[:, width - 1])]
    for k in range(1, width):
        neighbor = shift_rows(channels, -k if reverse else k) * _has_neighbor(layout, k, reverse=reverse)[:, None]
        partial.append(torch.addcmul(partial[-1], neighbor, weight[:, width - 1 - k]))
    return partial


def _has_neighbor(layout: Layout, k: int, *, reverse: bool) -> Tensor:
    available = layout.seq_end - layout.seq_start - layout.position if reverse else layout.position
    return available >= k


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        channels: Channels,
        weight: Tensor,
        bias: Tensor,
        layout: Layout,
        reverse: bool,  # noqa: FBT001 - apply takes no keywords
    ) -> Channels:
        ctx.save_for_backward(channels, weight, bias)
        ctx.layout, ctx.reverse = layout, reverse
        convolution = BlockedConvolution(channels, weight, bias, layout, reverse=reverse)
        out = convolution.empty()
        for block in blocks(out):
            F.silu(convolution.full_sum(block, out=out[block]), inplace=True)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Channels) -> tuple[Tensor | None, ...]:
        channels, weight, bias = ctx.saved_tensors
        convolution = BlockedConvolution(channels, weight, bias, ctx.layout, reverse=ctx.reverse)
        d_channels = convolution.empty()
        d_weight, d_bias = torch.zeros_like(convolution.weight), torch.zeros_like(convolution.bias)
        buffer = torch.empty_like(convolution.scratch)
        # Blocks are visited in an order in which a block sets its own rows before a neighboring block adds to them.
        for block in blocks(d_channels, reverse=ctx.reverse):
            total = convolution.full_sum(block, out=buffer[: block.stop - block.start])
            d_total = torch.ops.aten.silu_backward(d_out[block].to(total.dtype), total, grad_input=total)
            d_bias += d_total.sum(0)
            torch.mul(d_total, convolution.weight[0], out=d_channels[block])
            d_weight[0] += convolution.scratch_product(d_total, channels[block]).sum(0)
            for k in range(1, convolution.width):
                convolution.add_gradients(block, k, d_total, d_channels, d_weight)
        columns = d_weight.flip(0).T
        return d_channels.to(channels.dtype), columns.to(weight.dtype), d_bias.to(bias.dtype), None, None


class BlockedConvolution:
    """`partial_convolutions` for one block of rows at a time, in reused memory, with its gradients."""

    def __init__(self, channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool) -> None:
        dtype = torch.promote_types(torch.promote_types(channels.dtype, weight.dtype), bias.dtype)
        self.channels, self.bias = channels, bias.to(dtype)
        self.weight = weight.to(dtype).T.flip(0).contiguous()  # [K, channels]: row k applies to the neighbor at distance k
        self.width, self.step = len(self.weight), 1 if reverse else -1
        self.neighbor_mask = [_has_neighbor(layout, k, reverse=reverse).to(dtype)[:, None] for k in range(self.width)]
        self.scratch = self.empty(max((block.stop - block.start for block in blocks(channels)), default=0))

    def empty(self, rows: int | None = None) -> Tensor:
        """Return uninitialized memory [rows, channels]; None: as many rows as the input."""
        shape = (self.channels.shape[0] if rows is None else rows, self.channels.shape[1])
        return self.channels.new_empty(shape, dtype=self.bias.dtype)

    def neighbors(self, block: slice, k: int) -> tuple[slice, slice]:
        """Return the rows of a block that have a row at distance k, and those neighboring rows."""
        shift = self.step * k
        rows = slice(max(block.start, -shift), min(block.stop, self.channels.shape[0] - shift))
        return rows, slice(rows.start + shift, rows.stop + shift)

    def scratch_product(self, values: Tensor, factor: Tensor) -> Tensor:
        """Return values * factor in the scratch memory, valid until the next call."""
        return torch.mul(values, factor, out=self.scratch[: values.shape[0]])

    def full_sum(self, block: slice, out: Tensor) -> Tensor:
        """Return the convolution of a block before SiLU."""
        for _ in self.partial_sums(block, out):
            pass
        return out

    def partial_sums(self, block: slice, out: Tensor) -> Iterator[Tensor]:
        """Yield the partial sums of a block with 0, 1, …, K - 1 neighbors; each overwrites the one before it."""
        torch.addcmul(self.bias, self.channels[block], self.weight[0], out=out)
        yield out
        for k in range(1, self.width):
            rows, neighbors = self.neighbors(block, k)
            if rows.start < rows.stop:
                masked = self.scratch_product(self.channels[neighbors], self.neighbor_mask[k][rows])
                out[rows.start - block.start : rows.stop - block.start].addcmul_(masked, self.weight[k])
            yield out

    def add_gradients(self, block: slice, k: int, d_sum: Tensor, d_channels: Tensor, d_weight: Tensor) -> None:
        """Add the gradients of tap k: to the neighbors at distance k, and to row k of the weight [K, channels]."""
        rows, neighbors = self.neighbors(block, k)
        if rows.start >= rows.stop:
            return
        d_rows = d_sum[rows.start - block.start : rows.stop - block.start]
        masked = self.scratch_product(d_rows, self.neighbor_mask[k][rows]) if k else d_rows
        d_channels[neighbors].addcmul_(masked, self.weight[k])
        d_weight[k] += self.scratch_product(masked, self.channels[neighbors]).sum(0)
