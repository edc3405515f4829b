"""The scan on a GPU: `chunked_scan` as Triton kernels, differentiable in its six inputs.

forward    sum_decays -> hand_on (the state that comes into each span) -> read (y)
backward   hand_on of the gradient -> reads_backward, writes_backward, pass_backward -> decays_backward; the rest by torch

No atomics: the same inputs give the same bits. Heads are merged into one Q x Q matrix wherever the chunk's decays fit the range
of the operands, else each head gets its own; both are exact (`ssd_forward.read_apart`).

Source: the form is that of `ops/chunked.py`; the kernels are this project's own.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.errors import ShapeError
from ssd4rec.ops.segments import Layout
from ssd4rec.ops.triton import HEAD_WIDTHS, STATE_SIZES, scans
from ssd4rec.ops.triton.common import precision, rows_together
from ssd4rec.ops.triton.ssd_backward import decays_backward, pass_backward, reads_backward, writes_backward
from ssd4rec.ops.triton.ssd_forward import hand_on, read, sum_decays

# exp(+-RANGE) leaves room for the values that it multiplies, 1e-20 … 1e20 of them in float32 and bfloat16.
RANGE = {torch.float32: 40.0, torch.bfloat16: 40.0, torch.float16: 4.0}
HEADS_AT_ONCE = 16  # of the kernels that sum decays


class Tile(NamedTuple):
    """What one program works on. The defaults keep the kernels of sm_90 in its registers or nearly so; no GPU has timed them."""

    length: int = 32  # Q: events in a chunk
    chunks: int = 4  # G: chunks in a span, between which states are kept in memory
    columns: int = 64  # of x at once: 64 / P heads; the backward pass takes half as many, float32 half of either
    programs: int = 1024  # wanted at least; below it the backward pass divides the columns among several
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
    """`chunked_scan` as Triton kernels. Decays and states are float32; products take operands of x's type.

    Args:
        x: [T, H, P] values, P in HEAD_WIDTHS; float32, bfloat16 or float16.
        dt: [T, H] step sizes, positive.
        A: [H] decay rates, negative.
        B: [T, N], N in STATE_SIZES.
        C: [T, N].
        D: [H] skip weights.
        layout: of the row.
        reverse: read each history from its last event to its first; y stays at the event's own position.
        tile: what one program works on.

    Returns:
        y [T, H, P] in x's type.

    Raises:
        ShapeError: there are no kernels for these sizes or this type.
    """
    if not scans(x, B):
        raise ShapeError(
            f"the scan's kernels take P in {HEAD_WIDTHS}, N in {STATE_SIZES} and {[str(dtype) for dtype in RANGE]}, "
            f"found P={x.shape[2]}, N={B.shape[1]}, {x.dtype}: use ops.chunked.chunked_scan"
        )
    with torch.autocast(x.device.type, enabled=False), torch.cuda.resolve_device(x):
        y: Values = _Scan.apply(x, dt.float(), A.float(), B.to(x.dtype), C.to(x.dtype), D.float(), layout, reverse, tile)  # type: ignore[no-untyped-call]  # torch has no types here
    return y


class _Plan(NamedTuple):
    """Sizes that the kernels of one call share."""

    tile: Tile
    length: int  # T
    heads: int  # H
    width: int  # P
    states: int  # N
    group: int  # HG: heads in a tile
    chunks: int
    spans: int
    tiles: int

    @property
    def sizes(self) -> dict[str, int]:
        return {"HG": self.group, "P": self.width, "N": self.states, "Q": self.tile.length, "G": self.tile.chunks}

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
        states=B.shape[1],
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
        x = rows_together(x.flatten(1)).view_as(x)
        dt, B, C = rows_together(dt), rows_together(B), rows_together(C)
        A, D = A.contiguous(), D.contiguous()
        plan = _plan(x, B, tile)
        a, carry = x.new_empty(dt.shape, dtype=torch.float32), _states(x, plan)
        by_chunk = (plan.chunks, -(-plan.heads // HEADS_AT_ONCE))
        common = {"REVERSE": reverse, "PRECISION": precision(), "num_warps": tile.warps, "num_stages": tile.stages}
        edges = layout.first, layout.last
        sum_decays[by_chunk](
            dt, A, *edges, a, plan.length, dt.stride(0), plan.heads, HEADS=HEADS_AT_ONCE, Q=tile.length, REVERSE=reverse
        )
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        grid = (plan.spans * plan.tiles,)
        strides = x.stride(0), dt.stride(0), B.stride(0)
        hand_on[grid](x, dt, a, B, *edges, carry, plan.length, *strides, plan.heads, **plan.sizes, ADJOINT=False, **common)
        read[grid](
            x, dt, a, B, C, D, carry, *edges, y, plan.length, *strides, C.stride(0), plan.heads,
            **plan.sizes, RANGE=RANGE[x.dtype], **common,
        )  # fmt: skip
        ctx.save_for_backward(x, dt, A, B, C, D, a, carry)
        ctx.layout, ctx.reverse, ctx.tile = layout, reverse, tile
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, a, carry = ctx.saved_tensors
        reverse, edges = ctx.reverse, (ctx.layout.first, ctx.layout.last)
        plan = _plan(x, B, ctx.tile._replace(columns=ctx.tile.columns // 2))
        dy = grad.to(x.dtype).contiguous()
        common = {"REVERSE": reverse, "PRECISION": precision(), "num_warps": plan.tile.warps, "num_stages": plan.tile.stages}
        d_carry = torch.empty_like(carry)
        hand_on[(plan.spans * plan.tiles,)](
            dy, dt, a, C, *edges, d_carry, plan.length, dy.stride(0), dt.stride(0), C.stride(0), plan.heads,
            **plan.sizes, ADJOINT=True, **common,
        )  # fmt: skip
        dx = torch.empty_like(dy)
        x_du, net, left = (torch.empty_like(a) for _ in range(3))
        passed, dD = (a.new_empty(plan.chunks, plan.heads) for _ in range(2))
        dB, dC = (a.new_empty(plan.splits, plan.length, plan.states) for _ in range(2))
        sizes = plan.length, x.stride(0), dt.stride(0), B.stride(0), C.stride(0), plan.heads
        grid, limit = (plan.spans * plan.splits,), RANGE[x.dtype]
        reads_backward[grid](x, dt, a, B, C, dy, carry, *edges, net, dC, *sizes, plan.splits, **plan.sizes, RANGE=limit, **common)
        writes_backward[grid](
            x, dt, a, B, C, D, dy, d_carry, *edges, dx, x_du, net, left, dD, dB, *sizes, plan.splits,
            **plan.sizes, RANGE=limit, **common,
        )  # fmt: skip
        pass_backward[(plan.chunks * plan.tiles,)](
            x, dt, a, B, C, dy, carry, d_carry, *edges, passed, *sizes, **plan.sizes, **common
        )
        d_dt, dA = torch.empty_like(a), torch.empty_like(passed)
        decays_backward[(plan.chunks, -(-plan.heads // HEADS_AT_ONCE))](
            dt, A, x_du, net, left, passed, *edges, d_dt, dA, plan.length, dt.stride(0), plan.heads,
            HEADS=HEADS_AT_ONCE, Q=plan.tile.length, REVERSE=reverse,
        )  # fmt: skip
        return dx, d_dt, dA.sum(0), dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype), dD.sum(0), None, None, None


def _states(x: Tensor, plan: _Plan) -> Tensor:
    # the state that comes into each span; never written, nor read, where no history runs over the span's edge
    return x.new_empty((plan.spans, plan.states, plan.heads * plan.width), dtype=torch.float32)
