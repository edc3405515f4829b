"""Depthwise causal convolution inside each history, then SiLU.

`taps` is the definition; `convolve` is SiLU of its last entry, block by block, and saves nothing but what it was given.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.array_types import Channels
from ssd4rec.ops.blocks import blocks
from ssd4rec.ops.gather import earlier
from ssd4rec.ops.segments import Layout


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """out_t = SiLU(bias + sum_k weight[K-1-k] in_{t-k}), over the events t-k of the same history.

    Args:
        channels: [T, channels].
        weight: [channels, K], the last column meets the event itself.
        bias: [channels].
        layout: of the row.
        reverse: read t+k in place of t-k, as if each history ran backwards.
    """
    out: Channels = _Convolution.apply(channels, weight, bias, layout, reverse)  # type: ignore[no-untyped-call]  # torch has no types here
    return out


def taps(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> list[Channels]:
    """The convolution before its SiLU, as it builds up: entry k has read the event itself and k neighbors.

    Reversed, entry k is what event s receives in a prefix that ends at event s+k (`ops/prefixes.py`).
    """
    width = weight.shape[1]
    partial = [torch.addcmul(bias, channels, weight[:, width - 1])]
    for k in range(1, width):
        reached = earlier(channels, -k if reverse else k) * _has_neighbor(layout, k, reverse=reverse)[:, None]
        partial.append(torch.addcmul(partial[-1], reached, weight[:, width - 1 - k]))
    return partial


def _has_neighbor(layout: Layout, k: int, *, reverse: bool) -> Tensor:
    places = layout.last - layout.first - layout.place if reverse else layout.place
    return places >= k


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
        row = Taps(channels, weight, bias, layout, reverse=reverse)
        out = row.empty()
        for block in blocks(out):
            F.silu(row.summed(block, out=out[block]), inplace=True)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Channels) -> tuple[Tensor | None, ...]:
        channels, weight, bias = ctx.saved_tensors
        row = Taps(channels, weight, bias, ctx.layout, reverse=ctx.reverse)
        d_channels = row.empty()
        d_weight, d_bias = torch.zeros_like(row.weight), torch.zeros_like(row.bias)
        pieces = blocks(d_channels, reverse=ctx.reverse)  # a neighbor's gradient is added to what its own block has set
        spare = torch.empty_like(row.scratch)
        for block in pieces:
            summed = row.summed(block, out=spare[: block.stop - block.start])
            d_summed = torch.ops.aten.silu_backward(d_out[block].to(summed.dtype), summed, grad_input=summed)
            d_bias += d_summed.sum(0)
            torch.mul(d_summed, row.weight[0], out=d_channels[block])
            d_weight[0] += row.scratch_product(d_summed, channels[block]).sum(0)
            for k in range(1, row.width):
                row.add_gradients(block, k, d_summed, d_channels, d_weight)
        columns = d_weight.flip(0).T
        return d_channels.to(channels.dtype), columns.to(weight.dtype), d_bias.to(bias.dtype), None, None


class Taps:
    """`taps` a block of rows at a time, in scratch space, and their gradients."""

    def __init__(self, channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool) -> None:
        kind = torch.promote_types(torch.promote_types(channels.dtype, weight.dtype), bias.dtype)
        self.channels, self.bias = channels, bias.to(kind)
        self.weight = weight.to(kind).T.flip(0).contiguous()  # [K, channels]: row k meets the neighbor at distance k
        self.width, self.step = len(self.weight), 1 if reverse else -1
        self.inside = [_has_neighbor(layout, k, reverse=reverse).to(kind)[:, None] for k in range(self.width)]
        self.scratch = self.empty(max((block.stop - block.start for block in blocks(channels)), default=0))

    def empty(self, rows: int | None = None) -> Tensor:
        """[rows, channels]; None: as many as the row has."""
        shape = (self.channels.shape[0] if rows is None else rows, self.channels.shape[1])
        return self.channels.new_empty(shape, dtype=self.bias.dtype)

    def neighbors(self, block: slice, k: int) -> tuple[slice, slice]:
        """The rows of a block that have a neighbor k away in the row, and those neighbors."""
        shift = self.step * k
        here = slice(max(block.start, -shift), min(block.stop, self.channels.shape[0] - shift))
        return here, slice(here.start + shift, here.stop + shift)

    def scratch_product(self, values: Tensor, by: Tensor) -> Tensor:
        """The product, until the next one is asked for."""
        return torch.mul(values, by, out=self.scratch[: values.shape[0]])

    def summed(self, block: slice, out: Tensor) -> Tensor:
        """Bias and all taps of the rows of a block, before SiLU."""
        for _ in self.building_up(block, out):
            pass
        return out

    def building_up(self, block: slice, out: Tensor) -> Iterator[Tensor]:
        """The same after each tap: with no neighbor, with one, … with K-1; each time the same memory."""
        torch.addcmul(self.bias, self.channels[block], self.weight[0], out=out)
        yield out
        for k in range(1, self.width):
            here, there = self.neighbors(block, k)
            if here.start < here.stop:
                reached = self.scratch_product(self.channels[there], self.inside[k][here])
                out[here.start - block.start : here.stop - block.start].addcmul_(reached, self.weight[k])
            yield out

    def add_gradients(self, block: slice, k: int, d_summed: Tensor, d_channels: Tensor, d_weight: Tensor) -> None:
        """What tap k hands on of a block's gradient: to the neighbors k away and to its weight, [K, channels]."""
        here, there = self.neighbors(block, k)
        if here.start >= here.stop:
            return
        own = d_summed[here.start - block.start : here.stop - block.start]
        reached = self.scratch_product(own, self.inside[k][here]) if k else own
        d_channels[there].addcmul_(reached, self.weight[k])
        d_weight[k] += self.scratch_product(reached, self.channels[there]).sum(0)
