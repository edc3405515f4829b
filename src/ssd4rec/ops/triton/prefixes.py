"""`ops.prefixes.backward_prefix_readout` on a GPU: as Triton kernels, differentiable in its six inputs.

forward    decay_totals -> carry_on -> decays_before (exp(S_{s-1}));  first_reads -> matches (C_1 . B_s)
           settled_totals -> carry_on -> read_prefixes (y)
backward   gradient_totals -> carry_on -> strengths_backward (D, the factors), values_backward (x);  writes_backward (B)
           carry_on (of C's and of the decays' gradients) -> reads_backward (C), decays_before_backward (dt, A)

The convolution is worked out where it is needed: no [T, E] array is made but y and the gradient of the channels. No atomics.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Channels, Rates, StepSizes, Values
from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import Layout
from ssd4rec.ops.triton import CONVOLUTION_WIDTHS, HEAD_WIDTHS, STATE_SIZES, reads_prefixes
from ssd4rec.ops.triton.common import rows_together
from ssd4rec.ops.triton.prefixes_backward import (
    gradient_totals,
    reads_backward,
    strengths_backward,
    values_backward,
    writes_backward,
)
from ssd4rec.ops.triton.prefixes_forward import first_reads, matches, read_prefixes, settled_totals
from ssd4rec.ops.triton.segment_sums import carry_on, decay_totals, decays_before, decays_before_backward

HEADS_AT_ONCE = 16  # of the kernels that sum decays


class Tile(NamedTuple):
    """What one program works on; estimates, as all sizes in this folder that no GPU has measured."""

    length: int = 32  # Q: events in a block
    columns: int = 64  # of x at once: 64 / P heads; the backward pass takes half as many, if a head is not wider
    blocks: int = 8  # at most, whose share of the weights' gradients is summed before it is written
    programs: int = 1024  # wanted at least; below it a program of the backward pass takes fewer blocks
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
    """y at item 1 of the reversed scan of every prefix; row t is the prefix that ends at position t.

    Args:
        channels: [T, E + 2N] what the convolution reads: x, B and C side by side; float32, bfloat16 or float16.
        weight: [E + 2N, K], K in CONVOLUTION_WIDTHS.
        bias: [E + 2N].
        dt: [T, H] step sizes, positive; E / H in HEAD_WIDTHS.
        A: [H] decay rates, negative.
        D: [H] skip weights.
        layout: of the row.
        state_dim: N, in STATE_SIZES.
        tile: what one program works on.

    Returns:
        y [T, H, P] in the channels' type; all that is summed is summed in float32.

    Raises:
        ShapeError: there are no kernels for these sizes or this type.
    """
    if not reads_prefixes(channels, weight, dt, state_dim):
        width = (channels.shape[1] - 2 * state_dim) / dt.shape[1]
        raise ShapeError(
            f"the kernels of backward_prefix_readout take P in {HEAD_WIDTHS}, N in {STATE_SIZES}, K in {CONVOLUTION_WIDTHS} and "
            f"at most 32 bits, found P={width:g}, N={state_dim}, K={weight.shape[1]}, {channels.dtype}: "
            f"use ops.prefixes.backward_prefix_readout"
        )
    with torch.autocast(channels.device.type, enabled=False), torch.cuda.resolve_device(channels):
        y: Values = _EveryPrefix.apply(channels, weight, bias, dt.float(), A.float(), D.float(), layout, state_dim, tile)  # type: ignore[no-untyped-call]  # torch has no types here
    return y


class _Plan(NamedTuple):
    """Sizes that the kernels of one call share."""

    tile: Tile
    length: int  # T
    heads: int  # H
    inner: int  # E
    states: int  # N
    taps: int  # K
    histories: int  # B

    @property
    def blocks(self) -> int:
        return -(-self.length // self.tile.length)

    @property
    def head_groups(self) -> tuple[int, int]:
        return self.blocks, -(-self.heads // HEADS_AT_ONCE)

    @property
    def summed(self) -> int:
        """Columns of the sums that the backward pass carries on together: H of the decays, N of C."""
        return self.heads + self.states

    def group(self, columns: int) -> int:
        """HG: heads in a tile of so many columns."""
        return min(max(columns * self.heads // self.inner, 1), 1 << (self.heads - 1).bit_length())

    def of_values(self, columns: int) -> dict[str, int]:
        return {"HG": self.group(columns), "P": self.inner // self.heads, "K": self.taps, "Q": self.tile.length}

    def turns(self, tiles: int) -> int:
        """Blocks that a program of the backward pass works on one after the other."""
        return max(1, min(self.tile.blocks, self.blocks * tiles // self.tile.programs))


def _plan(channels: Tensor, weight: Tensor, dt: Tensor, layout: Layout, state_dim: int, tile: Tile) -> _Plan:
    inner = channels.shape[1] - 2 * state_dim
    return _Plan(tile, channels.shape[0], dt.shape[1], inner, state_dim, weight.shape[1], layout.cu_seqlens.shape[0] - 1)


class _EveryPrefix(torch.autograd.Function):
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
        channels, dt = rows_together(channels), rows_together(dt)
        weight, bias, A, D = weight.contiguous(), bias.contiguous(), A.contiguous(), D.contiguous()
        plan = _plan(channels, weight, dt, layout, state_dim, tile)
        of_channels, edges, Q = (channels, weight, bias), (layout.first, layout.last), tile.length
        strides, warps = (channels.stride(0), dt.stride(0), plan.heads), {"num_warps": tile.warps}
        past, match = dt.new_empty(dt.shape), dt.new_empty(plan.length, plan.taps)
        reads = dt.new_empty(plan.taps, plan.histories, plan.states)

        totals, carry = (dt.new_empty(plan.blocks, plan.heads) for _ in range(2))
        of_decays: dict[str, Any] = {"HEADS": HEADS_AT_ONCE, "Q": Q}
        decay_totals[plan.head_groups](dt, A, *edges, totals, plan.length, *strides[1:], **of_decays)
        _carry_on(totals, carry, edges, plan, reverse=False)
        decays_before[plan.head_groups](dt, A, *edges, carry, past, plan.length, *strides[1:], **of_decays)

        of_states = {"K": plan.taps, "N": plan.states}
        write_columns, read_columns = plan.inner, plan.inner + plan.states
        first_reads[(-(-plan.histories // Q),)](
            *of_channels, layout.cu_seqlens, reads, plan.histories, strides[0], read_columns, ROWS=Q, **of_states
        )
        matches[(plan.blocks,)](
            *of_channels, reads, *edges, layout.history, match, plan.length, plan.histories, strides[0], write_columns,
            Q=Q, **of_states,
        )  # fmt: skip

        y = channels.new_empty(plan.length, plan.inner)
        totals, carry = (dt.new_empty(plan.blocks, plan.inner) for _ in range(2))
        sizes = plan.of_values(tile.columns)
        grid = (plan.blocks * -(-plan.heads // sizes["HG"]),)
        settled_totals[grid](*of_channels, dt, past, match, *edges, totals, plan.length, *strides, **sizes, **warps)
        _carry_on(totals, carry, edges, plan, reverse=False)
        read_prefixes[grid](*of_channels, dt, past, match, D, carry, *edges, y, plan.length, *strides, **sizes, **warps)
        ctx.save_for_backward(channels, weight, bias, dt, A, D, past, match, reads)
        ctx.layout, ctx.plan = layout, plan
        return y.view(*dt.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        channels, weight, bias, dt, A, D, past, match, reads = ctx.saved_tensors
        plan, layout = ctx.plan, ctx.layout
        tile, Q = plan.tile, plan.tile.length
        of_channels, edges = (channels, weight, bias), (layout.first, layout.last)
        dy = grad.reshape(plan.length, plan.inner).to(channels.dtype).contiguous()
        sizes, columns = plan.of_values(max(tile.columns // 2, 1)), channels.shape[1]
        tiles = -(-plan.heads // sizes["HG"])

        totals, carry = (dt.new_empty(plan.blocks, plan.inner) for _ in range(2))
        width = _columns(plan.inner)
        gradient_totals[(plan.blocks * -(-plan.inner // width),)](
            dy, *edges, totals, plan.length, plan.inner, COLUMNS=width, K=plan.taps, Q=Q
        )
        _carry_on(totals, carry, edges, plan, reverse=True)

        d_channels = channels.new_empty(channels.shape)
        d_strength, d_match = torch.empty_like(past), dt.new_empty(tiles, plan.length, plan.taps)
        summed, summed_carry = (dt.new_empty(plan.blocks, plan.summed) for _ in range(2))
        turns = plan.turns(tiles)
        programs = -(-plan.blocks // turns)
        d_parts, dD = dt.new_empty(programs, plan.taps + 1, columns), dt.new_empty(plan.blocks, plan.heads)
        strides = channels.stride(0), dt.stride(0), plan.heads
        strengths_backward[(plan.blocks * tiles,)](
            *of_channels, dt, past, match, dy, carry, *edges, d_strength, d_match, dD, summed,
            plan.length, *strides, plan.summed, **sizes, num_warps=tile.warps,
        )  # fmt: skip
        values_backward[(programs * tiles,)](
            *of_channels, dt, past, match, D, dy, carry, *edges, d_channels, d_parts,
            plan.length, *strides, columns, **sizes, BLOCKS=turns, num_warps=tile.warps,
        )  # fmt: skip

        of_states: dict[str, Any] = {"K": plan.taps, "N": plan.states, "COLUMNS": _columns(plan.states), "Q": Q, "BLOCKS": turns}
        grid = (programs * -(-plan.states // of_states["COLUMNS"]),)
        places, counts = (*edges, layout.history), (plan.length, plan.histories, channels.stride(0))
        d_reads = torch.empty_like(reads)
        writes_backward[grid](
            *of_channels, reads, d_match.sum(0), *places, d_channels, d_parts, d_reads, summed,
            *counts, plan.inner, columns, plan.heads, plan.summed, **of_states, num_warps=tile.warps,
        )  # fmt: skip
        _carry_on(summed, summed_carry, edges, plan, reverse=True)
        reads_backward[grid](
            *of_channels, d_reads, summed_carry, *places, d_channels, d_parts,
            *counts, plan.inner + plan.states, columns, plan.heads, plan.summed, **of_states, num_warps=tile.warps,
        )  # fmt: skip
        d_dt, dA = torch.empty_like(past), dt.new_empty(plan.blocks, plan.heads)
        decays_before_backward[plan.head_groups](
            dt, A, *edges, past, d_strength, summed_carry, d_dt, dA, plan.length, dt.stride(0), plan.heads, plan.summed,
            HEADS=HEADS_AT_ONCE, Q=Q,
        )  # fmt: skip
        parts = d_parts.sum(0)
        d_weight, d_bias = parts[:-1].T.to(weight.dtype), parts[-1].to(bias.dtype)
        return d_channels, d_weight, d_bias, d_dt, dA.sum(0), dD.sum(0), None, None, None


def _carry_on(totals: Tensor, carry: Tensor, edges: tuple[Tensor, Tensor], plan: _Plan, *, reverse: bool) -> None:
    width = totals.shape[1]
    columns = 128 if width > 64 else 64
    grid = (plan.blocks * -(-width // columns),)
    carry_on[grid](
        totals, carry, *edges, plan.length, width, COLUMNS=columns, Q=plan.tile.length, REVERSE=reverse, num_warps=columns // 32
    )


def _columns(width: int) -> int:
    return min(64, 1 << (width - 1).bit_length())
