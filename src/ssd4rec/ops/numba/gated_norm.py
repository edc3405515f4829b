"""`ops.gated_norm` in one pass over the rows, compiled by numba."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import CuSeqlens, Hidden
from ssd4rec.ops.numba.rows import flat_rows, for_groups, number_of_groups, sequence_groups
from ssd4rec.ops.numba.simd import AHEAD, LANES, add_at, empty, filled, load, prefetch, sigmoid, silu_slope, store, total
from ssd4rec.ops.numba.vectors import ALLOCATING, FAST, ONE, ZERO


class GatedNorm(torch.autograd.Function):
    """The kernels with their gradients, for one direction or both; the inputs and one number a row are saved.

    Without the other direction the rows are cut anywhere, and the inputs of the other direction are those of this one, unread.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Hidden, other: Hidden | None, gate: Hidden, weight: Tensor, eps: float, scale: float, edges: CuSeqlens | None
    ) -> Hidden:
        ctx.scale = np.float32(scale)
        ctx.edges = torch.linspace(0, len(y), number_of_groups(len(y)) + 1).long() if edges is None else edges
        out, inverse_rms = torch.empty(y.shape), torch.empty(2, len(y))
        ctx.save_for_backward(y, other, gate, weight, inverse_rms)
        arrays = *_arrays(y, other, gate, weight, ctx), out.numpy(), inverse_rms.numpy(), np.float32(eps)
        for_groups(lambda group: _forward(*arrays, *group), sequence_groups(ctx.edges))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Hidden) -> tuple[Tensor | None, ...]:
        y, other, gate, weight, inverse_rms = ctx.saved_tensors
        groups = list(enumerate(sequence_groups(ctx.edges)))
        d_y, d_gate, d_other = torch.empty(y.shape), torch.empty(gate.shape), None if other is None else torch.empty(y.shape)
        d_weight = torch.zeros(len(groups), len(weight))
        grads = [(d_y if each is None else each).numpy() for each in (d_out.contiguous(), d_y, d_other, d_gate)]
        arrays, sums = (*_arrays(y, other, gate, weight, ctx), inverse_rms.numpy(), *grads), d_weight.numpy()
        for_groups(lambda each: _backward(*arrays, sums[each[0]], *each[1]), groups)
        return d_y, d_other, d_gate, d_weight.sum(0), None, None, None


def _arrays(y: Hidden, other: Hidden | None, gate: Hidden, weight: Tensor, ctx: Any) -> tuple[Any, ...]:
    rows = [number for each in (y, y if other is None else other, gate) for number in flat_rows(each)]
    return *rows, weight.numpy(), ctx.scale, other is not None, ctx.edges.numpy()


@njit(**ALLOCATING)
def _forward(y, y_step, other, other_step, gate, gate_step, weight, scale, both, edges, out, inverse_rms, eps, first, last):
    rows = y, y_step, other, other_step, gate, gate_step, weight, scale, both
    _forward_rows(*rows, edges, out, inverse_rms, eps, first, last, empty(len(weight)), empty(len(weight)))


@njit(**FAST)
def _forward_rows(
    y, y_step, other, other_step, gate, gate_step, weight, scale, both, edges, out, inverse_rms, eps, first, last, gated, opened
):
    width = weight.shape[0]
    for sequence in range(first, last):
        for v in range(0, width, LANES):
            z = load(gate, edges[sequence] * gate_step + v)
            store(opened, v, z * sigmoid(z))
        for t in range(edges[sequence], edges[sequence + 1]):
            squares, other_squares, other_inverse = filled(ZERO), filled(ZERO), ZERO
            for v in range(0, width, LANES):
                prefetch(out, (t + AHEAD) * width + v)
                z = load(gate, t * gate_step + v)
                values = load(y, t * y_step + v) * (z * sigmoid(z))
                store(gated, v, values)
                squares += values * values
                if both:
                    values = load(other, t * other_step + v) * load(opened, v)
                    other_squares += values * values
            inverse = ONE / np.sqrt(total(squares) / np.float32(width) + eps)
            inverse_rms[0, t] = inverse
            if both:
                other_inverse = ONE / np.sqrt(total(other_squares) / np.float32(width) + eps)
                inverse_rms[1, t] = other_inverse
            for v in range(0, width, LANES):
                values = load(gated, v) * inverse
                if both:
                    values += load(other, t * other_step + v) * load(opened, v) * (other_inverse * scale)
                store(out, t * width + v, values * load(weight, v))


@njit(**ALLOCATING)
def _backward(
    y, y_step, other, other_step, gate, gate_step, weight, scale, both, edges,
    inverse_rms, d_out, d_y, d_other, d_gate, d_weight, first, last,
):  # fmt: skip
    rows = y, y_step, other, other_step, gate, gate_step, weight, scale, both
    scratch = empty(len(weight)), empty(len(weight)), empty(len(weight)), empty(len(weight))
    _backward_rows(*rows, edges, inverse_rms, d_out, d_y, d_other, d_gate, d_weight, first, last, scratch)


@njit(**FAST)
def _backward_rows(
    y, y_step, other, other_step, gate, gate_step, weight, scale, both, edges,
    inverse_rms, d_out, d_y, d_other, d_gate, d_weight, first, last, scratch,
):  # fmt: skip
    width, (silus, slopes, opened, d_opened) = weight.shape[0], scratch
    for sequence in range(first, last):
        start = edges[sequence]
        d_opened[:] = ZERO
        for v in range(0, width, LANES):
            z = load(gate, start * gate_step + v)
            store(opened, v, z * sigmoid(z))
        for t in range(start, edges[sequence + 1]):
            inverse, other_inverse = inverse_rms[0, t], inverse_rms[1, t]
            products, other_products = filled(ZERO), filled(ZERO)
            for v in range(0, width, LANES):
                prefetch(d_y, (t + AHEAD) * width + v)
                prefetch(d_gate, (t + AHEAD) * width + v)
                z, grad = load(gate, t * gate_step + v), load(d_out, t * width + v)
                chance = sigmoid(z)
                store(silus, v, z * chance)
                store(slopes, v, silu_slope(z, chance))
                of_weight = grad * (load(y, t * y_step + v) * (z * chance) * inverse)
                products += of_weight * load(weight, v)
                if both:
                    prefetch(d_other, (t + AHEAD) * width + v)
                    of_other = grad * (load(other, t * other_step + v) * load(opened, v) * (other_inverse * scale))
                    other_products += of_other * load(weight, v)
                    of_weight += of_other
                add_at(d_weight, v, of_weight)
            mean = total(products) / np.float32(width) * inverse
            other_mean = total(other_products) / np.float32(width) * other_inverse
            for v in range(0, width, LANES):
                values, silu, grad = load(y, t * y_step + v), load(silus, v), load(d_out, t * width + v) * load(weight, v)
                d_gated = (grad - values * silu * mean) * inverse
                store(d_y, t * width + v, d_gated * silu)
                store(d_gate, t * width + v, d_gated * values * load(slopes, v))
                if both:
                    values, silu = load(other, t * other_step + v), load(opened, v)
                    d_gated = (grad * scale - values * silu * other_mean) * other_inverse
                    store(d_other, t * width + v, d_gated * silu)
                    add_at(d_opened, v, d_gated * values)
        if both:
            for v in range(0, width, LANES):
                z = load(gate, start * gate_step + v)
                add_at(d_gate, start * width + v, load(d_opened, v) * silu_slope(z, sigmoid(z)))
