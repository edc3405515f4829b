"""Reading every prefix with all but its last few events reversed, in one pass.

A prefix of n events with r kept is read n-r, …, 2, 1, n-r+1, …, n. What its last event reads is, a head at a time,

    y(n) = sum_{kept s} exp(S_n - S_s) dt_s (C_n . B_s) x_s                                    S_s = sum_{i <= s} dt_i A
         + exp(S_n - S_{n-r}) sum_{s <= n-r} exp(S_{s-1}) dt_s (C_n . B_s) x_s  +  D x_n

The weights of the reversed events do not depend on n: their sum is a scan that forgets nothing, with exp(S_{s-1}) dt_s in place
of dt_s, read r + K-1 events after them. The convolution sees where the prefix is turned: the K-1 events that are read first, and
the first K-1 of the kept ones, have other neighbors than in place, so they are worked out apart, one place at a time.

Source: derived for this project, as above; tests hold it to reading each prefix on its own.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import Channels, Rates, StepSizes, Values
from ssd4rec.ops import dispatch
from ssd4rec.ops.cumulative import cumulative_sum
from ssd4rec.ops.gather import earlier, of_first
from ssd4rec.ops.heads import by_head
from ssd4rec.ops.segments import Layout, promote_to_float32


def partially_flipped_prefix_readout(  # noqa: PLR0913 - what a mixer reads with, and what is kept
    channels: Channels,
    weight: Tensor,
    bias: Tensor,
    dt: StepSizes,
    A: Rates,
    D: Rates,
    layout: Layout,
    state_dim: int,
    kept: int,
) -> Values:
    """y at the last event of every prefix whose events but the last `kept` are reversed; row t: the prefix that ends at t.

    Args:
        channels: [T, E + 2N] what the convolution reads: x, B and C side by side.
        weight: [E + 2N, K].
        bias: [E + 2N].
        dt: [T, H] step sizes, positive.
        A: [H] decay rates, negative.
        D: [H] skip weights.
        layout: of the row.
        state_dim: N.
        kept: r, events at the end of each prefix that stay in place; 0: all are reversed, and event 1 is read last.

    Returns:
        y [T, H, P].
    """
    channels, weight, bias, dt, A, D = promote_to_float32(channels, weight, bias, dt, A, D)
    heads, inner = dt.shape[1], channels.shape[1] - 2 * state_dim
    turned = _Turned(channels, weight, bias, layout, kept)
    kept_events = list(turned.kept_events())
    last = kept_events[0] if kept else turned.last_of_the_reversed()
    C = last[:, -state_dim:]

    def share(event: Channels, weights: Tensor) -> Tensor:
        x, B, _ = event.split([inner, state_dim, state_dim], dim=1)
        return by_head(x, weights * (C * B).sum(1, keepdim=True))

    log_decay = dt * A
    strength = dt * torch.exp(cumulative_sum(log_decay, layout, inclusive=False))  # exp(S_{s-1}) dt_s
    y = by_head(last[:, :inner], D.expand(len(dt), -1))
    since = torch.zeros_like(dt)  # S_n - S_s of the kept event
    for away, event in enumerate(kept_events):
        y = y + share(event, turned.there(away) * earlier(dt, away) * torch.exp(since))
        since = since + earlier(log_decay, away)
    after = torch.exp(since)  # exp(S_n - S_{n-r})
    for away, event in enumerate(turned.first_read(), start=kept):
        y = y + share(event, turned.there(away) * earlier(strength, away) * after)

    settled = kept + weight.shape[1] - 1
    x, B, _ = dispatch.convolve(channels, weight, bias, layout, reverse=True).split([inner, state_dim, state_dim], dim=1)
    read = dispatch.scan(
        x.unflatten(1, (heads, -1)), strength, torch.zeros_like(A), B, earlier(C, -settled), torch.zeros_like(D), layout
    )
    y = y + by_head(earlier(read.flatten(1), settled).to(y.dtype), turned.there(settled) * after)
    out: Values = y.unflatten(1, (heads, -1))
    return out


class _Turned:
    """What the convolution gives for the events of each prefix, as they lie when it is partly reversed.

    Each is [T, E + 2N]: row t is of the prefix that ends at t. Rows of prefixes that have no such event mean nothing: `there`.
    """

    def __init__(self, channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, kept: int) -> None:
        self.channels, self.bias, self.layout, self.kept = channels, bias, layout, kept
        self.taps = weight.T.flip(0)  # [K, E + 2N]: row i meets the event read i before
        self.in_place = dispatch.convolve(channels, weight, bias, layout).to(channels.dtype)

    def there(self, away: int) -> Tensor:
        """[T, 1]: whether the prefix has an event so far before its last."""
        return (self.layout.place >= away).to(self.channels.dtype)[:, None]

    def kept_events(self) -> Iterator[Channels]:
        """The last event, the one before it, … as far as they stay in place."""
        for away in range(self.kept):
            plain, before = earlier(self.in_place, away), self.kept - 1 - away
            if before >= len(self.taps) - 1:
                yield plain
            else:  # it hears over the turn, if the prefix has one
                own = [earlier(self.channels, away + i) for i in range(before + 1)]
                yield torch.where(self.there(self.kept) > 0, self._convolved([*own, *self._over_the_turn(before)]), plain)

    def last_of_the_reversed(self) -> Channels:
        """Event 1 of a prefix that is reversed whole: it hears the events after it."""
        return self._convolved(list(self._over_the_turn(-1)))

    def first_read(self) -> Iterator[Channels]:
        """The last of the reversed events, the one before it, …: K-1 of them, with as many neighbors as were read before."""
        for place in range(len(self.taps) - 1):
            yield self._convolved([earlier(self.channels, self.kept + place - i) for i in range(place + 1)])

    def _over_the_turn(self, before: int) -> Iterator[Tensor]:
        """Events 1, 2, … of the prefix, as far as they are reversed: what is heard behind `before` kept neighbors."""
        for event in range(len(self.taps) - 1 - before):
            yield of_first(earlier(self.channels, -event), self.layout) * self.there(self.kept + event)

    def _convolved(self, heard: list[Tensor]) -> Channels:
        summed = self.bias
        for each, tap in zip(heard, self.taps, strict=False):
            summed = torch.addcmul(summed, each, tap)
        return F.silu(summed)
