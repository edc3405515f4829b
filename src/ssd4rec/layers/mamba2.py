"""The Mamba-2 mixer, and the ways in which a recommender applies it to a packed batch.

forward                    causal output at every position
forward_bidirectional      forward plus beta times backward output at every position
forward_prefixes           bidirectional output at the end of every prefix, for all-positions training
forward_partially_flipped  the outputs that SIGMA needs at the end of every prefix
forward_last               bidirectional output at the last position of each sequence only, without a scan
"""

import math
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

from ssd4rec.array_types import Channels, Hidden, LastValues, Rates, StateInputs, StateReads, States, StepSizes, Values
from ssd4rec.config.backbones import BiSSDSizes
from ssd4rec.ops import dispatch
from ssd4rec.ops.gather import broadcast_first, reverse_sequences, split_columns
from ssd4rec.ops.partial_flip import partially_flipped_prefix_readout
from ssd4rec.ops.segments import Layout
from ssd4rec.ops.ssd.prefix_readout import scan_last_position


class Projected(NamedTuple):
    """Output of in_proj, shared by both directions."""

    gate: Hidden  # z [T, E]
    channels: Channels  # input of the convolution: x, B and C side by side [T, E + 2N]
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
        """Run the causal mixer: the output at position t depends on positions up to t. [T, D] -> [T, D]."""
        projected = self.project(hidden)
        return self.out_proj(self._forward_direction(projected, layout))

    def forward_bidirectional(self, hidden: Hidden, layout: Layout) -> Hidden:
        """Compute F + beta K, where K is the mixer applied to the reversed sequence. [T, D] -> [T, D].

        With `mirror_back = False`, as in the authors' code, K is not reversed back: position i of L gets K of item L+1-i.
        out_proj is linear, so the two directions are summed before it.
        """
        projected = self.project(hidden)
        x_forward, x_backward = dispatch.convolve_bidirectional(projected.channels, self.conv_weight, self.conv_bias, layout)
        forward = self.gated(self._scan(x_forward, projected.dt, layout, reverse=False), projected.gate)
        backward = self.gated(self._scan(x_backward, projected.dt, layout, reverse=True), projected.gate)
        if not self.mirror_back:
            backward = reverse_sequences(backward, layout)
        return self.out_proj(forward + self.backward_weight * backward)

    def forward_prefixes(self, hidden: Hidden, layout: Layout) -> Hidden:
        """Compute `forward_bidirectional` at the last position of every prefix; row t: the prefix up to t. [T, D] -> [T, D]."""
        projected = self.project(hidden)
        y = self._scan_forward(projected, layout)
        if self.mirror_back:  # reversed back, the last position is the first that the backward scan reaches
            backward = self.gated(self.single_position(projected.channels, projected.dt), projected.gate)
            combined = self.gated(y, projected.gate) + self.backward_weight * backward
        else:
            other = dispatch.backward_prefix_readout(
                projected.channels,
                self.conv_weight,
                self.conv_bias,
                projected.dt,
                self.A,
                self.D,
                layout,
                self.state_dim,
            )
            norm = self.norm.weight, cast("float", self.norm.eps), self.backward_weight
            combined = dispatch.gated_norm_of_both(y.flatten(1), other.flatten(1), projected.gate, *norm, layout)
        return self.out_proj(combined)

    def forward_partially_flipped(self, hidden: Hidden, layout: Layout, tail: int) -> tuple[Hidden, Hidden]:
        """Compute `forward` at the end of every prefix, and of every prefix with all but its last `tail` positions reversed.

        [T, D] -> [T, D] twice; row t is the prefix that ends at position t.
        """
        projected = self.project(hidden)
        forward = self._forward_direction(projected, layout)
        y = partially_flipped_prefix_readout(
            projected.channels, self.conv_weight, self.conv_bias, projected.dt, self.A, self.D, layout, self.state_dim, tail
        )
        backward = self.gated(y, projected.gate if tail else broadcast_first(projected.gate, layout))
        return self.out_proj(forward), self.out_proj(backward)

    def forward_last(self, hidden: Hidden, layout: Layout, *, bidirectional: bool) -> States:
        """Compute the output at the last position of each sequence only, without a scan. [T, D] -> [B, D]."""
        projected = self.project(hidden)
        ends = layout.last_index
        forward = self.gated(self._scan_last(projected, layout, reverse=False), projected.gate[ends])
        if not bidirectional:
            return self.out_proj(forward)
        if self.mirror_back:
            last = Projected(*(part[ends] for part in projected))
            backward = self.gated(self.single_position(last.channels, last.dt), last.gate)
        else:
            y = self._scan_last(projected, layout, reverse=True)
            backward = self.gated(y, projected.gate[layout.cu_seqlens[:-1]])
        return self.out_proj(forward + self.backward_weight * backward)

    def project(self, hidden: Hidden) -> Projected:
        """Apply in_proj, which both directions share."""
        sizes = [self.inner, self.inner + 2 * self.state_dim, self.heads]
        if hidden.device.type == "cpu" and torch.is_grad_enabled():  # three products need no joined gradient
            gate, channels, dt = (F.linear(hidden, weight) for weight in self.in_proj.weight.split(sizes))
        else:
            gate, channels, dt = self.in_proj(hidden).split(sizes, dim=1)
        return Projected(gate, channels, F.softplus(dt + self.dt_bias))

    def split(self, channels: Channels) -> tuple[Values, StateInputs, StateReads]:
        """Split the output of the convolution into x [rows, H, P], B [rows, N] and C [rows, N]."""
        sizes = [self.inner, self.state_dim, self.state_dim]
        x, B, C = split_columns(channels, sizes) if torch.is_grad_enabled() else channels.split(sizes, dim=1)
        return x.unflatten(1, (self.heads, -1)), B, C

    def _forward_direction(self, projected: Projected, layout: Layout) -> Hidden:
        return self.gated(self._scan_forward(projected, layout), projected.gate)

    def _scan_forward(self, projected: Projected, layout: Layout) -> Values:
        channels = dispatch.convolve(projected.channels, self.conv_weight, self.conv_bias, layout)
        return self._scan(channels, projected.dt, layout, reverse=False)

    def _scan(self, convolved: Channels, dt: StepSizes, layout: Layout, *, reverse: bool) -> Values:
        x, B, C = self.split(convolved)
        return dispatch.scan(x, dt, self.A, B, C, self.D, layout, reverse=reverse)

    def _scan_last(self, projected: Projected, layout: Layout, *, reverse: bool) -> LastValues:
        channels = dispatch.convolve(projected.channels, self.conv_weight, self.conv_bias, layout, reverse=reverse)
        x, B, C = self.split(channels)
        return scan_last_position(x, projected.dt, self.A, B, C, self.D, layout, reverse=reverse)

    def single_position(self, channels: Channels, dt: StepSizes) -> Values:
        """Compute y of each row as a sequence of length 1. [rows, E + 2N], [rows, H] -> [rows, H, P]."""
        x, B, C = self.split(F.silu(channels * self.conv_weight[:, -1] + self.conv_bias))
        return x * (dt * (B * C).sum(1, keepdim=True) + self.D)[..., None]

    def gated(self, y: Values, gate: Hidden) -> Hidden:
        """Compute RMSNorm(y * SiLU(z)). [rows, H, P], [rows, E] -> [rows, E]."""
        return dispatch.gated_norm(y.flatten(1), gate, self.norm.weight, cast("float", self.norm.eps))
