"""Reading a history at one place: at the end of every prefix in one pass, or at its end only without a scan.

Reading the prefix t, …, 2, 1 backwards and reading out at item 1 gives, for each head,

    y(t) = sum_{s <= t} exp(S_{s-1}) dt_s (C_1 . B_s) x_s  +  D x_1          S_s = sum_{r <= s} dt_r A

whose weights do not depend on t: a cumulative sum gives every prefix. Only the convolution sees where the prefix ends: in
reversed order event s hears the events s, s+1, …, s+K-1 as far as they are <= t, so the last K-1 events of each prefix, and
C_1 and x_1 while t < K, are worked out with the taps that are inside it.

Source: derived for this project, as above; tests hold it to running each prefix on its own.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.array_types import Channels, LastValues, Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.ops.blocks import blocks
from ssd4rec.ops.convolution import Taps
from ssd4rec.ops.cumulative import cumulate, cumulative_sum
from ssd4rec.ops.gather import sum_of_history, summed_from
from ssd4rec.ops.heads import add_by_head_, by_head, sum_of_head
from ssd4rec.ops.segments import Layout, promote_to_float32


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
    """y at item 1 of the reversed scan of every prefix; row t is the prefix that ends at position t.

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
    channels, weight, bias, dt, A, D = promote_to_float32(channels, weight, bias, dt, A, D)
    log_decay = dt * A
    strength = dt * torch.exp(cumulative_sum(log_decay, layout, inclusive=False))  # exp(S_{s-1}) dt_s
    with torch.autocast(dt.device.type, enabled=False):
        y: Values = _BackwardPrefixReadout.apply(channels, weight, bias, strength, D, layout, state_dim)  # type: ignore[no-untyped-call]  # torch has no types here
    return y


