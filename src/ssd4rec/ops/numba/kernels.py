"""The kernels as functions; see `ops.dispatch` for their formulas and arguments. They compute in float32."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import Channels, CuSeqlens, Hidden, Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.ops.dropout import LEVELS, drops, keep_levels, random_levels, scale_of
from ssd4rec.ops.numba.convolution import Convolution
from ssd4rec.ops.numba.cumulative import CumulativeSum
from ssd4rec.ops.numba.dropout import Dropout
from ssd4rec.ops.numba.fading import FadingSum
from ssd4rec.ops.numba.feed_forward import FeedForward
from ssd4rec.ops.numba.gated_norm import GatedNorm
from ssd4rec.ops.numba.prefix_readout import BackwardPrefixReadout
from ssd4rec.ops.numba.repeats import BlockLogits
from ssd4rec.ops.numba.scan import Scan
from ssd4rec.ops.numba.simd import LANES
from ssd4rec.ops.numba.softmax import exp_and_sum_
from ssd4rec.ops.segments import Layout, autocasts_to_bfloat16, promote_to_float32

__all__ = [
    "BlockLogits",
    "backward_prefix_readout",
    "convolve",
    "dropout",
    "exp_and_sum_",
    "fading_sum",
    "feed_forward",
    "gated_norm",
    "gated_norm_of_both",
    "scan",
    "whole_vectors",
]  # fmt: skip

NEGLIGIBLE = 1e-30  # weights of a read-out: products with smaller ones are denormal, and take a hundred times as long


def whole_vectors(*widths: int) -> bool:
    """Whether rows of these widths are whole vectors, as all kernels but `fading_sum` and `dropout` need."""
    return not any(width % LANES for width in widths)


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """Compute the convolution with SiLU."""
    channels, weight, bias = promote_to_float32(channels, weight, bias)
    return Convolution.apply(channels, weight, bias, layout, reverse)


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p."""
    count = keep_levels(p)
    return Dropout.apply(x, random_levels(x.shape), count - LEVELS // 2, scale_of(count))


def fading_sum(values: Hidden, log_decay: Tensor, cu_seqlens: CuSeqlens) -> Hidden:
    """Compute f_t = decay f_{t-1} + x_t."""
    values, log_decay = promote_to_float32(values, log_decay)
    return FadingSum.apply(values, log_decay, cu_seqlens)


def feed_forward(
    x: Hidden, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, p: float, *, training: bool
) -> Hidden:
    """Compute W2 dropout(GELU(W1 x + b1)) + b2."""
    rows, count = len(x) if drops(p, training=training) else 0, keep_levels(p)
    levels = random_levels(torch.Size((rows, len(widen))))
    operands = torch.bfloat16 if autocasts_to_bfloat16("cpu") else widen.dtype
    arguments = x.contiguous(), widen, widen_bias, narrow, narrow_bias, levels, count - LEVELS // 2, scale_of(count), operands
    with torch.autocast("cpu", enabled=False):
        out: Hidden = FeedForward.apply(*arguments)
    return out


def gated_norm(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """Compute RMSNorm(y * SiLU(gate)) * weight."""
    y, gate, weight = promote_to_float32(y, gate, weight)
    return GatedNorm.apply(y, None, gate, weight, eps, 0.0, None)


def gated_norm_of_both(
    y: Hidden, other: Hidden, gate: Hidden, weight: Tensor, eps: float, scale: float, layout: Layout
) -> Hidden:
    """Compute gated_norm(y, gate) + scale * gated_norm(other, the gate at the first position of the sequence)."""
    y, other, gate, weight = promote_to_float32(y, other, gate, weight)
    return GatedNorm.apply(y, other, gate, weight, eps, scale, layout.cu_seqlens)


def backward_prefix_readout(
    channels: Channels,
    weight: Tensor,
    bias: Tensor,
    dt: StepSizes,
    A: Rates,
    D: Rates,
    layout: Layout,
    state_dim: int,
) -> Values:
    """Read out the reversed scan of every prefix at its last step."""
    channels, weight, bias, dt, A, D = promote_to_float32(channels, weight, bias, dt, A, D)
    decayed_dt = dt * torch.exp(CumulativeSum.apply(dt * A, layout.cu_seqlens))
    decayed_dt = F.threshold(decayed_dt, NEGLIGIBLE, 0.0)
    return BackwardPrefixReadout.apply(channels, weight, bias, decayed_dt, D, layout, state_dim)


def scan(
    x: Values, dt: StepSizes, A: Rates, B: StateInputs, C: StateReads, D: Rates, layout: Layout, *, reverse: bool = False
) -> Values:
    """Run the SSD scan."""
    return Scan.apply(*promote_to_float32(x, dt, A, B, C, D), layout, reverse)
