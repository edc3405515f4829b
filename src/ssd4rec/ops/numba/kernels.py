"""The kernels as functions; see `ops.dispatch` for their formulas and arguments. They compute in float32."""

import torch
from torch import Tensor

from ssd4rec.array_types import Channels, CuSeqlens, Hidden, Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.ops.numba.convolution import Convolution
from ssd4rec.ops.numba.cumulative import CumulativeSum
from ssd4rec.ops.numba.fading import FadingSum
from ssd4rec.ops.numba.gated_norm import GatedNorm
from ssd4rec.ops.numba.prefix_readout import BackwardPrefixReadout
from ssd4rec.ops.numba.products import LANES
from ssd4rec.ops.numba.repeats import BlockLogits
from ssd4rec.ops.numba.scan import Scan
from ssd4rec.ops.segments import Layout, promote_to_float32

__all__ = ["BlockLogits", "backward_prefix_readout", "convolve", "fading_sum", "gated_norm", "scan", "supports_scan"]


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """Compute the convolution with SiLU."""
    channels, weight, bias = promote_to_float32(channels, weight, bias)
    out: Channels = Convolution.apply(channels, weight, bias, layout, reverse)
    return out


def fading_sum(values: Hidden, log_decay: Tensor, cu_seqlens: CuSeqlens) -> Hidden:
    """Compute f_t = decay f_{t-1} + x_t."""
    values, log_decay = promote_to_float32(values, log_decay)
    out: Hidden = FadingSum.apply(values, log_decay, cu_seqlens)
    return out


def gated_norm(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """Compute RMSNorm(y * SiLU(gate)) * weight."""
    y, gate, weight = promote_to_float32(y, gate, weight)
    out: Hidden = GatedNorm.apply(y, gate, weight, eps)
    return out


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
    y: Values = BackwardPrefixReadout.apply(channels, weight, bias, decayed_dt, D, layout, state_dim)
    return y


def supports_scan(x: Values, B: StateInputs) -> bool:
    """Whether the widths of heads and states are whole vectors."""
    return x.shape[2] % LANES == 0 and B.shape[1] % LANES == 0


def scan(
    x: Values, dt: StepSizes, A: Rates, B: StateInputs, C: StateReads, D: Rates, layout: Layout, *, reverse: bool = False
) -> Values:
    """Run the SSD scan."""
    y: Values = Scan.apply(*promote_to_float32(x, dt, A, B, C, D), layout, reverse)
    return y