def scan_last_position(
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
    """y of `scan` at the last event of each history (reversed: at the first, where the backward scan ends).

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
    x, dt, A, B, C, D = promote_to_float32(x, dt, A, B, C, D)
    log_decay = dt * A
    past = cumulative_sum(log_decay, layout, reverse=not reverse, inclusive=False)  # what decays after (before) each event
    at = layout.cu_seqlens[:-1] if reverse else layout.read_out
    read = (C[layout.first if reverse else layout.last] * B).sum(1, keepdim=True)
    weighted = x * (dt * torch.exp(past) * read)[..., None]
    total = sum_of_history(weighted.flatten(1), layout)
    return total.view(-1, *x.shape[1:]) + D[:, None] * x[at]


class _BackwardPrefixReadout(torch.autograd.Function):
    """The sum above, its terms k = t - s apart: k = 0 … K-2 one by one, all of k >= K-1 as a cumulative sum.

    Saves its inputs only; the events' convolutions are worked out again in backward, block by block in either direction.
    """

    @staticmethod
    def forward(
        ctx: Any, channels: Tensor, weight: Tensor, bias: Tensor, strength: Tensor, D: Tensor, layout: Layout, state_dim: int
    ) -> Tensor:
        ctx.save_for_backward(channels, weight, bias, strength, D)
        ctx.layout, ctx.state_dim = layout, state_dim
        terms = _Terms(channels, weight, bias, strength, layout, state_dim)
        own = by_head(terms.first.x, D.expand(len(terms.first.x), -1))
        y, settled = terms.empty(), terms.empty()
        for block in terms.blocks:  # from the last: a term is added to rows that a later block has set
            torch.index_select(own, 0, terms.slots(block, 0), out=y[block])
            for k, summed in enumerate(terms.taps(block)):
                event = terms.heard(block, k, summed)
                if k == terms.delay:
                    torch.mul(*terms.beside_heads(event.values, event.weights), out=terms.headed(settled[block]))
                else:
                    rows = y[block.start + k : block.stop + k]
                    add_by_head_(rows, event.values[: len(rows)], event.weights[: len(rows)])
        settled = cumulate(settled, layout.chunks, reverse=False)
        if len(y) > terms.delay:
            y[terms.delay :].addcmul_(settled[: len(y) - terms.delay], terms.followed[-1][: len(y) - terms.delay])
        return y.view(*strength.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        channels, weight, bias, strength, D = ctx.saved_tensors
        terms = _Terms(channels, weight, bias, strength, ctx.layout, ctx.state_dim)
        dy = grad.reshape(-1, terms.inner)
        d_settled = terms.empty()
        for block in terms.blocks:
            torch.mul(terms.ahead(dy, block, terms.delay), terms.followed[-1][block], out=d_settled[block])
        d_settled = cumulate(d_settled, ctx.layout.chunks, reverse=True)
        d_strength = torch.zeros_like(strength)
        d_taps = _Gradients(terms)
        for block in terms.blocks:
            d_summed = terms.scratch("d_summed", block).zero_()
            summed = [terms.scratch(f"summed {k}", block).copy_(each) for k, each in enumerate(terms.taps(block))]
            for k in range(terms.delay, -1, -1):
                event = terms.heard(block, k, summed[k])
                d_term = d_settled[block] if k == terms.delay else terms.ahead(dy, block, k)
                d_weights = sum_of_head(d_term * event.values, terms.heads)
                d_strength[block] += d_weights * event.match
                d_match = (d_weights * strength[block]).sum(1, keepdim=True)
                if k < terms.delay:
                    d_match *= terms.followed[k][block]
                d_event = terms.scratch("d_event", block)
                torch.mul(*terms.beside_heads(d_term, event.weights), out=terms.headed(d_event[:, : terms.inner]))
                torch.mul(event.reads, d_match, out=d_event[:, terms.inner : -terms.states])
                d_event[:, -terms.states :] = 0  # C is heard as the first event's alone
                d_taps.of_reads(block, k, event.writes * d_match)
                d_summed += torch.ops.aten.silu_backward(d_event, summed[k], grad_input=d_event)
                d_taps.of_tap(block, k, d_summed)
        dD = d_taps.of_first(dy, D)
        return d_taps.channels, d_taps.weight.flip(0).T, d_taps.bias, d_strength, dD, None, None


class _First(NamedTuple):
    """The first event of each history as the prefixes hear it: row j * histories + b, with j neighbors."""

    summed: Tensor  # before SiLU [K * B, E + 2N]
    x: Tensor  # [K * B, E]
    C: Tensor  # [K * B, N]


class _Heard(NamedTuple):
    """What the events of a block contribute to the prefixes that end k events after them."""

    values: Tensor  # x [rows, E]
    writes: Tensor  # B [rows, N]
    reads: Tensor  # C_1 of that prefix [rows, N]
    match: Tensor  # C_1 . B_s [rows, 1], zero where the history ends before
    weights: Tensor  # of the values, by head [rows, H]


class _Terms:
    """The events of a row, block by block, as the prefixes hear them."""

    def __init__(self, channels: Tensor, weight: Tensor, bias: Tensor, strength: Tensor, layout: Layout, state_dim: int) -> None:
        self.row = Taps(channels, weight, bias, layout, reverse=True)
        self.strength, self.layout, self.states = strength, layout, state_dim
        self.heads, self.inner = strength.shape[1], channels.shape[1] - 2 * state_dim
        self.delay = weight.shape[1] - 1
        self.blocks = blocks(channels, reverse=True, arrays=2)
        self.followed = self.row.inside  # entry k: whether the history goes on for k more events
        self.starts = layout.cu_seqlens[:-1]
        self.first = self._first()
        self._scratch: dict[str, Tensor] = {}

    def empty(self) -> Tensor:
        return self.strength.new_empty(len(self.strength), self.inner)

    def scratch(self, name: str, block: slice) -> Tensor:
        """[rows, E + 2N], the same memory for each block."""
        if name not in self._scratch:
            self._scratch[name] = self.row.empty(max(each.stop - each.start for each in self.blocks))
        return self._scratch[name][: block.stop - block.start]

    def headed(self, values: Tensor) -> Tensor:
        """[rows, H, P]."""
        split: Tensor = values.unflatten(-1, (self.heads, -1))
        return split

    def beside_heads(self, values: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, H, P] and [rows, H, 1]."""
        return self.headed(values), factor[..., None]

    def ahead(self, values: Tensor, block: slice, k: int) -> Tensor:
        """Rows k further on than the block's; what lies past the end is zero."""
        rows = values[block.start + k : block.stop + k]
        missing = block.stop - block.start - len(rows)
        return torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]) if missing else rows

    def taps(self, block: slice) -> Iterator[Tensor]:
        """The convolution of a block as it builds up, entry k with k neighbors; each is overwritten by the next."""
        return self.row.building_up(block, self.scratch("summed", block))

    def heard(self, block: slice, k: int, summed: Tensor) -> _Heard:
        out: Tensor = torch.ops.aten.silu.out(summed, out=self.scratch("heard", block))
        values, writes = out[:, : self.inner], out[:, self.inner : -self.states]
        reads = self.first.C.index_select(0, self.slots(block, k))
        match = (reads * writes).sum(1, keepdim=True)
        if k < self.delay:  # later ones are cut off where the settled sums are handed out
            match *= self.followed[k][block]
        return _Heard(values, writes, reads, match, self.strength[block] * match)

    def slots(self, block: slice, k: int) -> Tensor:
        """Row of `first` that the prefix hears which ends k events after each event of a block."""
        place = (self.layout.place[block] + k).clamp(max=self.delay)
        return place * len(self.starts) + self.layout.history[block]

    def neighbors_of_first(self, j: int) -> tuple[Tensor, Tensor]:
        """[B] the event j after each first one, and [B, 1] whether it is of the same history."""
        there = self.layout.cu_seqlens.diff() > j
        return (self.starts + j).clamp(max=len(self.strength) - 1), there[:, None]

    def _first(self) -> _First:
        summed = [self.row.bias.expand(len(self.starts), -1)]
        for j in range(self.delay + 1):
            rows, there = self.neighbors_of_first(j)
            summed.append(summed[-1] + self.row.channels[rows] * there * self.row.weight[j])
        before = torch.cat(summed[1:])
        out = F.silu(before)
        return _First(before, out[:, : self.inner].contiguous(), out[:, -self.states :].contiguous())


