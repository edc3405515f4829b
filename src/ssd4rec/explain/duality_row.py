"""The row of the duality matrix that gives a sequence's last y, and the same y without each event.

    y = sum_s exp(S_L - S_s) dt_s (C_L . B_s) x_s  +  D x_L                 S_s = sum_{r <= s} dt_r A

Leaving out event j removes its term, removes its decay from the weights of the events before it, and shifts the convolution
windows of the K-1 events after it. Every other term stays, so prefix sums of the terms give y without each event:

    y without j = exp(-dt_j A) sum_{s < j}  +  K-1 changed terms  +  sum_{s >= j + K}  +  D x_L

Leaving out one of the last K events also changes C_L and x_L. These K rows share the terms of all events before the last K.

Source: derived for this project, as above; tests compare it with reading every shortened sequence.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import Channels, StepSizes, Values
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops import dispatch
from ssd4rec.ops.segments import make_layout

CHUNK = 64  # events that one matrix product sums
STEEPEST = {torch.float32: 60.0, torch.float64: 600.0}  # exp of it leaves room for the values that it multiplies


class Row(NamedTuple):
    """One row of the duality matrix: y = sum_s weights_s x_s + skip."""

    weights: Tensor  # [T, H]
    x: Values  # [T, H, P]
    skip: Tensor  # [H, P] D x of the last event


def last_row(mixer: Mamba2Mixer, channels: Channels, dt: StepSizes) -> Row:
    """Return the row of the duality matrix of the forward scan at the last event.

    Args:
        mixer: its convolution, A and D.
        channels: [T, E + 2N] inputs of the convolution.
        dt: [T, H] step sizes.
    """
    convolved = dispatch.convolve(
        channels, mixer.conv_weight, mixer.conv_bias, make_layout(torch.tensor([0, len(dt)]), device=dt.device)
    )
    x, B, C = mixer.split(convolved)
    weights = dt * torch.exp(_sum_after(dt * mixer.A)) * (B @ C[-1])[:, None]
    return Row(weights, x, mixer.D[:, None] * x[-1])


def last_without_each(mixer: Mamba2Mixer, channels: Channels, dt: StepSizes) -> Values:
    """Return y of the forward scan at the last of two or more events, without each of them; see `last_row` for the arguments.

    Returns:
        [T + 1, H, P]: row j is y without event j; the last row is y.
    """
    tail = min(max(mixer.conv_weight.shape[1], 2), len(dt))
    head = len(dt) - tail
    windows = _windows_without(mixer, channels)
    x, B = windows[0]
    C_last, after = _last_C(mixer, channels), _sum_after(dt * mixer.A)
    weights = dt * _decay(after)
    terms = x * (weights * (B @ C_last)[:, None])[..., None]
    y = x.new_empty(len(dt) + 1, *x.shape[1:])
    torch.addcmul(terms.sum(0), mixer.D[:, None], x[-1], out=y[-1])
    if head:
        _without_head_events(y[:head], mixer, dt, after, weights, windows, terms, C_last)
    y[head:-1] = _without_tail_events(mixer, channels, dt, x[:head], B[:head])
    return y


def _windows_without(mixer: Mamba2Mixer, channels: Channels) -> list[tuple[Values, Tensor]]:
    """Return x [T, H, P] and B [T, N] of every event, as they are, and without the event 1, 2, … K-1 places before it.

    In the entries without a neighbor the rows of events that have none mean nothing.
    """
    reads, width, events = mixer.inner + mixer.state_dim, mixer.conv_weight.shape[1], len(channels)
    before = F.pad(channels[:, :reads], (0, 0, width, 0))  # zeros in place of the events before the first one
    taps = mixer.conv_weight[:reads].T.flip(0).contiguous()
    shifted = [before[width - k : width - k + events] for k in range(width + 1)]  # entry k: the event k places before
    near = [torch.addcmul(mixer.conv_bias[:reads], shifted[0], taps[0])]  # entry k: bias, the event and k neighbors
    for k in range(1, width):
        near.append(torch.addcmul(near[-1], shifted[k], taps[k]))
    changed, far = [], shifted[width] * taps[width - 1]  # far: the neighbors k + 1, …, K, which move up by one place
    for k in range(width - 1, 0, -1):
        changed.append(near[k - 1].add_(far))
        if k > 1:
            far.addcmul_(shifted[k], taps[k - 1])
    summed = [near[-1], *reversed(changed)]
    parts = (F.silu(each, inplace=True).split([mixer.inner, mixer.state_dim], dim=1) for each in summed)
    return [(x.unflatten(1, (mixer.heads, -1)), B) for x, B in parts]


def _without_head_events(
    y: Values,
    mixer: Mamba2Mixer,
    dt: StepSizes,
    after: Tensor,
    weights: Tensor,
    windows: list[tuple[Values, Tensor]],
    terms: Values,
    C_last: Tensor,
) -> None:
    """Write y without each of the first events to `y` [head, H, P]; the last event keeps its C and x."""
    (x, B), *changed = windows
    head, width, log_decay = len(y), len(windows), dt * mixer.A
    sums = _running_sum(terms.flatten(1)).view_as(x)
    torch.sub(torch.addcmul(sums[-1], mixer.D[:, None], x[-1]), sums[width - 1 : width - 1 + head], out=y)
    if float(log_decay.min()) > -STEEPEST[dt.dtype]:
        y[1:].addcmul_(torch.exp(-log_decay[1:head])[..., None], sums[: head - 1])
    elif head > 1:
        y[1:] += torch.exp(after[1:head])[..., None] * _decayed_sums(mixer, x, dt, B @ C_last, head - 1)
    for k, (x_k, B_k) in enumerate(changed, start=1):
        after_j = slice(k, k + head)
        y.addcmul_(x_k[after_j], (weights[after_j] * (B_k[after_j] @ C_last)[:, None])[..., None])


def _decayed_sums(mixer: Mamba2Mixer, x: Values, dt: StepSizes, match: Tensor, events: int) -> Values:
    """Return sum_{s <= t} exp(S_t - S_s) dt_s match_s x_s of the first events t: safe for decays of any strength."""
    layout = make_layout(torch.tensor([0, events]), device=dt.device)
    reads, no_skip = torch.ones_like(match[:events, None]), torch.zeros_like(mixer.D)
    return dispatch.scan(x[:events], dt[:events], mixer.A, match[:events, None], reads, no_skip, layout)


def _without_tail_events(mixer: Mamba2Mixer, channels: Channels, dt: StepSizes, x_head: Values, B_head: Tensor) -> Values:
    """Return y without each of the events after the head, [tail, H, P]: each has an end of its own."""
    width, head, events = mixer.conv_weight.shape[1], len(x_head), len(dt)
    shortened = torch.arange(head - width + 1, events - 1, device=dt.device)  # the last events, and the windows that they read
    positions = shortened + (shortened >= torch.arange(head, events, device=dt.device)[:, None])
    inside = (positions >= 0)[..., None]
    windows = (channels[positions.clamp(min=0)] * inside).unfold(1, width, 1)  # [tail, tail - 1, E + 2N, K]
    convolved = F.silu((windows * mixer.conv_weight).sum(-1) + mixer.conv_bias)
    x, B, C = (part.unflatten(0, convolved.shape[:2]) for part in mixer.split(convolved.flatten(0, 1)))
    step = dt[positions[:, width - 1 :]]  # [tail, tail - 1, H]
    log_decay = step * mixer.A
    C_last = C[:, -1]
    match = (B * C_last[:, None]).sum(-1, keepdim=True)
    weights = step * torch.exp(_sum_after(log_decay, dim=1)) * match
    y: Tensor = (x * weights[..., None]).sum(1) + mixer.D[:, None] * x[:, -1]
    if head:
        decayed = x_head * (dt[:head] * _decay(_sum_after(dt[:head] * mixer.A)))[..., None]
        y += torch.exp(log_decay.sum(1))[..., None] * ((C_last @ B_head.T) @ decayed.flatten(1)).view_as(y)
    return y


def _last_C(mixer: Mamba2Mixer, channels: Channels) -> Tensor:
    """Return C of the last event, [N]."""
    width, states = mixer.conv_weight.shape[1], mixer.state_dim
    window = channels[-width:, -states:]
    taps = mixer.conv_weight[-states:, width - len(window) :].T
    return F.silu((window * taps).sum(0) + mixer.conv_bias[-states:])


def _running_sum(values: Tensor) -> Tensor:
    """Inclusive prefix sums over the rows of [T, width], a chunk at a time."""
    events, width = values.shape
    padded = F.pad(values, (0, 0, 0, -events % CHUNK)).view(-1, CHUNK, width)
    sums = values.new_ones(CHUNK, CHUNK).tril() @ padded
    sums[1:] += sums[:-1, -1].cumsum(0)[:, None]
    return sums.view(-1, width)[:events]


def _decay(log_decay: Tensor) -> Tensor:
    """Return exp of sums of log decays, 0 where it is negligible: subnormal numbers slow down all that is computed from them."""
    return torch.exp(log_decay).masked_fill_(log_decay < -STEEPEST[log_decay.dtype], 0.0)


def _sum_after(values: Tensor, dim: int = 0) -> Tensor:
    """Sums over the entries after each one along a dimension."""
    flipped = values.flip(dim)
    sums = flipped.cumsum(dim)
    return torch.cat([torch.zeros_like(flipped.narrow(dim, 0, 1)), sums.narrow(dim, 0, values.shape[dim] - 1)], dim).flip(dim)
