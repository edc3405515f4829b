"""Softmax cross-entropy over the whole catalog as Triton kernels; the scores of a tile exist in registers only.

forward    one program per (block of rows, part of the classes): running maximum and sum, and the score of the target
backward   for each block of rows, recompute the scores as (p - onehot) in the type of the operands; two matrix products by
           torch turn them into the gradients of the states of the block and of the table

Scores are stored for one block of rows at a time, never for all rows.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.ops.cross_entropy import check_targets
from ssd4rec.ops.triton.common import precision


class Tile(NamedTuple):
    """Work of one program. The defaults are estimates, not measurements."""

    rows: int = 128
    classes: int = 128
    width: int = 64  # columns of D per step
    programs: int = 1024  # minimum number of programs of the forward pass, which splits the classes to reach it
    block_elements: int = 1 << 24  # of (p - onehot) in memory at once: 32 MiB in bfloat16
    block_rows: int = 2048  # minimum: the gradient of the table is read and written once per block
    warps: int = 8


DEFAULT = Tile()


def linear_cross_entropy(states: Tensor, table: Tensor, targets: Tensor, tile: Tile = DEFAULT) -> Tensor:
    """Compute `ops.dispatch.linear_cross_entropy` as a float32 scalar, differentiable in states and table.

    The operands of products have the type of states, or autocast's.

    Raises:
        ShapeError: states and targets differ in length.
    """
    check_targets(states, targets)
    device = states.device.type
    if torch.is_autocast_enabled(device):
        states = states.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False), torch.cuda.device_of(states):
        return _LinearCrossEntropy.apply(states, table.to(states.dtype), targets, tile)


@triton.jit
def _scores(
    states, table, rows, classes, M, V, D,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[ROWS, CLASSES] float32; out-of-bounds classes score -inf."""
    scores = tl.zeros((ROWS, CLASSES), dtype=tl.float32)
    for start in range(0, D, WIDTH):
        at = start + tl.arange(0, WIDTH)
        states_tile = tl.load(states + rows[:, None] * D + at[None, :], mask=(rows < M)[:, None] & (at < D)[None, :], other=0.0)
        table_tile = tl.load(
            table + classes[None, :] * D + at[:, None], mask=(classes < V)[None, :] & (at < D)[:, None], other=0.0
        )
        scores += tl.dot(states_tile, table_tile, input_precision=PRECISION)
    return tl.where((classes < V)[None, :], scores, float("-inf"))


@triton.jit(do_not_specialize=["M"])
def _forward(
    states, table, targets, log_sum, target_score, M, V, D, PARTS,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store log_sum [PARTS, M], log sum exp(scores) over a part of the classes, and target_score [PARTS, M], 0 in other parts."""
    part = tl.program_id(0) % PARTS
    rows = (tl.program_id(0) // PARTS).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    target = tl.load(targets + rows, mask=rows < M, other=-1)
    running_max = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    target_total = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(part * CLASSES, V, PARTS * CLASSES):
        classes = (start + tl.arange(0, CLASSES)).to(tl.int64)
        scores = _scores(states, table, rows, classes, M, V, D, ROWS, CLASSES, WIDTH, PRECISION)
        target_total += tl.sum(tl.where(classes[None, :] == target[:, None], scores, 0.0), axis=1)
        maximum = tl.maximum(running_max, tl.max(scores, axis=1))
        total = total * tl.exp(running_max - maximum) + tl.sum(tl.exp(scores - maximum[:, None]), axis=1)
        running_max = maximum
    at = part.to(tl.int64) * M + rows
    tl.store(log_sum + at, running_max + tl.log(total), mask=rows < M)
    tl.store(target_score + at, target_total, mask=rows < M)


@triton.jit(do_not_specialize=["M"])
def _errors(
    states, table, targets, log_sum, scale, errors, M, V, D,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store errors [M, V] = (p - onehot) * scale for one block of rows."""
    parts = tl.cdiv(V, CLASSES)
    rows = (tl.program_id(0) // parts).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    classes = (tl.program_id(0) % parts).to(tl.int64) * CLASSES + tl.arange(0, CLASSES)
    scores = _scores(states, table, rows, classes, M, V, D, ROWS, CLASSES, WIDTH, PRECISION)
    target = tl.load(targets + rows, mask=rows < M, other=-1)
    total = tl.load(log_sum + rows, mask=rows < M, other=0.0)
    p = tl.exp(scores - total[:, None])
    error = (p - tl.where(classes[None, :] == target[:, None], 1.0, 0.0)) * tl.load(scale)
    inside = (rows < M)[:, None] & (classes < V)[None, :]
    tl.store(errors + rows[:, None] * V + classes[None, :], error.to(errors.dtype.element_ty), mask=inside)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, tile: Tile) -> Tensor:
        states, table, targets = states.contiguous(), table.contiguous(), targets.contiguous()
        count, width = states.shape
        classes = table.shape[0]
        blocks = triton.cdiv(count, tile.rows)
        parts = max(1, min(triton.cdiv(classes, tile.classes), triton.cdiv(tile.programs, blocks)))
        log_sums, scores = (states.new_empty((parts, count), dtype=torch.float32) for _ in range(2))
        _forward[(blocks * parts,)](
            states, table, targets, log_sums, scores, count, classes, width, parts, **_constants(tile), num_warps=tile.warps
        )
        log_sum = log_sums.logsumexp(0)
        ctx.save_for_backward(states, table, targets, log_sum)
        ctx.tile = tile
        return (log_sum - scores.sum(0)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, table, targets, log_sum = ctx.saved_tensors
        tile, count, classes = ctx.tile, states.shape[0], table.shape[0]
        # p / M of a large batch underflows in float16, so the scale of the loss is applied at the end.
        one = states.new_ones((), dtype=torch.float32)
        d_states = torch.empty_like(states)
        d_table = torch.zeros_like(table, dtype=torch.float32)
        size = min(max(tile.block_elements // classes, tile.block_rows), count)
        scratch = states.new_empty(size, classes)
        for start in range(0, count, size):
            block = slice(start, min(start + size, count))
            rows = states[block]
            errors = scratch[: rows.shape[0]]
            _errors[(triton.cdiv(rows.shape[0], tile.rows) * triton.cdiv(classes, tile.classes),)](
                rows, table, targets[block], log_sum[block], one, errors, rows.shape[0], classes, states.shape[1],
                **_constants(tile), num_warps=tile.warps,
            )  # fmt: skip
            with torch.autocast(states.device.type, enabled=False):
                torch.mm(errors, table, out=d_states[block])
                d_table += errors.T @ rows
        scale = grad / count
        return (d_states * scale).to(states.dtype), (d_table * scale).to(table.dtype), None, None


def _constants(tile: Tile) -> dict[str, Any]:
    return {"ROWS": tile.rows, "CLASSES": tile.classes, "WIDTH": tile.width, "PRECISION": precision()}
