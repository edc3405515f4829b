"""One more event at a constant price: what a layer must remember of a history, and how an event changes it.

The forward direction needs the scan's state and the last K-1 inputs of the convolution. The backward direction, read at the end
of the history, needs no second scan: its weights do not depend on where the history ends (`ops/prefixes.py`), so E sums carry it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import Hidden, States
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.layers.fading_sum import FadingCache
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops import dispatch
from ssd4rec.ops.convolution import taps
from ssd4rec.ops.cumulative import cumulative_sum
from ssd4rec.ops.gather import sum_of_history
from ssd4rec.ops.segments import Layout


class LayerCache(NamedTuple):
    """What one layer remembers of B histories; everything before the first event is zero.

    Size for a history: E N + (K-1)(E + 2N) numbers for the forward direction, 3 E + 2N + K H more for the backward one.
    """

    scan: Tensor  # [B, H, P, N]
    recent: Tensor  # [B, K-1, E + 2N]: inputs of the convolution of the last K-1 events, the newest last
    events: Tensor  # [B]: events read
    # the rest serves the backward direction
    settled: Tensor  # [B, E]: sum over the events whose reversed convolution is complete
    strengths: Tensor  # [B, K-1, H]: exp(S_{s-1}) dt_s of the last K-1 events
    decay: Tensor  # [B, H]: S_t, the sum of log-decays of the whole history
    first: Tensor  # [B, E + 2N]: the first event's reversed convolution as far as it has come, before its SiLU
    first_gate: Tensor  # [B, E]: z of the first event


Cache = Sequence[LayerCache | FadingCache]  # of B histories, bottom first; a fading sum of the input comes before all layers


def new_cache(layer: BiSSDLayer, histories: int) -> LayerCache:
    """What is remembered before any event, on the layer's device and of its dtype."""
    mixer = layer.mixer
    channels, width = mixer.conv_weight.shape
    like = mixer.conv_weight.new_zeros
    return LayerCache(
        scan=like(histories, mixer.heads, mixer.inner // mixer.heads, mixer.state_dim),
        recent=like(histories, width - 1, channels),
        events=torch.zeros(histories, dtype=torch.int64, device=mixer.conv_weight.device),
        settled=like(histories, mixer.inner),
        strengths=like(histories, width - 1, mixer.heads),
        decay=like(histories, mixer.heads),
        first=like(histories, channels),
        first_gate=like(histories, mixer.inner),
    )


def cache_after(layer: BiSSDLayer, hidden: Hidden, layout: Layout) -> LayerCache:
    """What is remembered after whole histories, worked out at once: what `step` would have come to, event by event.

    Args:
        layer: in evaluation mode.
        hidden: [T, D] the events of the packed row.
        layout: of the row.
    """
    mixer = layer.mixer
    gate, channels, dt = mixer.project(layer.source(hidden))
    log_decay = dt * mixer.A
    to_come = cumulative_sum(log_decay, layout, reverse=True, inclusive=False)
    x, B, _ = mixer.split(dispatch.convolve(channels, mixer.conv_weight, mixer.conv_bias, layout))
    written = (x * (dt * torch.exp(to_come))[..., None]).flatten(1)
    edges = layout.cu_seqlens.tolist()
    scan = torch.stack([written[start:stop].T @ B[start:stop] for start, stop in pairwise(edges)])

    starts, lengths = layout.cu_seqlens[:-1], layout.cu_seqlens.diff()
    back = torch.arange(mixer.conv_weight.shape[1] - 2, -1, -1, device=hidden.device)  # the newest last
    there = (back < lengths[:, None])[..., None]
    last = (layout.read_out[:, None] - back).clamp(min=0)
    new = new_cache(layer, len(lengths))._replace(
        scan=scan.view(len(lengths), mixer.heads, -1, mixer.state_dim), recent=channels[last] * there, events=lengths
    )
    if not layer.bidirectional or mixer.mirror_back:
        return new
    before = cumulative_sum(log_decay, layout, inclusive=False)
    strength = dt * torch.exp(before)
    heard = taps(channels, mixer.conv_weight, mixer.conv_bias, layout, reverse=True)[-1]
    x, B, C = mixer.split(F.silu(heard))
    complete = layout.last - layout.first - layout.place >= len(back)
    weights = strength * ((C[layout.first] * B).sum(1) * complete)[:, None]
    settled = sum_of_history((x * weights[..., None]).flatten(1), layout)
    return new._replace(
        settled=settled,
        strengths=strength[last] * there,
        decay=(before + log_decay)[layout.read_out],
        first=heard[starts],
        first_gate=gate[starts],
    )


def step(layer: BiSSDLayer, cache: LayerCache, hidden: States) -> tuple[LayerCache, States]:
    """Read one more event of each history.

    Args:
        layer: in evaluation mode.
        cache: of B histories.
        hidden: [B, D] the new events.

    Returns:
        The new cache, and [B, D] what `BiSSDLayer.read_out` gives for the histories with the new event.
    """
    mixer = layer.mixer
    gate, channels, dt = mixer.project(layer.source(hidden))
    window = torch.cat([cache.recent, channels[:, None]], dim=1)  # [B, K, channels]
    x, B, C = mixer.split(F.silu(_taps(window, mixer.conv_weight, mixer.conv_bias)))
    scan = torch.exp(dt * mixer.A)[..., None, None] * cache.scan + (dt[..., None] * x)[..., None] * B[:, None, None]
    y = (scan @ C[:, None, :, None]).squeeze(-1) + mixer.D[:, None] * x
    mixed = mixer.gated(y, gate)
    new = cache._replace(scan=scan, recent=window[:, 1:], events=cache.events + 1)
    if layer.bidirectional and mixer.mirror_back:
        mixed = mixed + mixer.backward_weight * mixer.gated(mixer.alone(channels, dt), gate)
    elif layer.bidirectional:
        new, y = _step_back(mixer, new, cache, window, dt, gate)
        mixed = mixed + mixer.backward_weight * mixer.gated(y, new.first_gate)
    return new, layer.finish(mixer.out_proj(mixed), hidden)


def _step_back(
    mixer: Mamba2Mixer, new: LayerCache, old: LayerCache, window: Tensor, dt: Tensor, gate: Tensor
) -> tuple[LayerCache, Tensor]:
    # the same terms as ops.prefixes.backward_prefix_readout, for one t
    width = window.shape[1]
    weight, bias = mixer.conv_weight, mixer.conv_bias
    before = old.events[:, None]  # events before this one
    tap = weight.T[(width - 1 - old.events).clamp(min=0)]  # the first event hears the event `events` places after it
    heard = torch.where(before == 0, bias, old.first) + tap * window[:, -1]
    first = torch.where(before < width, heard, old.first)
    first_x, _, first_C = mixer.split(F.silu(first))
    strengths = torch.cat([old.strengths, (torch.exp(old.decay) * dt)[:, None]], dim=1)  # [B, K, H]

    y = mixer.D[:, None] * first_x
    settled = old.settled
    for place in range(width):  # window[:, place] is the event width-1-place before this one; it hears itself and what follows
        heard = _taps(window[:, place:], weight.flip(1)[:, : width - place], bias)
        x, B, _ = mixer.split(F.silu(heard))
        weights = strengths[:, place] * (first_C * B).sum(1, keepdim=True) * (before >= width - 1 - place)
        term = x * weights[..., None]
        if place == 0:
            settled = settled + term.flatten(1)
        else:
            y = y + term
    y = y + settled.view_as(y)
    return (
        new._replace(
            settled=settled,
            strengths=strengths[:, 1:],
            decay=old.decay + dt * mixer.A,
            first=first,
            first_gate=torch.where(before == 0, gate, old.first_gate),
        ),
        y,
    )


def _taps(window: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (window * weight.T).sum(1) + bias
