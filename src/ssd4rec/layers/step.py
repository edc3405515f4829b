"""Incremental inference: a constant-size cache per sequence, updated in constant time for each new position.

The forward direction needs the SSM state and the last K-1 inputs of the convolution, as in any Mamba-2 implementation.
The backward direction, read out at the end of the sequence, needs no second scan: its weights do not depend on where the
sequence ends (`ops.ssd.prefix_readout`), so a weighted sum of E numbers is enough.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import Channels, Hidden, States, StepSizes
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.layers.fading_sum import FadingCache
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops import dispatch
from ssd4rec.ops.convolution import partial_convolutions
from ssd4rec.ops.cumulative import cumulative_sum
from ssd4rec.ops.gather import sum_sequences
from ssd4rec.ops.segments import Layout


class LayerCache(NamedTuple):
    """Cache of one layer for B sequences; all zeros before the first position.

    Size per sequence: E N + (K-1)(E + 2N) numbers for the forward direction, 3 E + 2N + K H more for the backward direction.
    """

    ssm_state: Tensor  # [B, H, P, N]
    conv_state: Tensor  # [B, K-1, E + 2N]: inputs of the convolution at the last K-1 positions, the newest last
    length: Tensor  # [B]: positions so far
    # The remaining fields serve the backward direction.
    backward_sum: Tensor  # [B, E]: weighted sum over the positions whose reversed convolution is complete
    decayed_dt: Tensor  # [B, K-1, H]: exp(S_{s-1}) dt_s of the last K-1 positions
    log_decay: Tensor  # [B, H]: S_t, the cumulative log decay of the whole sequence
    first_conv: Tensor  # [B, E + 2N]: partial reversed convolution at the first position, before SiLU
    first_gate: Tensor  # [B, E]: z of the first position


Cache = Sequence[LayerCache | FadingCache]  # of B sequences, bottom layer first; a fading sum of the input comes first


def new_cache(layer: BiSSDLayer, sequences: int) -> LayerCache:
    """Return the cache of empty sequences, with the device and dtype of the layer."""
    mixer = layer.mixer
    channels, width = mixer.conv_weight.shape
    zeros = mixer.conv_weight.new_zeros
    return LayerCache(
        ssm_state=zeros(sequences, mixer.heads, mixer.inner // mixer.heads, mixer.state_dim),
        conv_state=zeros(sequences, width - 1, channels),
        length=torch.zeros(sequences, dtype=torch.int64, device=mixer.conv_weight.device),
        backward_sum=zeros(sequences, mixer.inner),
        decayed_dt=zeros(sequences, width - 1, mixer.heads),
        log_decay=zeros(sequences, mixer.heads),
        first_conv=zeros(sequences, channels),
        first_gate=zeros(sequences, mixer.inner),
    )


def prefill(layer: BiSSDLayer, hidden: Hidden, layout: Layout) -> tuple[LayerCache, States]:
    """Compute the cache after whole sequences, as `step` for each position, and the output of `BiSSDLayer.forward_last`.

    The layer is in evaluation mode; hidden is its input. [T, D] -> cache, [B, D].
    """
    mixer, source = layer.mixer, layer.source(hidden)
    channels, dt = _project_without_gate(mixer, source)
    starts, ends, lengths = layout.cu_seqlens[:-1], layout.last_index, layout.cu_seqlens.diff()
    log_decay = dt * mixer.A
    later_decay = cumulative_sum(log_decay, layout, reverse=True, inclusive=False)
    x, B, C = mixer.split(dispatch.convolve(channels, mixer.conv_weight, mixer.conv_bias, layout))
    decayed_x = (x * (dt * torch.exp(later_decay))[..., None]).flatten(1)
    edges = layout.cu_seqlens.tolist()
    ssm_state = torch.stack([decayed_x[start:stop].T @ B[start:stop] for start, stop in pairwise(edges)])
    ssm_state = ssm_state.view(len(lengths), mixer.heads, -1, mixer.state_dim)

    lag = torch.arange(mixer.conv_weight.shape[1] - 2, -1, -1, device=hidden.device)  # the newest position last
    valid = (lag < lengths[:, None])[..., None]
    recent = (ends[:, None] - lag).clamp(min=0)
    cache = new_cache(layer, len(lengths))._replace(ssm_state=ssm_state, conv_state=channels[recent] * valid, length=lengths)
    gate = _gate(mixer, source[ends])
    y = (ssm_state @ C[ends][:, None, :, None]).squeeze(-1) + mixer.D[:, None] * x[ends]
    mixed = mixer.gated(y, gate)
    if layer.bidirectional and mixer.mirror_back:
        mixed = mixed + mixer.backward_weight * mixer.gated(mixer.single_position(channels[ends], dt[ends]), gate)
    elif layer.bidirectional:
        earlier_decay = cumulative_sum(log_decay, layout, inclusive=False)
        decayed_dt = dt * torch.exp(earlier_decay)
        convolved = partial_convolutions(channels, mixer.conv_weight, mixer.conv_bias, layout, reverse=True)[-1]
        x, B, C = mixer.split(F.silu(convolved))
        terms = (x * (decayed_dt * (C[layout.seq_start] * B).sum(1, keepdim=True))[..., None]).flatten(1)
        complete = layout.seq_end - layout.seq_start - layout.position >= len(lag)
        cache = cache._replace(
            backward_sum=sum_sequences(terms * complete[:, None], layout),
            decayed_dt=decayed_dt[recent] * valid,
            log_decay=(earlier_decay + log_decay)[ends],
            first_conv=convolved[starts],
            first_gate=_gate(mixer, source[starts]),
        )
        y = sum_sequences(terms, layout).view_as(y) + mixer.D[:, None] * x[starts]
        mixed = mixed + mixer.backward_weight * mixer.gated(y, cache.first_gate)
    return cache, layer.residual(mixer.out_proj(mixed), hidden[ends])


def _project_without_gate(mixer: Mamba2Mixer, source: Hidden) -> tuple[Channels, StepSizes]:
    """Do `Mamba2Mixer.project` without the gate, which is a third of the work and is read at the ends of sequences only."""
    rest = F.linear(source, mixer.in_proj.weight[mixer.inner :])
    channels, dt = rest.split([rest.shape[1] - mixer.heads, mixer.heads], dim=1)
    return channels, F.softplus(dt + mixer.dt_bias)


def _gate(mixer: Mamba2Mixer, source: Tensor) -> Tensor:
    return F.linear(source, mixer.in_proj.weight[: mixer.inner])


def step(layer: BiSSDLayer, cache: LayerCache, hidden: States) -> tuple[LayerCache, States]:
    """Process one new position of each sequence.

    Args:
        layer: in evaluation mode.
        cache: of B sequences; it is not modified.
        hidden: [B, D] input of the layer at the new positions.

    Returns:
        The new cache, and [B, D] the output of `BiSSDLayer.forward_last` for the extended sequences.
    """
    mixer = layer.mixer
    gate, channels, dt = mixer.project(layer.source(hidden))
    window = torch.cat([cache.conv_state, channels[:, None]], dim=1)  # [B, K, channels]
    x, B, C = mixer.split(F.silu((window * mixer.conv_weight.T).sum(1) + mixer.conv_bias))
    decay = torch.exp(dt * mixer.A)[..., None, None]
    ssm_state = decay * cache.ssm_state + (dt[..., None] * x)[..., None] * B[:, None, None]
    y = (ssm_state @ C[:, None, :, None]).squeeze(-1) + mixer.D[:, None] * x
    mixed = mixer.gated(y, gate)
    new = cache._replace(ssm_state=ssm_state, conv_state=window[:, 1:], length=cache.length + 1)
    if layer.bidirectional and mixer.mirror_back:
        mixed = mixed + mixer.backward_weight * mixer.gated(mixer.single_position(channels, dt), gate)
    elif layer.bidirectional:
        new, y = _step_backward_direction(mixer, new, cache, window, dt, gate)
        mixed = mixed + mixer.backward_weight * mixer.gated(y, new.first_gate)
    return new, layer.residual(mixer.out_proj(mixed), hidden)


def _step_backward_direction(
    mixer: Mamba2Mixer, new: LayerCache, old: LayerCache, window: Tensor, dt: Tensor, gate: Tensor
) -> tuple[LayerCache, Tensor]:
    """Compute y of `ops.ssd.prefix_readout.backward_prefix_readout` for one more position."""
    width = window.shape[1]
    weight, bias = mixer.conv_weight, mixer.conv_bias
    previous = old.length[:, None]  # positions before this one
    tap = weight.T[(width - 1 - old.length).clamp(min=0)]  # the new position is neighbor `length` of the first
    extended = torch.where(previous == 0, bias, old.first_conv) + tap * window[:, -1]
    first_conv = torch.where(previous < width, extended, old.first_conv)
    first_x, _, first_C = mixer.split(F.silu(first_conv))
    decayed_dt = torch.cat([old.decayed_dt, (torch.exp(old.log_decay) * dt)[:, None]], dim=1)  # [B, K, H]

    # window[:, k] is width-1-k positions back; its receptive field is itself and the later positions
    x, B, _ = mixer.split(F.silu(_reversed_convolutions(window, weight, bias)).flatten(0, 1))
    x, B = x.unflatten(0, (-1, width)), B.unflatten(0, (-1, width))  # [B, K, H, P], [B, K, N]
    exists = previous >= torch.arange(width - 1, -1, -1, device=window.device)  # [B, K]
    terms = x * (decayed_dt * ((first_C[:, None] * B).sum(2) * exists)[..., None])[..., None]
    backward_sum = old.backward_sum + terms[:, 0].flatten(1)  # the only position whose convolution is complete
    y = mixer.D[:, None] * first_x + terms[:, 1:].sum(1) + backward_sum.view_as(first_x)
    return (
        new._replace(
            backward_sum=backward_sum,
            decayed_dt=decayed_dt[:, 1:],
            log_decay=old.log_decay + dt * mixer.A,
            first_conv=first_conv,
            first_gate=torch.where(previous == 0, gate, old.first_gate),
        ),
        y,
    )


def _reversed_convolutions(window: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve each suffix of a window with the first taps of the reversed filter: [B, K, C], position k reads k … K-1."""
    width = window.shape[1]
    taps = F.pad(weight.flip(1), (width - 1, 0)).unfold(1, width, 1).flip(1)  # [C, K, K]: 0 for positions before k
    return (window[:, None] * taps.permute(1, 2, 0)).sum(2) + bias