class _Gradients:
    """The gradients of channels, weight and bias, as they are gathered."""

    def __init__(self, terms: _Terms) -> None:
        self.terms = terms
        row = terms.row
        self.channels, self.weight, self.bias = map(torch.zeros_like, (row.channels, row.weight, row.bias))
        self.reads = torch.zeros_like(terms.first.C)

    def of_tap(self, block: slice, k: int, d_summed: Tensor) -> None:
        """Entry k of the taps and all after it have read the neighbor k away."""
        self.terms.row.add_gradients(block, k, d_summed, self.channels, self.weight)
        if k == 0:
            self.bias += d_summed.sum(0)

    def of_reads(self, block: slice, k: int, d_reads: Tensor) -> None:
        """Of C_1, as the prefixes heard it that end k events after those of the block."""
        self.reads.index_add_(0, self.terms.slots(block, k), d_reads)

    def of_first(self, dy: Tensor, D: Tensor) -> Tensor:
        """The first events' share, and the gradient of D."""
        terms, histories = self.terms, len(self.terms.starts)
        d_values = torch.cat(
            [dy[rows] * there for rows, there in map(terms.neighbors_of_first, range(terms.delay))]
            + [summed_from(dy, terms.layout, terms.delay)]
        )
        dD = sum_of_head(d_values * terms.first.x, terms.heads).sum(0)
        d_first = torch.zeros_like(terms.first.summed)
        d_first[:, : terms.inner] = by_head(d_values, D.expand(len(d_values), -1))
        d_first[:, -terms.states :] = self.reads
        d_first = torch.ops.aten.silu_backward(d_first, terms.first.summed).view(terms.delay + 1, histories, -1)
        d_summed = torch.zeros_like(d_first[0])
        for j in range(terms.delay, -1, -1):
            d_summed += d_first[j]
            rows, there = terms.neighbors_of_first(j)
            inside = d_summed * there
            self.channels.index_add_(0, rows, inside * terms.row.weight[j])
            self.weight[j] += (inside * terms.row.channels[rows]).sum(0)
        self.bias += d_summed.sum(0)
        return dD
