"""Read out every prefix of a sequence with all but its last few positions reversed, in one pass (SIGMA).

A prefix of n positions whose last r stay in place is scanned in the order n-r, …, 2, 1, n-r+1, …, n.
At its last step the scan gives, for each head,

    y(n) = sum_{s > n-r} exp(S_n - S_s) dt_s (C_n . B_s) x_s                                   S_s = sum_{i <= s} dt_i A
         + exp(S_n - S_{n-r}) sum_{s <= n-r} exp(S_{s-1}) dt_s (C_n . B_s) x_s  +  D x_n

The weights of the reversed positions do not depend on n, so their sum is a scan without decay that has exp(S_{s-1}) dt_s in
place of dt_s, read out r + K-1 positions later. The receptive field of the convolution changes where the order turns: the K-1
positions that are scanned first and the first K-1 positions that stay in place have other neighbors than in the original order,
and are computed separately, one offset at a time.

Source: derived for this project, as above; the tests compare it with running each prefix separately.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import Channels, Rates, StepSizes, Values
from ssd4rec.ops import dispatch
from ssd4rec.ops.cumulative import cumulative_sum
from ssd4rec.ops.gather import broadcast_first, shift_rows
from ssd4rec.ops.heads import scale_heads
from ssd4rec.ops.segments import Layout, promote_to_float32


def partially_flipped_prefix_readout(  # noqa: PLR0913 - the inputs of a mixer, and the length of the tail
    channels: Channels,
    weight: Tensor,
    bias: Tensor,
    dt: StepSizes,
    A: Rates,
    D: Rates,
    layout: Layout,
    state_dim: int,
    tail: int,
) -> Values:
    """Return y [T, H, P] at the last step of every partially flipped prefix; row t is the prefix that ends at position t.

    `tail` is r, the number of positions at the end of each prefix that stay in place; 0: the whole prefix is reversed.
    The other arguments are those of `ops.dispatch.backward_prefix_readout`.
    """
    channels, weight, bias, dt, A, D = promote_to_float32(channels, weight, bias, dt, A, D)
    heads, inner = dt.shape[1], channels.shape[1] - 2 * state_dim
    flipped = _FlippedConvolution(channels, weight, bias, layout, tail)
    tail_positions = list(flipped.tail_positions())
    last = tail_positions[0] if tail else flipped.last_reversed()
    C = last[:, -state_dim:]

    def contribution(convolved: Channels, weights: Tensor) -> Tensor:
        x, B, _ = convolved.split([inner, state_dim, state_dim], dim=1)
        return scale_heads(x, weights * (C * B).sum(1, keepdim=True))

    log_decay = dt * A
    decayed_dt = dt * torch.exp(cumulative_sum(log_decay, layout, inclusive=False))  # exp(S_{s-1}) dt_s
    y = scale_heads(last[:, :inner], D.expand(len(dt), -1))
    tail_decay = torch.zeros_like(dt)  # S_n - S_s
    for offset, convolved in enumerate(tail_positions):
        y = y + contribution(convolved, flipped.exists(offset) * shift_rows(dt, offset) * torch.exp(tail_decay))
        tail_decay = tail_decay + shift_rows(log_decay, offset)
    decay = torch.exp(tail_decay)  # exp(S_n - S_{n-r})
    for offset, convolved in enumerate(flipped.first_reversed(), start=tail):
        y = y + contribution(convolved, flipped.exists(offset) * shift_rows(decayed_dt, offset) * decay)

    lag = tail + weight.shape[1] - 1
    x, B, _ = dispatch.convolve(channels, weight, bias, layout, reverse=True).split([inner, state_dim, state_dim], dim=1)
    scanned = dispatch.scan(
        x.unflatten(1, (heads, -1)), decayed_dt, torch.zeros_like(A), B, shift_rows(C, -lag), torch.zeros_like(D), layout
    )
    y = y + scale_heads(shift_rows(scanned.flatten(1), lag).to(y.dtype), flipped.exists(lag) * decay)
    return y.unflatten(1, (heads, -1))


class _FlippedConvolution:
    """The convolution at the positions of each partially flipped prefix whose neighbors change.

    Each result is [T, E + 2N]; row t belongs to the prefix that ends at t.
    Rows of prefixes without such a position are arbitrary and must be masked with `exists`.
    """

    def __init__(self, channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, tail: int) -> None:
        self.channels, self.bias, self.layout, self.tail = channels, bias, layout, tail
        self.taps = weight.T.flip(0)  # [K, E + 2N]: row i applies to the position scanned i steps earlier
        self.in_place = dispatch.convolve(channels, weight, bias, layout).to(channels.dtype)

    def exists(self, offset: int) -> Tensor:
        """Return [T, 1]: whether the prefix has a position `offset` before its last."""
        return (self.layout.position >= offset).to(self.channels.dtype)[:, None]

    def tail_positions(self) -> Iterator[Channels]:
        """Yield the convolution at the last position, the one before it, … as far as they stay in place."""
        for offset in range(self.tail):
            unflipped, neighbors = shift_rows(self.in_place, offset), self.tail - 1 - offset
            if neighbors >= len(self.taps) - 1:
                yield unflipped
            else:  # the receptive field extends into the reversed part, if the prefix has one
                window = [shift_rows(self.channels, offset + i) for i in range(neighbors + 1)]
                convolved = self._convolve([*window, *self._reversed_part(neighbors)])
                yield torch.where(self.exists(self.tail) > 0, convolved, unflipped)

    def last_reversed(self) -> Channels:
        """Return the convolution at position 1 of a fully reversed prefix."""
        return self._convolve(list(self._reversed_part(-1)))

    def first_reversed(self) -> Iterator[Channels]:
        """Yield the convolution at the K-1 positions that are scanned first, which have fewer than K-1 neighbors."""
        for step in range(len(self.taps) - 1):
            yield self._convolve([shift_rows(self.channels, self.tail + step - i) for i in range(step + 1)])

    def _reversed_part(self, neighbors: int) -> Iterator[Tensor]:
        """Yield positions 1, 2, … of the prefix that complete a window with `neighbors` neighbors in the tail."""
        for position in range(len(self.taps) - 1 - neighbors):
            yield broadcast_first(shift_rows(self.channels, -position), self.layout) * self.exists(self.tail + position)

    def _convolve(self, window: list[Tensor]) -> Channels:
        total = self.bias
        for values, tap in zip(window, self.taps, strict=False):
            total = torch.addcmul(total, values, tap)
        return F.silu(total)
