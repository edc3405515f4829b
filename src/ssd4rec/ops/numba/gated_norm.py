"""`ops.gated_norm.gated_norm` in one pass over the rows, compiled by numba."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.array_types import Hidden
from ssd4rec.ops.numba.rows import flat_rows, for_groups, row_groups
from ssd4rec.ops.numba.vectors import ALLOCATING, FAST, ONE, add_product_, dot, sigmoid


class GatedNorm(torch.autograd.Function):
    """The kernels with their gradients; the inputs and one number a row are saved."""

    @staticmethod
    def forward(ctx: Any, y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
        out, inverse_rms = torch.empty(y.shape), torch.empty(len(y))
        arrays = *flat_rows(y), *flat_rows(gate), weight.numpy(), np.float32(eps), out.numpy(), inverse_rms.numpy()
        for_groups(lambda group: _forward(*arrays, *group), row_groups(len(y)))
        ctx.save_for_backward(y, gate, weight, inverse_rms)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Hidden) -> tuple[Tensor | None, ...]:
        y, gate, weight, inverse_rms = ctx.saved_tensors
        groups = list(enumerate(row_groups(len(y))))
        d_y, d_gate = torch.empty(y.shape), torch.empty(gate.shape)
        d_weight = torch.zeros(len(groups), len(weight))
        arrays = *flat_rows(y), *flat_rows(gate), weight.numpy(), inverse_rms.numpy(), d_out.contiguous().numpy()
        grads, sums = (d_y.numpy(), d_gate.numpy()), d_weight.numpy()
        for_groups(lambda each: _backward(*arrays, *grads, sums[each[0]], *each[1]), groups)
        return d_y, d_gate, d_weight.sum(0), None


@njit(**FAST)
def _gated_to(gated, y, gate):
    for j in range(gated.shape[0]):
        gated[j] = y[j] * gate[j] * sigmoid(gate[j])


@njit(**FAST)
def _forward(y, y_step, gate, gate_step, weight, eps, out, inverse_rms, first, last):
    width = weight.shape[0]
    for t in range(first, last):
        row = out[t]
        _gated_to(row, y[t * y_step : t * y_step + width], gate[t * gate_step : t * gate_step + width])
        inverse = ONE / np.sqrt(dot(row, row) / np.float32(width) + eps)
        inverse_rms[t] = inverse
        for j in range(width):
            row[j] *= inverse * weight[j]


@njit(**FAST)
def _backward_row(y, gate, weight, inverse, mean, d_out, d_y, d_gate):
    for j in range(weight.shape[0]):
        s = sigmoid(gate[j])
        silu = gate[j] * s
        d_gated = (d_out[j] * weight[j] - y[j] * silu * inverse * mean) * inverse
        d_y[j] = d_gated * silu
        d_gate[j] = d_gated * y[j] * (s * (ONE + gate[j] * (ONE - s)))


@njit(**ALLOCATING)
def _backward(y, y_step, gate, gate_step, weight, inverse_rms, d_out, d_y, d_gate, d_weight, first, last):
    normed = np.empty(weight.shape[0], np.float32)
    _backward_rows(y, y_step, gate, gate_step, weight, inverse_rms, d_out, d_y, d_gate, d_weight, first, last, normed)


@njit(**FAST)
def _backward_rows(y, y_step, gate, gate_step, weight, inverse_rms, d_out, d_y, d_gate, d_weight, first, last, normed):
    width = weight.shape[0]
    for t in range(first, last):
        inverse = inverse_rms[t]
        values, z = y[t * y_step : t * y_step + width], gate[t * gate_step : t * gate_step + width]
        _gated_to(normed, values, z)
        mean = np.float32(0.0)
        for j in range(width):
            normed[j] *= inverse
            mean += d_out[t, j] * normed[j] * weight[j]
        add_product_(d_weight, d_out[t], normed)
        _backward_row(values, z, weight, inverse, mean / np.float32(width), d_out[t], d_y[t], d_gate[t])
