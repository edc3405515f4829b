"""`backward_prefix_readout` as Triton kernels, differentiable in its six tensor inputs.

forward    decay_totals -> scan_block_totals -> exclusive_decay (exp(S_{s-1}));  compute_first_C -> compute_cb (C_1 . B_s)
           complete_totals -> scan_block_totals -> prefix_output (y)
backward   gradient_totals -> scan_block_totals -> decayed_dt_backward (D, the factors), x_backward (x);  B_backward (B)
           scan_block_totals (gradients of C and of the decays) -> C_backward (C), exclusive_decay_backward (dt, A)

The convolution is recomputed where it is needed: y and the gradient of the channels are the only [T, E] arrays.
The kernels use no atomics.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Channels, Rates, StepSizes, Values
from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import Layout
from ssd4rec.ops.triton import CONVOLUTION_WIDTHS, HEAD_WIDTHS, STATE_SIZES, supports_prefix_readout
from ssd4rec.ops.triton.common import contiguous_rows
from ssd4rec.ops.triton.prefix_readout_backward import (
    B_backward,
    C_backward,
    decayed_dt_backward,
    gradient_totals,
    x_backward,
)
from ssd4rec.ops.triton.prefix_readout_forward import complete_totals, compute_cb, compute_first_C, prefix_output
from ssd4rec.ops.triton.segment_sums import decay_totals, exclusive_decay, exclusive_decay_backward, scan_block_totals

HEADS_PER_PROGRAM = 16  # of the kernels that sum decays


class Tile(NamedTuple):
    """Work of one program. The defaults are estimates, not measurements."""

    length: int = 32  # Q: positions in a block
    columns: int = 64  # columns of x: 64 / P heads; half as many in the backward pass, but at least one head
    blocks: int = 8  # maximum number of blocks per program whose weight gradients are summed before they are stored
    programs: int = 1024  # minimum number of programs; the backward pass uses fewer blocks per program to reach it
    warps: int = 8


DEFAULT = Tile()


def backward_prefix_readout(
    channels: Channels,
    weight: Tensor,
    bias: Tensor,
    dt: StepSizes,
    A: Rates,
    D: Rates,
    layout: Layout,
    state_dim: int,
    tile: Tile = DEFAULT,
) -> Values:
    """Compute `ops.dispatch.backward_prefix_readout`; y [T, H, P] has the type of the channels, sums are float32.

    Raises:
        ShapeError: the kernels do not support these sizes or this type.
    """
    if not supports_prefix_readout(channels, weight, dt, state_dim):
        width = (channels.shape[1] - 2 * state_dim) / dt.shape[1]
        raise ShapeError(
            f"the kernels of backward_prefix_readout support P in {HEAD_WIDTHS}, N in {STATE_SIZES}, K in "
            f"{CONVOLUTION_WIDTHS} and at most 32 bits, found P={width:g}, N={state_dim}, K={weight.shape[1]}, {channels.dtype}: "
            f"use ops.ssd.prefix_readout.backward_prefix_readout"
        )
    with torch.autocast(channels.device.type, enabled=False), torch.cuda.device_of(channels):
        return _BackwardPrefixReadout.apply(channels, weight, bias, dt.float(), A.float(), D.float(), layout, state_dim, tile)


class _Plan(NamedTuple):
    """Sizes shared by the kernels of one call."""

    tile: Tile
    length: int  # T
    heads: int  # H
    inner: int  # E
    state_dim: int  # N
    taps: int  # K
    sequences: int  # B

    @property
    def blocks(self) -> int:
        return -(-self.length // self.tile.length)

    @property
    def head_groups(self) -> tuple[int, int]:
        return self.blocks, -(-self.heads // HEADS_PER_PROGRAM)

    @property
    def total_width(self) -> int:
        """Columns of the block totals of the backward pass: H for the decays, N for C."""
        return self.heads + self.state_dim

    def group(self, columns: int) -> int:
        """HG: heads in a tile of `columns` columns."""
        return min(max(columns * self.heads // self.inner, 1), 1 << (self.heads - 1).bit_length())

    def head_sizes(self, columns: int) -> dict[str, int]:
        return {"HG": self.group(columns), "P": self.inner // self.heads, "K": self.taps, "Q": self.tile.length}

    def blocks_per_program(self, tiles: int) -> int:
        """Number of blocks that one program of the backward pass processes."""
        return max(1, min(self.tile.blocks, self.blocks * tiles // self.tile.programs))


class _BackwardPrefixReadout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        channels: Tensor,
        weight: Tensor,
        bias: Tensor,
        dt: Tensor,
        A: Tensor,
        D: Tensor,
        layout: Layout,
        state_dim: int,
        tile: Tile,
    ) -> Tensor:
        channels, dt = contiguous_rows(channels), contiguous_rows(dt)
        weight, bias, A, D = weight.contiguous(), bias.contiguous(), A.contiguous(), D.contiguous()
        inner = channels.shape[1] - 2 * state_dim
        plan = _Plan(tile, len(dt), dt.shape[1], inner, state_dim, weight.shape[1], layout.cu_seqlens.shape[0] - 1)
        inputs, edges, Q = (channels, weight, bias), (layout.seq_start, layout.seq_end), tile.length
        strides, warps = (channels.stride(0), dt.stride(0), plan.heads), {"num_warps": tile.warps}
        decay, cb = dt.new_empty(dt.shape), dt.new_empty(plan.length, plan.taps)
        first_C = dt.new_empty(plan.taps, plan.sequences, plan.state_dim)

        totals, offsets = (dt.new_empty(plan.blocks, plan.heads) for _ in range(2))
        decay_sizes: dict[str, Any] = {"HEADS": HEADS_PER_PROGRAM, "Q": Q}
        decay_totals[plan.head_groups](dt, A, *edges, totals, plan.length, *strides[1:], **decay_sizes)
        _scan_totals(totals, offsets, edges, plan, reverse=False)
        exclusive_decay[plan.head_groups](dt, A, *edges, offsets, decay, plan.length, *strides[1:], **decay_sizes)

        state_sizes = {"K": plan.taps, "N": plan.state_dim}
        B_column, C_column = plan.inner, plan.inner + plan.state_dim
        compute_first_C[(-(-plan.sequences // Q),)](
            *inputs, layout.cu_seqlens, first_C, plan.sequences, strides[0], C_column, ROWS=Q, **state_sizes
        )
        compute_cb[(plan.blocks,)](
            *inputs, first_C, *edges, layout.seq_idx, cb, plan.length, plan.sequences, strides[0], B_column,
            Q=Q, **state_sizes,
        )  # fmt: skip

        y = channels.new_empty(plan.length, plan.inner)
        totals, offsets = (dt.new_empty(plan.blocks, plan.inner) for _ in range(2))
        sizes = plan.head_sizes(tile.columns)
        grid = (plan.blocks * -(-plan.heads // sizes["HG"]),)
        complete_totals[grid](*inputs, dt, decay, cb, *edges, totals, plan.length, *strides, **sizes, **warps)
        _scan_totals(totals, offsets, edges, plan, reverse=False)
        prefix_output[grid](*inputs, dt, decay, cb, D, offsets, *edges, y, plan.length, *strides, **sizes, **warps)
        ctx.save_for_backward(channels, weight, bias, dt, A, D, decay, cb, first_C)
        ctx.layout, ctx.plan = layout, plan
        return y.view(*dt.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        channels, weight, bias, dt, A, D, decay, cb, first_C = ctx.saved_tensors
        plan, layout = ctx.plan, ctx.layout
        tile, Q = plan.tile, plan.tile.length
        inputs, edges = (channels, weight, bias), (layout.seq_start, layout.seq_end)
        dy = grad.reshape(plan.length, plan.inner).to(channels.dtype).contiguous()
        sizes, columns = plan.head_sizes(max(tile.columns // 2, 1)), channels.shape[1]
        tiles = -(-plan.heads // sizes["HG"])

        totals, offsets = (dt.new_empty(plan.blocks, plan.inner) for _ in range(2))
        width = _columns(plan.inner)
        gradient_totals[(plan.blocks * -(-plan.inner // width),)](
            dy, *edges, totals, plan.length, plan.inner, COLUMNS=width, K=plan.taps, Q=Q
        )
        _scan_totals(totals, offsets, edges, plan, reverse=True)

        d_channels = channels.new_empty(channels.shape)
        d_decayed_dt, d_cb = torch.empty_like(decay), dt.new_empty(tiles, plan.length, plan.taps)
        summed, summed_offsets = (dt.new_empty(plan.blocks, plan.total_width) for _ in range(2))
        blocks_per_program = plan.blocks_per_program(tiles)
        programs = -(-plan.blocks // blocks_per_program)
        d_partials, dD = dt.new_empty(programs, plan.taps + 1, columns), dt.new_empty(plan.blocks, plan.heads)
        strides = channels.stride(0), dt.stride(0), plan.heads
        decayed_dt_backward[(plan.blocks * tiles,)](
            *inputs, dt, decay, cb, dy, offsets, *edges, d_decayed_dt, d_cb, dD, summed,
            plan.length, *strides, plan.total_width, **sizes, num_warps=tile.warps,
        )  # fmt: skip
        x_backward[(programs * tiles,)](
            *inputs, dt, decay, cb, D, dy, offsets, *edges, d_channels, d_partials,
            plan.length, *strides, columns, **sizes, BLOCKS=blocks_per_program, num_warps=tile.warps,
        )  # fmt: skip

        width = _columns(plan.state_dim)
        state_sizes = {"K": plan.taps, "N": plan.state_dim, "COLUMNS": width, "Q": Q, "BLOCKS": blocks_per_program}
        grid = (programs * -(-plan.state_dim // width),)
        places, counts = (*edges, layout.seq_idx), (plan.length, plan.sequences, channels.stride(0))
        d_first_C = torch.empty_like(first_C)
        B_backward[grid](
            *inputs, first_C, d_cb.sum(0), *places, d_channels, d_partials, d_first_C, summed,
            *counts, plan.inner, columns, plan.heads, plan.total_width, **state_sizes, num_warps=tile.warps,
        )  # fmt: skip
        _scan_totals(summed, summed_offsets, edges, plan, reverse=True)
        C_backward[grid](
            *inputs, d_first_C, summed_offsets, *places, d_channels, d_partials,
            *counts, plan.inner + plan.state_dim, columns, plan.heads, plan.total_width, **state_sizes, num_warps=tile.warps,
        )  # fmt: skip
        d_dt, dA = torch.empty_like(decay), dt.new_empty(plan.blocks, plan.heads)
        exclusive_decay_backward[plan.head_groups](
            dt, A, *edges, decay, d_decayed_dt, summed_offsets, d_dt, dA, plan.length, dt.stride(0), plan.heads, plan.total_width,
            HEADS=HEADS_PER_PROGRAM, Q=Q,
        )  # fmt: skip
        partials = d_partials.sum(0)
        d_weight, d_bias = partials[:-1].T.to(weight.dtype), partials[-1].to(bias.dtype)
        return d_channels, d_weight, d_bias, d_dt, dA.sum(0), dD.sum(0), None, None, None


def _scan_totals(totals: Tensor, offsets: Tensor, edges: tuple[Tensor, Tensor], plan: _Plan, *, reverse: bool) -> None:
    width = totals.shape[1]
    columns = 128 if width > 64 else 64
    grid = (plan.blocks * -(-width // columns),)
    scan_block_totals[grid](
        totals, offsets, *edges, plan.length, width, COLUMNS=columns, Q=plan.tile.length, REVERSE=reverse, num_warps=columns // 32
    )


def _columns(width: int) -> int:
    return min(64, 1 << (width - 1).bit_length())
