"""Reading a history at one place: at the end of every prefix in one pass, or at its end only without a scan.

Reading the prefix t, …, 2, 1 backwards and reading out at item 1 gives, for each head,

    y(t) = sum_{s <= t} exp(S_{s-1}) dt_s (C_1 . B_s) x_s  +  D x_1          S_s = sum_{r <= s} dt_r A

whose weights do not depend on t: a cumulative sum gives every prefix. Only the convolution sees where the prefix ends: in
reversed order event s hears the events s, s+1, …, s+K-1 as far as they are <= t, so the last K-1 events of each prefix, and
C_1 and x_1 while t < K, are worked out with the taps that are inside it.

Source: PERFORMANCE.md section 2 (derived for this project); tests hold it to running each prefix on its own.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.ops.convolution import taps
from ssd4rec.ops.segments import Chunks, Layout
from ssd4rec.shapes import Channels, Rates, StateInputs, StateReads, StepSizes, Values


def backward_of_every_prefix(
    channels: Channels,
    weight: Tensor,
    bias: Tensor,
    dt: StepSizes,
    A: Rates,
    D: Rates,
    layout: Layout,
    state_dim: int,
) -> Values:
    """Y at item 1 of the reversed scan of every prefix; row t is the prefix that ends at position t.

    Args:
        channels: [T, E + 2N] what the convolution reads: x, B and C side by side.
        weight: [E + 2N, K].
        bias: [E + 2N].
        dt: [T, H] step sizes, positive.
        A: [H] decay rates, negative.
        D: [H] skip weights.
        layout: of the row.
        state_dim: N.

    Returns:
        y [T, H, P].
    """
    heads, state = A.shape[0], state_dim
    inner = channels.shape[1] - 2 * state
    reached = [F.silu(partial) for partial in taps(channels, weight, bias, layout, reverse=True)]
    split = [partial.split([inner, state, state], dim=1) for partial in reached]  # entry k: the prefix ends k events later
    delay = len(split) - 1

    arrived = layout.place.clamp(max=delay)
    first_x = torch.stack([x for x, _, _ in split])[arrived, layout.first]
    first_C = torch.stack([C for _, _, C in split])[arrived, layout.first]

    log_decay = dt * A
    strength = dt * torch.exp(cumulative_sum(log_decay, layout) - log_decay)  # exp(S_{s-1}) dt_s

    full_x, full_B, _ = split[-1]
    full_C = split[-1][2][layout.first]
    weights = strength * (full_C * full_B).sum(1, keepdim=True)
    settled = cumulative_sum(_weighted(full_x, weights), layout)
    y = D.repeat_interleave(inner // heads) * first_x + _delayed(settled, delay, layout)
    for k, (x, B, _) in enumerate(split[:-1]):
        weights = _delayed(strength, k, layout) * (first_C * _delayed(B, k, layout)).sum(1, keepdim=True)
        y = y + _weighted(_delayed(x, k, layout), weights)
    return y.view(-1, heads, inner // heads)


def last_of_scan(
    x: Values,
    dt: StepSizes,
    A: Rates,
    B: StateInputs,
    C: StateReads,
    D: Rates,
    layout: Layout,
    *,
    reverse: bool = False,
) -> Values:
    """Y of `scan` at the last event of each history (reversed: at the first, where the backward scan ends).

    y_L = sum_s exp(S_L - S_s) dt_s (C_L . B_s) x_s + D x_L is a weighted sum of the events: no state is built.

    Args:
        x: [T, H, P] values.
        dt: [T, H] step sizes, positive.
        A: [H] decay rates, negative.
        B: [T, N].
        C: [T, N].
        D: [H] skip weights.
        layout: of the row.
        reverse: the scan runs from the last event to the first.

    Returns:
        y [B, H, P].
    """
    log_decay = dt * A
    past = cumulative_sum(log_decay, layout, reverse=not reverse) - log_decay  # what decays after (before) each event
    at = layout.boundaries[:-1] if reverse else layout.read_out
    read = (C[layout.first if reverse else layout.last] * B).sum(1, keepdim=True)
    weighted = x * (dt * torch.exp(past) * read)[..., None]
    lengths = layout.boundaries[1:] - layout.boundaries[:-1]
    total = torch.segment_reduce(weighted.flatten(1), "sum", lengths=lengths, axis=0, unsafe=True)
    return total.view(-1, *x.shape[1:]) + D[:, None] * x[at]


def cumulative_sum(values: Tensor, layout: Layout, *, reverse: bool = False) -> Tensor:
    """[T, width] -> [T, width]: sums from each history's first event up to and with position t (reversed: from its last).

    Chunks of Q positions are summed by a product with a matrix of ones, so that no history's sum is the difference of two
    longer sums.
    """
    total: Tensor = _CumulativeSum.apply(values, layout.chunks, reverse)  # type: ignore[no-untyped-call]  # torch has no types here
    return total


def _weighted(values: Tensor, by_head: Tensor) -> Tensor:
    weighted: Tensor = (values.unflatten(1, (by_head.shape[1], -1)) * by_head[:, :, None]).flatten(1)
    return weighted


def _delayed(values: Tensor, steps: int, layout: Layout) -> Tensor:
    # row t becomes row t - steps of the same history, zero before the history has that many
    if not steps:
        return values
    length = values.shape[0]
    inside = layout.place >= steps
    index = (torch.arange(length, device=values.device) - steps).clamp(min=0)
    return values[index] * inside[:, None]


class _CumulativeSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, chunks: Chunks, reverse: bool) -> Tensor:  # noqa: FBT001 - apply takes no keywords
        ctx.chunks, ctx.reverse = chunks, reverse
        return _cumulative(values, chunks, reverse=reverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _cumulative(grad, ctx.chunks, reverse=not ctx.reverse), None, None


def _cumulative(values: Tensor, chunks: Chunks, *, reverse: bool) -> Tensor:
    length, Q = values.shape[0], chunks.length
    history = chunks.history
    same = (history[:, :, None] == history[:, None, :]).to(values.dtype)
    sums = (same.triu() if reverse else same.tril()) @ chunks.padded(values).view(-1, Q, values.shape[1])
    source, target = (chunks.left + 1, chunks.left) if reverse else (chunks.left, chunks.left + 1)
    exit_ = 0 if reverse else Q - 1
    carry = sums[source, exit_]
    for links in chunks.relays_back if reverse else chunks.relays:
        carry[links] += carry[links + (1 if reverse else -1)]
    reached = history[target] == history[source, exit_][:, None]
    sums.index_add_(0, target, carry[:, None] * reached[..., None])
    return sums.view(-1, values.shape[1])[:length]
