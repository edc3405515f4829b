"""Read a sequence out at one position: at the end of every prefix in one pass, or at the last position without a scan.

The scan of the prefix t, …, 2, 1 in reversed order, read out at its last step, item 1, gives for each head

    y(t) = sum_{s <= t} exp(S_{s-1}) dt_s (C_1 . B_s) x_s  +  D x_1          S_s = sum_{r <= s} dt_r A

The weights do not depend on t, so one cumulative sum gives every prefix. Only the convolution depends on the end of the prefix:
in reversed order its receptive field at position s is s, s+1, …, s+K-1, truncated at t. The last K-1 positions of each prefix,
and C_1 and x_1 while t < K, are therefore computed with truncated convolutions.

Source: derived for this project, as above; the tests compare it with running each prefix separately.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssd4rec.array_types import Channels, LastValues, Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.ops.blocks import blocks
from ssd4rec.ops.convolution import BlockedConvolution
from ssd4rec.ops.cumulative import cumulative_sum, cumulative_sum_no_grad
from ssd4rec.ops.gather import sum_sequences, sum_sequences_from
from ssd4rec.ops.heads import add_scaled_heads_, scale_heads, scale_heads_to, sum_heads
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
    """Read out the reversed scan of every prefix; see `ops.dispatch.backward_prefix_readout`. Returns y [T, H, P]."""
    channels, weight, bias, dt, A, D = promote_to_float32(channels, weight, bias, dt, A, D)
    log_decay = dt * A
    decayed_dt = dt * torch.exp(cumulative_sum(log_decay, layout, inclusive=False))  # exp(S_{s-1}) dt_s
    with torch.autocast(dt.device.type, enabled=False):
        return _BackwardPrefixReadout.apply(channels, weight, bias, decayed_dt, D, layout, state_dim)


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
    """Compute y of the scan at its last step only: at the last position of each sequence, or reversed at the first.

    y_L = sum_s exp(S_L - S_s) dt_s (C_L . B_s) x_s + D x_L is a weighted sum over positions, so no state is built.
    The arguments are those of `ops.dispatch.scan`. Returns y [B, H, P].
    """
    x, dt, A, B, C, D = promote_to_float32(x, dt, A, B, C, D)
    log_decay = dt * A
    later_decay = cumulative_sum(log_decay, layout, reverse=not reverse, inclusive=False)
    last = layout.cu_seqlens[:-1] if reverse else layout.last_index
    CB = (C[layout.seq_start if reverse else layout.seq_end] * B).sum(1, keepdim=True)
    weighted = x * (dt * torch.exp(later_decay) * CB)[..., None]
    total = sum_sequences(weighted.flatten(1), layout)
    return total.view(-1, *x.shape[1:]) + D[:, None] * x[last]


class _BackwardPrefixReadout(torch.autograd.Function):
    """Add the terms k = t - s < K-1 one by one, and all terms k >= K-1 as a cumulative sum.

    Only the inputs are saved; the backward pass recomputes the convolutions block by block.
    """

    @staticmethod
    def forward(
        ctx: Any, channels: Tensor, weight: Tensor, bias: Tensor, decayed_dt: Tensor, D: Tensor, layout: Layout, state_dim: int
    ) -> Tensor:
        ctx.save_for_backward(channels, weight, bias, decayed_dt, D)
        ctx.layout, ctx.state_dim = layout, state_dim
        terms = _Terms(channels, weight, bias, decayed_dt, layout, state_dim)
        skip = scale_heads(terms.first.x, D.expand(len(terms.first.x), -1))
        y, complete = terms.empty(), terms.empty()
        for block in terms.blocks:  # from the last block: a term is added to rows that an earlier iteration has set
            torch.index_select(skip, 0, terms.first_rows(block, 0), out=y[block])
            for k, partial_sum in enumerate(terms.partial_sums(block)):
                term = terms.term(block, k, partial_sum)
                if k == terms.lag:
                    scale_heads_to(complete[block], term.x, term.weights)
                else:
                    rows = y[block.start + k : block.stop + k]
                    add_scaled_heads_(rows, term.x[: len(rows)], term.weights[: len(rows)])
        complete = cumulative_sum_no_grad(complete, layout.chunks, reverse=False)
        if len(y) > terms.lag:
            y[terms.lag :].addcmul_(complete[: len(y) - terms.lag], terms.continues[-1][: len(y) - terms.lag])
        return y.view(*decayed_dt.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        channels, weight, bias, decayed_dt, D = ctx.saved_tensors
        terms = _Terms(channels, weight, bias, decayed_dt, ctx.layout, ctx.state_dim)
        dy = grad.reshape(-1, terms.inner)
        d_complete = terms.empty()
        for block in terms.blocks:
            torch.mul(terms.shifted(dy, block, terms.lag), terms.continues[-1][block], out=d_complete[block])
        d_complete = cumulative_sum_no_grad(d_complete, ctx.layout.chunks, reverse=True)
        d_channels, d_taps, d_bias = map(torch.zeros_like, (channels, terms.taps, bias))
        d_decayed_dt, d_first_C = torch.zeros_like(decayed_dt), torch.zeros_like(terms.first.C)
        used = channels.shape[1] - ctx.state_dim
        for block in terms.blocks:
            d_sum = terms.scratch("d_sum", block).zero_()
            sums = [terms.scratch(f"sum {k}", block).copy_(partial) for k, partial in enumerate(terms.partial_sums(block))]
            for k in range(terms.lag, -1, -1):
                term = terms.term(block, k, sums[k])
                d_y = d_complete[block] if k == terms.lag else terms.shifted(dy, block, k)
                d_weights = sum_heads(d_y * term.x, terms.heads)
                d_decayed_dt[block] += d_weights * term.CB
                d_CB = (d_weights * decayed_dt[block]).sum(1, keepdim=True)
                if k < terms.lag:
                    d_CB *= terms.continues[k][block]
                d_convolved = terms.scratch("d_convolved", block)
                scale_heads_to(d_convolved[:, : terms.inner], d_y, term.weights)
                torch.mul(term.C, d_CB, out=d_convolved[:, terms.inner :])
                d_first_C.index_add_(0, terms.first_rows(block, k), term.B * d_CB)
                d_sum += torch.ops.aten.silu_backward(d_convolved, sums[k], grad_input=d_convolved)
                # the neighbor at distance k enters partial sum k and all later ones
                terms.convolution.add_gradients(block, k, d_sum, d_channels[:, :used], d_taps[:, :used])
            d_bias[:used] += d_sum.sum(0)
        dD = terms.add_first_gradients(dy, D, d_first_C, (d_channels, d_taps, d_bias))
        return d_channels, d_taps.flip(0).T, d_bias, d_decayed_dt, dD, None, None


class _First(NamedTuple):
    """Convolution at the first position of each sequence: row j * B + b uses j neighbors."""

    sum: Tensor  # before SiLU [K * B, E + 2N]
    x: Tensor  # [K * B, E]
    C: Tensor  # [K * B, N]


class _Term(NamedTuple):
    """Contribution of the positions of a block to the prefixes that end k positions later."""

    x: Tensor  # [rows, E]
    B: Tensor  # [rows, N]
    C: Tensor  # C_1 of that prefix [rows, N]
    CB: Tensor  # C_1 . B_s [rows, 1], zero if the sequence ends earlier
    weights: Tensor  # of x, for each head [rows, H]


class _Terms:
    """The terms of the sum over positions, one block of rows at a time."""

    def __init__(
        self, channels: Tensor, weight: Tensor, bias: Tensor, decayed_dt: Tensor, layout: Layout, state_dim: int
    ) -> None:
        used = channels.shape[1] - state_dim  # of C, only the first position's is used
        self.convolution = BlockedConvolution(channels[:, :used], weight[:used], bias[:used], layout, reverse=True)
        self.channels, self.taps, self.bias = channels, weight.T.flip(0).contiguous(), bias
        self.decayed_dt, self.layout, self.state_dim = decayed_dt, layout, state_dim
        self.heads, self.inner = decayed_dt.shape[1], channels.shape[1] - 2 * state_dim
        self.lag = weight.shape[1] - 1  # from here on the receptive field of a position is complete
        self.blocks = blocks(channels, reverse=True, arrays=2)
        self.continues = self.convolution.neighbor_mask  # entry k: whether the sequence has k more positions
        self.starts = layout.cu_seqlens[:-1]
        self.first = self._first()
        self._scratch: dict[str, Tensor] = {}

    def empty(self) -> Tensor:
        return self.decayed_dt.new_empty(len(self.decayed_dt), self.inner)

    def scratch(self, name: str, block: slice) -> Tensor:
        """Return memory [rows, E + N] that is reused for each block."""
        if name not in self._scratch:
            self._scratch[name] = self.convolution.empty(max(each.stop - each.start for each in self.blocks))
        return self._scratch[name][: block.stop - block.start]

    def shifted(self, values: Tensor, block: slice, k: int) -> Tensor:
        """Return the rows k below those of a block; rows past the end are zero."""
        rows = values[block.start + k : block.stop + k]
        missing = block.stop - block.start - len(rows)
        return torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]) if missing else rows

    def partial_sums(self, block: slice) -> Iterator[Tensor]:
        """Yield the partial sums of the convolution with 0, 1, … neighbors; each overwrites the one before it."""
        return self.convolution.partial_sums(block, self.scratch("partial", block))

    def term(self, block: slice, k: int, partial_sum: Tensor) -> _Term:
        convolved: Tensor = torch.ops.aten.silu.out(partial_sum, out=self.scratch("convolved", block))
        x, B = convolved[:, : self.inner], convolved[:, self.inner :]
        C = self.first.C.index_select(0, self.first_rows(block, k))
        CB = (C * B).sum(1, keepdim=True)
        if k < self.lag:  # terms of k >= K-1 are masked when the cumulative sum is added to y
            CB *= self.continues[k][block]
        return _Term(x, B, C, CB, self.decayed_dt[block] * CB)

    def first_rows(self, block: slice, k: int) -> Tensor:
        """Return the row of `first` for the prefixes that end k positions after those of a block."""
        neighbors = (self.layout.position[block] + k).clamp(max=self.lag)
        return neighbors * len(self.starts) + self.layout.seq_idx[block]

    def neighbors_of_first(self, j: int) -> tuple[Tensor, Tensor]:
        """Return [B] the position j after each first position, and [B, 1] whether the sequence has it."""
        valid = self.layout.cu_seqlens.diff() > j
        return (self.starts + j).clamp(max=len(self.decayed_dt) - 1), valid[:, None]

    def _first(self) -> _First:
        sums = [self.bias.expand(len(self.starts), -1)]
        for j in range(self.lag + 1):
            rows, valid = self.neighbors_of_first(j)
            sums.append(sums[-1] + self.channels[rows] * valid * self.taps[j])
        total = torch.cat(sums[1:])
        out = F.silu(total)
        return _First(total, out[:, : self.inner].contiguous(), out[:, -self.state_dim :].contiguous())

    def add_first_gradients(self, dy: Tensor, D: Tensor, d_C: Tensor, sums: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Add the gradients through the first positions to those of channels, taps and bias; return the gradient of D."""
        d_channels, d_taps, d_bias = sums
        d_x = torch.cat(
            [dy[rows] * valid for rows, valid in map(self.neighbors_of_first, range(self.lag))]
            + [sum_sequences_from(dy, self.layout, self.lag)]
        )
        d_first = torch.zeros_like(self.first.sum)
        d_first[:, : self.inner] = scale_heads(d_x, D.expand(len(d_x), -1))
        d_first[:, -self.state_dim :] = d_C
        d_first = torch.ops.aten.silu_backward(d_first, self.first.sum).view(self.lag + 1, len(self.starts), -1)
        d_sum = torch.zeros_like(d_first[0])
        for j in range(self.lag, -1, -1):
            d_sum += d_first[j]
            rows, valid = self.neighbors_of_first(j)
            masked = d_sum * valid
            d_channels.index_add_(0, rows, masked * self.taps[j])
            d_taps[j] += (masked * self.channels[rows]).sum(0)
        d_bias += d_sum.sum(0)
        return sum_heads(d_x * self.first.x, self.heads).sum(0)
