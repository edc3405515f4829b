"""The Mamba-2 mixer, and the ways in which a recommender reads a packed row with it.

forward          one direction, a state at every position
both_ways        forward plus beta times backward, a state at every position
all_prefixes     the same read at the end of every prefix: what one-pass training needs
partially_flipped   forward, and forward over each prefix partly reversed, read at its end: the same for SIGMA
read_out         the same read at the end of each history only: no scan at all
"""

import math
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

from ssd4rec.array_types import Channels, Hidden, LastValues, Rates, StateInputs, StateReads, States, StepSizes, Values
from ssd4rec.config.backbones import BiSSDSizes
from ssd4rec.ops import dispatch
from ssd4rec.ops.gather import mirrored, of_first
from ssd4rec.ops.partial_flip import partially_flipped_prefix_readout
from ssd4rec.ops.segments import Layout
from ssd4rec.ops.ssd.prefix_readout import scan_last_position


class Projected(NamedTuple):
    """What in_proj gives: the same for both directions."""

    gate: Hidden  # z [T, E]
    channels: Channels  # x, B and C side by side, before the convolution [T, E + 2N]
    dt: StepSizes  # [T, H], positive


class Mamba2Mixer(nn.Module):
    """Mamba-2 with one group of B and C.

    in_proj D -> [z: E, x: E, B: N, C: N, dt: H]; convolution and SiLU on [x, B, C]; the scan; out_proj(RMSNorm(y SiLU(z))).

    Source: Dao and Gu 2024, "Transformers are SSMs", section 7; docs/paper-map.md, "The model", 2.
    """

    def __init__(self, config: BiSSDSizes) -> None:
        super().__init__()
        self.inner, self.heads, self.state_dim = config.inner_width, config.heads, config.state_dim
        self.backward_weight, self.mirror_back = config.backward_weight, config.mirror_back
        channels = self.inner + 2 * self.state_dim
        self.in_proj = nn.Linear(config.width, self.inner + channels + self.heads, bias=False)
        bound = 1 / math.sqrt(config.conv_width)
        self.conv_weight = nn.Parameter(torch.empty(channels, config.conv_width).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))
        dt = torch.exp(torch.empty(self.heads).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) = dt
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(self.inner, eps=1e-5)
        self.out_proj = nn.Linear(self.inner, config.width, bias=False)

    @property
    def A(self) -> Rates:
        """[H]: decay rates, negative."""
        return -torch.exp(self.A_log)

    def forward(self, hidden: Hidden, layout: Layout) -> Hidden:
        """Read each history from first to last; position t has seen events up to t. [T, D] -> [T, D]."""
        projected = self.project(hidden)
        out: Hidden = self.out_proj(self._ahead(projected, layout))
        return out

    def both_ways(self, hidden: Hidden, layout: Layout) -> Hidden:
        """F + beta K, K = the mixer run over each history reversed. [T, D] -> [T, D].

        The authors add K as it comes out, so that position i of L meets K for item L+1-i (`mirror_back = False`).
        out_proj is linear, so the two directions are summed before it.
        """
        projected = self.project(hidden)
        ahead, back = dispatch.convolve_both_ways(projected.channels, self.conv_weight, self.conv_bias, layout)
        ahead = self.gated(self._scan(ahead, projected.dt, layout, reverse=False), projected.gate)
        back = self.gated(self._scan(back, projected.dt, layout, reverse=True), projected.gate)
        if not self.mirror_back:
            back = mirrored(back, layout)
        out: Hidden = self.out_proj(ahead + self.backward_weight * back)
        return out

    def all_prefixes(self, hidden: Hidden, layout: Layout) -> Hidden:
        """Row t: `both_ways` of the prefix that ends at position t, read at its last position. [T, D] -> [T, D]."""
        projected = self.project(hidden)
        ahead = self._ahead(projected, layout)
        if self.mirror_back:  # reversed back, the last position of a prefix has been read first: it knows itself only
            back = self.gated(self.alone(projected.channels, projected.dt), projected.gate)
        else:
            y = dispatch.backward_prefix_readout(
                projected.channels,
                self.conv_weight,
                self.conv_bias,
                projected.dt,
                self.A,
                self.D,
                layout,
                self.state_dim,
            )
            back = self.gated(y, of_first(projected.gate, layout))
        out: Hidden = self.out_proj(ahead + self.backward_weight * back)
        return out

    def partially_flipped(self, hidden: Hidden, layout: Layout, kept: int) -> tuple[Hidden, Hidden]:
        """Row t: `forward` of the prefix that ends at t, and of that prefix with all but its last `kept` events reversed.

        Both read at the last position. [T, D] -> [T, D] twice.
        """
        projected = self.project(hidden)
        ahead = self._ahead(projected, layout)
        y = partially_flipped_prefix_readout(
            projected.channels, self.conv_weight, self.conv_bias, projected.dt, self.A, self.D, layout, self.state_dim, kept
        )
        back = self.gated(y, projected.gate if kept else of_first(projected.gate, layout))
        return self.out_proj(ahead), self.out_proj(back)

    def read_out(self, hidden: Hidden, layout: Layout, *, bidirectional: bool) -> States:
        """`both_ways` (or `forward`) at the last position of each history, without a scan. [T, D] -> [B, D]."""
        projected = self.project(hidden)
        ends = layout.read_out
        ahead = self.gated(self._read_once(projected, layout, reverse=False), projected.gate[ends])
        if not bidirectional:
            out: Hidden = self.out_proj(ahead)
            return out
        if self.mirror_back:
            last = Projected(*(part[ends] for part in projected))
            back = self.gated(self.alone(last.channels, last.dt), last.gate)
        else:
            y = self._read_once(projected, layout, reverse=True)
            back = self.gated(y, projected.gate[layout.cu_seqlens[:-1]])
        combined: Hidden = self.out_proj(ahead + self.backward_weight * back)
        return combined

    def project(self, hidden: Hidden) -> Projected:
        """The part that both directions share."""
        gate, channels, dt = self.in_proj(hidden).split([self.inner, self.inner + 2 * self.state_dim, self.heads], dim=1)
        return Projected(gate, channels, F.softplus(dt + self.dt_bias))

    def split(self, channels: Channels) -> tuple[Values, StateInputs, StateReads]:
        """What the convolution gives, as x [rows, H, P], B [rows, N] and C [rows, N]."""
        x, B, C = channels.split([self.inner, self.state_dim, self.state_dim], dim=1)
        return x.unflatten(1, (self.heads, -1)), B, C

    def _ahead(self, projected: Projected, layout: Layout) -> Hidden:
        channels = dispatch.convolve(projected.channels, self.conv_weight, self.conv_bias, layout)
        return self.gated(self._scan(channels, projected.dt, layout, reverse=False), projected.gate)

    def _scan(self, convolved: Channels, dt: StepSizes, layout: Layout, *, reverse: bool) -> Values:
        x, B, C = self.split(convolved)
        return dispatch.scan(x, dt, self.A, B, C, self.D, layout, reverse=reverse)

    def _read_once(self, projected: Projected, layout: Layout, *, reverse: bool) -> LastValues:
        channels = dispatch.convolve(projected.channels, self.conv_weight, self.conv_bias, layout, reverse=reverse)
        x, B, C = self.split(channels)
        return scan_last_position(x, projected.dt, self.A, B, C, self.D, layout, reverse=reverse)

    def alone(self, channels: Channels, dt: StepSizes) -> Values:
        """The y of each event as the only one of its history: [rows, E + 2N], [rows, H] -> [rows, H, P]."""
        x, B, C = self.split(F.silu(channels * self.conv_weight[:, -1] + self.conv_bias))
        return x * (dt * (B * C).sum(1, keepdim=True) + self.D)[..., None]

    def gated(self, y: Values, gate: Hidden) -> Hidden:
        """RMSNorm(y SiLU(z)): [rows, H, P] and [rows, E] -> [rows, E]."""
        return dispatch.gated_norm(y.flatten(1), gate, self.norm.weight, cast("float", self.norm.eps))
