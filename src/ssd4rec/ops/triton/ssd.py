"""The SSD scan as Triton kernels, differentiable in its six tensor inputs.

forward    cumulate_decays -> pass_states (the state that enters each span) -> scan_output (y)
backward   pass_states of the gradient -> output_backward, input_backward, state_decay_backward -> decays_backward

The kernels use no atomics, so the same inputs give the same bits. All heads share one Q x Q matrix if the decays of the chunk fit
the range of the operands; otherwise each head has its own (`ssd_forward.scan_output`). Both are exact.

Source: the algorithm is that of `ops/ssd/chunked.py`; the kernels are this project's own.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import Layout
from ssd4rec.ops.triton import HEAD_WIDTHS, STATE_SIZES, supports_scan
from ssd4rec.ops.triton.common import contiguous_rows, precision
from ssd4rec.ops.triton.ssd_backward import decays_backward, input_backward, output_backward, state_decay_backward
from ssd4rec.ops.triton.ssd_forward import cumulate_decays, pass_states, scan_output

# exp(+-RANGE) leaves headroom for the values that it multiplies, 1e-20 … 1e20 in float32 and bfloat16.
RANGE = {torch.float32: 40.0, torch.bfloat16: 40.0, torch.float16: 4.0}
HEADS_PER_PROGRAM = 16  # of the kernels that sum decays


class Tile(NamedTuple):
    """Work of one program. The defaults nearly fit the registers of sm_90; they are estimates, not measurements."""

    length: int = 32  # Q: positions in a chunk
    chunks: int = 4  # G: chunks in a span; states between spans are stored in memory
    columns: int = 64  # columns of x: 64 / P heads; half as many in the backward pass, and half again in float32
    programs: int = 1024  # minimum number of programs; the backward pass splits the columns to reach it
    warps: int = 4
    stages: int = 2


DEFAULT = Tile()


def scan(
    x: Values,
    dt: StepSizes,
    A: Rates,
    B: StateInputs,
    C: StateReads,
    D: Rates,
    layout: Layout,
    *,
    reverse: bool = False,
    tile: Tile = DEFAULT,
) -> Values:
    """Compute `ops.dispatch.scan`; decays and states are float32, the operands of products and y have the type of x.

    Raises:
        ShapeError: the kernels do not support these sizes or this type.
    """
    if not supports_scan(x, B):
        raise ShapeError(
            f"the scan kernels support P in {HEAD_WIDTHS}, N in {STATE_SIZES} and {[str(dtype) for dtype in RANGE]}, "
            f"found P={x.shape[2]}, N={B.shape[1]}, {x.dtype}: use ops.ssd.chunked.chunked_scan"
        )
    with torch.autocast(x.device.type, enabled=False), torch.cuda.device_of(x):
        return _Scan.apply(x, dt.float(), A.float(), B.to(x.dtype), C.to(x.dtype), D.float(), layout, reverse, tile)


class _Plan(NamedTuple):
    """Sizes shared by the kernels of one call."""

    tile: Tile
    length: int  # T
    heads: int  # H
    width: int  # P
    state_dim: int  # N
    group: int  # HG: heads in a tile
    chunks: int
    spans: int
    tiles: int

    @property
    def sizes(self) -> dict[str, int]:
        return {"HG": self.group, "P": self.width, "N": self.state_dim, "Q": self.tile.length, "G": self.tile.chunks}

    @property
    def splits(self) -> int:
        return max(1, min(self.tiles, -(-self.tile.programs // self.spans)))


def _plan(x: Tensor, B: Tensor, tile: Tile) -> _Plan:
    length, heads, width = x.shape
    columns = tile.columns if x.element_size() < 4 else max(tile.columns // 2, 16)
    group = min(max(columns // width, 1), 1 << (heads - 1).bit_length())
    return _Plan(
        tile=tile,
        length=length,
        heads=heads,
        width=width,
        state_dim=B.shape[1],
        group=group,
        chunks=-(-length // (tile.length * tile.chunks)) * tile.chunks,
        spans=-(-length // (tile.length * tile.chunks)),
        tiles=-(-heads // group),
    )


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        layout: Layout,
        reverse: bool,  # noqa: FBT001 - apply takes no keywords
        tile: Tile,
    ) -> Tensor:
        x = contiguous_rows(x.flatten(1)).view_as(x)
        dt, B, C = contiguous_rows(dt), contiguous_rows(B), contiguous_rows(C)
        A, D = A.contiguous(), D.contiguous()
        plan = _plan(x, B, tile)
        a = x.new_empty(dt.shape, dtype=torch.float32)
        # the state that enters each span; neither written nor read where no sequence crosses the boundary
        states = a.new_empty(plan.spans, plan.state_dim, plan.heads * plan.width)
        by_chunk = (plan.chunks, -(-plan.heads // HEADS_PER_PROGRAM))
        common = {"REVERSE": reverse, "PRECISION": precision(), "num_warps": tile.warps, "num_stages": tile.stages}
        edges = layout.seq_start, layout.seq_end
        cumulate_decays[by_chunk](
            dt, A, *edges, a, plan.length, dt.stride(0), plan.heads, HEADS=HEADS_PER_PROGRAM, Q=tile.length, REVERSE=reverse
        )
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        grid = (plan.spans * plan.tiles,)
        strides = x.stride(0), dt.stride(0), B.stride(0)
        pass_states[grid](x, dt, a, B, *edges, states, plan.length, *strides, plan.heads, **plan.sizes, ADJOINT=False, **common)
        scan_output[grid](
            x, dt, a, B, C, D, states, *edges, y, plan.length, *strides, C.stride(0), plan.heads,
            **plan.sizes, RANGE=RANGE[x.dtype], **common,
        )  # fmt: skip
        ctx.save_for_backward(x, dt, A, B, C, D, a, states)
        ctx.layout, ctx.reverse, ctx.tile = layout, reverse, tile
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, a, states = ctx.saved_tensors
        reverse, edges = ctx.reverse, (ctx.layout.seq_start, ctx.layout.seq_end)
        plan = _plan(x, B, ctx.tile._replace(columns=ctx.tile.columns // 2))
        dy = grad.to(x.dtype).contiguous()
        common = {"REVERSE": reverse, "PRECISION": precision(), "num_warps": plan.tile.warps, "num_stages": plan.tile.stages}
        d_states = torch.empty_like(states)
        pass_states[(plan.spans * plan.tiles,)](
            dy, dt, a, C, *edges, d_states, plan.length, dy.stride(0), dt.stride(0), C.stride(0), plan.heads,
            **plan.sizes, ADJOINT=True, **common,
        )  # fmt: skip
        dx = torch.empty_like(dy)
        x_du, net, outgoing = (torch.empty_like(a) for _ in range(3))
        through, dD = (a.new_empty(plan.chunks, plan.heads) for _ in range(2))
        dB, dC = (a.new_empty(plan.splits, plan.length, plan.state_dim) for _ in range(2))
        sizes = plan.length, x.stride(0), dt.stride(0), B.stride(0), C.stride(0), plan.heads
        grid, limit = (plan.spans * plan.splits,), RANGE[x.dtype]
        output_backward[grid](
            x, dt, a, B, C, dy, states, *edges, net, dC, *sizes, plan.splits, **plan.sizes, RANGE=limit, **common
        )
        input_backward[grid](
            x, dt, a, B, C, D, dy, d_states, *edges, dx, x_du, net, outgoing, dD, dB, *sizes, plan.splits,
            **plan.sizes, RANGE=limit, **common,
        )  # fmt: skip
        state_decay_backward[(plan.chunks * plan.tiles,)](
            x, dt, a, B, C, dy, states, d_states, *edges, through, *sizes, **plan.sizes, **common
        )
        d_dt, dA = torch.empty_like(a), torch.empty_like(through)
        decays_backward[(plan.chunks, -(-plan.heads // HEADS_PER_PROGRAM))](
            dt, A, x_du, net, outgoing, through, *edges, d_dt, dA, plan.length, dt.stride(0), plan.heads,
            HEADS=HEADS_PER_PROGRAM, Q=plan.tile.length, REVERSE=reverse,
        )  # fmt: skip
        return dx, d_dt, dA.sum(0), dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype), dD.sum(0), None, None, None
