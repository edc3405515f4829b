"""Reading a history at one place: at the end of every prefix in one pass, or at its end only without a scan.

Reading the prefix t, …, 2, 1 backwards and reading out at item 1 gives, for each head,

    y(t) = sum_{s <= t} exp(S_{s-1}) dt_s (C_1 . B_s) x_s  +  D x_1          S_s = sum_{r <= s} dt_r A

whose weights do not depend on t: a cumulative sum gives every prefix. Only the convolution sees where the prefix ends: in
reversed order event s hears the events s, s+1, …, s+K-1 as far as they are <= t, so the last K-1 events of each prefix, and
C_1 and x_1 while t < K, are worked out with the taps that are inside it.

Source: PERFORMANCE.md section 2 (derived for this project); tests hold it to running each prefix on its own.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.ops.convolution import taps
from ssd4rec.ops.gather import sum_of_history
from ssd4rec.ops.segments import Chunks, Layout, add_at_, beside, by_head, full, sum_of_head
from ssd4rec.shapes import Channels, LastValues, Rates, StateInputs, StateReads, StepSizes, Values


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
    channels, weight, bias, dt, A, D = full(channels, weight, bias, dt, A, D)
    log_decay = dt * A
    strength = dt * torch.exp(cumulative_sum(log_decay, layout, inclusive=False))  # exp(S_{s-1}) dt_s
    with torch.autocast(dt.device.type, enabled=False):
        y: Values = _BackwardOfEveryPrefix.apply(channels, weight, bias, strength, D, layout, state_dim)  # type: ignore[no-untyped-call]  # torch has no types here
    return y


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
) -> LastValues:
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
    x, dt, A, B, C, D = full(x, dt, A, B, C, D)
    log_decay = dt * A
    past = cumulative_sum(log_decay, layout, reverse=not reverse, inclusive=False)  # what decays after (before) each event
    at = layout.boundaries[:-1] if reverse else layout.read_out
    read = (C[layout.first if reverse else layout.last] * B).sum(1, keepdim=True)
    weighted = x * (dt * torch.exp(past) * read)[..., None]
    total = sum_of_history(weighted.flatten(1), layout)
    return total.view(-1, *x.shape[1:]) + D[:, None] * x[at]


def cumulative_sum(values: Tensor, layout: Layout, *, reverse: bool = False, inclusive: bool = True) -> Tensor:
    """[T, width] -> [T, width]: sums from each history's first event up to position t (reversed: from its last).

    Chunks of Q positions are summed by a product with a matrix of ones, so that no history's sum is the difference of two
    longer sums.

    Args:
        values: [T, width].
        layout: of the row.
        reverse: sum from the last event down.
        inclusive: with position t itself. The sum without it is not the other one less values[t], which would lose the digits
            of a small sum before a large value.
    """
    with torch.autocast(values.device.type, enabled=False):
        total: Tensor = _CumulativeSum.apply(values, layout.chunks, reverse, inclusive)  # type: ignore[no-untyped-call]  # torch has no types here
    return total


class _Reached(NamedTuple):
    """What event s contributes to the prefix that ends k events after it."""

    values: Tensor  # x [T, E]
    writes: Tensor  # B [T, N]
    reads: Tensor  # C_1 of that prefix [T, N], zero where the history ends before it
    match: Tensor  # C_1 . B_s [T, 1]


class _BackwardOfEveryPrefix(torch.autograd.Function):
    """The sum above, its terms k = t - s apart: k = 0 … K-2 one by one, all of k >= K-1 as a cumulative sum.

    Saves its inputs only; the events' convolutions are worked out again in backward.
    """

    @staticmethod
    def forward(
        ctx: Any, channels: Tensor, weight: Tensor, bias: Tensor, strength: Tensor, D: Tensor, layout: Layout, state_dim: int
    ) -> Tensor:
        ctx.save_for_backward(channels, weight, bias, strength, D)
        ctx.layout, ctx.state_dim = layout, state_dim
        partial = taps(channels, weight, bias, layout, reverse=True)
        first_x, reached = _reached(partial, layout, state_dim)
        delay = len(partial) - 1
        y = by_head(first_x, D.expand_as(strength))
        settled = by_head(reached[-1].values, strength * reached[-1].match)
        settled = _cumulative(settled, layout.chunks, reverse=False)
        rows = max(len(y) - delay, 0)
        y[delay:] += settled[:rows] * _followed(delay, layout)[:rows, None]
        for k, event in enumerate(reached[:-1]):
            y[k:] += by_head(event.values, strength * event.match)[: max(len(y) - k, 0)]
        return y.view(*strength.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        channels, weight, bias, strength, D = ctx.saved_tensors
        layout, state_dim = ctx.layout, ctx.state_dim
        heads, inner = D.shape[0], channels.shape[1] - 2 * state_dim
        partial = taps(channels, weight, bias, layout, reverse=True)
        first_x, reached = _reached(partial, layout, state_dim)
        delay = len(partial) - 1
        dy = grad.reshape(-1, inner)
        d_strength = torch.zeros_like(strength)
        starts = layout.boundaries[:-1]
        lengths = layout.boundaries[1:] - starts
        slot = _slot(delay, layout)
        d_first_C = channels.new_zeros((delay + 1) * starts.shape[0], state_dim)

        d_out = []  # of SiLU(taps), for each k
        for k, event in enumerate(reached):
            d_term = _ahead(dy, k)
            if k == delay:
                d_term = _cumulative(d_term * _followed(delay, layout)[:, None], layout.chunks, reverse=True)
            d_weights = sum_of_head(d_term * event.values, heads)
            d_strength += d_weights * event.match
            d_match = (d_weights * strength).sum(1, keepdim=True)
            d_event = torch.zeros_like(channels)
            d_event[:, :inner] = by_head(d_term, strength * event.match)
            d_event[:, inner : inner + state_dim] = d_match * event.reads
            # The first event's x and C, as the prefixes that end k events after it hear them (k = K-1: and all later ones).
            heard = d_term[starts] * (lengths > k)[:, None]
            d_event[starts, :inner] += by_head(heard, D.expand(len(heard), heads))
            followed = _followed(k, layout)[:, None]
            reader = delay * starts.shape[0] + layout.history if k == delay else _ahead(slot, k)
            d_first_C.index_add_(0, reader, d_match * event.writes * (followed if k < delay else 1))
            d_out.append(d_event)
        for k, d_event in enumerate(d_out):
            d_event[starts, inner + state_dim :] = d_first_C.view(delay + 1, -1, state_dim)[k]
        dD = sum_of_head(dy * first_x, heads).sum(0)

        d_channels, d_weight = torch.zeros_like(channels), torch.zeros_like(weight)
        d_reached = torch.zeros_like(channels)  # of the taps k and more, summed from the last tap down
        width = weight.shape[1]
        for k in range(delay, -1, -1):
            d_reached += torch.ops.aten.silu_backward(d_out[k], partial[k])
            if k == 0:
                d_weight[:, width - 1] = (d_reached * channels).sum(0)
                d_channels += d_reached * weight[:, width - 1]
                continue
            rows = max(len(channels) - k, 0)
            inside = d_reached[:rows] * _followed(k, layout)[:rows, None]
            d_weight[:, width - 1 - k] = (inside * channels[k:]).sum(0)
            d_channels[k:] += inside * weight[:, width - 1 - k]
        return d_channels, d_weight, d_reached.sum(0), d_strength, dD, None, None


def _reached(partial: list[Tensor], layout: Layout, state_dim: int) -> tuple[Tensor, list[_Reached]]:
    """(x_1 of the prefix that ends at t [T, E], and for each k what event s contributes k events later)."""
    delay = len(partial) - 1
    inner = partial[0].shape[1] - 2 * state_dim
    out = [F.silu(values) for values in partial]
    first = torch.stack([values[layout.boundaries[:-1]] for values in out]).flatten(0, 1)
    slot = _slot(delay, layout)
    first_C = first[:, inner + state_dim :][slot]
    reached = []
    for k, values in enumerate(out):
        x, B = values[:, :inner], values[:, inner : inner + state_dim]
        if k == delay:
            reads = first[delay * (layout.boundaries.shape[0] - 1) :, inner + state_dim :][layout.history]
        else:
            reads = _ahead(first_C, k) * _followed(k, layout)[:, None]
        reached.append(_Reached(x, B, reads, (reads * B).sum(1, keepdim=True)))
    return first[:, :inner][slot], reached


def _slot(delay: int, layout: Layout) -> Tensor:
    # row of [K * B] that holds the first event as the prefix ending at t hears it
    return layout.place.clamp(max=delay) * (layout.boundaries.shape[0] - 1) + layout.history


def _ahead(values: Tensor, steps: int) -> Tensor:
    # row s becomes row s + steps; what lies past the end is zero
    if not steps:
        return values
    return torch.cat([values[steps:], values.new_zeros(min(steps, len(values)), *values.shape[1:])])


def _followed(steps: int, layout: Layout) -> Tensor:
    # 1 where the history goes on for `steps` more events
    return layout.last - layout.first - layout.place >= steps


class _CumulativeSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, chunks: Chunks, reverse: bool, inclusive: bool) -> Tensor:  # noqa: FBT001 - apply takes no keywords
        ctx.chunks, ctx.reverse, ctx.inclusive = chunks, reverse, inclusive
        return _cumulative(values, chunks, reverse=reverse, inclusive=inclusive)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _cumulative(grad, ctx.chunks, reverse=not ctx.reverse, inclusive=ctx.inclusive), None, None, None


def _cumulative(values: Tensor, chunks: Chunks, *, reverse: bool, inclusive: bool = True) -> Tensor:
    length, Q = values.shape[0], chunks.length
    history = chunks.history
    same = (history[:, :, None] == history[:, None, :]).to(values.dtype)
    skipped = 0 if inclusive else 1
    shaped = chunks.padded(values).view(-1, Q, values.shape[1])
    sums = (same.triu(skipped) if reverse else same.tril(-skipped)) @ shaped
    source, target = chunks.ends(reverse=reverse)
    exit_ = 0 if reverse else Q - 1
    carry = sums[source, exit_].clone() if inclusive else sums[source, exit_] + shaped[source, exit_]  # with slices a view
    for links in chunks.relays_back if reverse else chunks.relays:
        carry[links] += carry[beside(links, 1 if reverse else -1)]
    reached = history[target] == history[source, exit_][:, None]
    add_at_(sums, target, carry[:, None] * reached[..., None])
    return sums.view(-1, values.shape[1])[:length]
