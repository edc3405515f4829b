"""SIGMA: a Mamba mixer over the sequence and over the partially flipped sequence, gated, plus a GRU."""

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden, Positions, States
from ssd4rec.config.backbones import MAX_WINDOW, BackboneSettings, BiSSDSizes, Mamba2Sizes, Objective
from ssd4rec.errors import ConfigError
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.feed_forward import FeedForward
from ssd4rec.layers.gru import PackedGRU
from ssd4rec.layers.initialization import initialize_weights
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops.attention import LengthBuckets, bucket_by_length
from ssd4rec.ops.gather import broadcast_first, shift_rows
from ssd4rec.ops.segments import Layout, make_layout


class SIGMAConfig(Mamba2Sizes):
    """Settings of SIGMA."""

    name: Literal["sigma"] = "sigma"
    """Name of the model."""
    kept: int = Field(5, ge=0, le=MAX_WINDOW)
    """Number of most recent events that are not reversed (r in the paper)."""

    def objection(self, objective: Objective) -> str | None:
        """Return why an objective cannot train this backbone and what to do instead; None if it can."""
        if objective == "all-positions" and self.layers > 1:
            return (
                f'training.objective = "all-positions" needs one layer of SIGMA (its states differ between prefixes), found '
                f'backbone.layers = {self.layers}; set backbone.layers = 1 or training.objective = "per-prefix"'
            )
        return super().objection(objective)

    @property
    def mixer(self) -> BiSSDSizes:
        """The sizes of its mixer."""
        return BiSSDSizes(name="mixer", **self.sizes)


class SIGMA(nn.Module):
    """LayerNorm(Dropout(E)), then layers of G-Mamba and a feed-forward network, read out at the last position.

    G-Mamba projects the weighted sum of three outputs: M(H), the mixer; M(flip H), the same mixer over the partially flipped
    sequence, in which all but the last `kept` positions are reversed; and a GRU over a convolution of width 3. The first two are
    multiplied by 1 + a gate (the dense selective gate): W1 SiLU(h) + W2 sigmoid(h), h = H + W H + b.

    The flipped part differs between prefixes. With one layer, one pass still computes every prefix exactly
    (`ops.partial_flip`); with more layers, only the objective "per-prefix" can train the model.

    Differences from the original: Mamba-2 in place of Mamba; the last `kept` positions of each sequence stay in place, where the
    authors' code reverses the first 45 of 50 padded positions whatever the length of the sequence; the weights of the sum are
    learned through a softmax and start at 0.8, 0.1 and 0.1 (the authors' are constant); a residual with one layer too; each gate
    reads its own input.

    Source: Liu et al. 2024, arXiv 2408.11451, and its authors' code.
    """

    settings_class: ClassVar[type[BackboneSettings]] = SIGMAConfig

    def __init__(self, config: SIGMAConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)
        self.layers = nn.ModuleList(GMambaLayer(config) for _ in range(config.layers))
        self.apply(initialize_weights)

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """Encode each sequence, at its last position. [T, D] -> [B, D]."""
        layout = make_layout(cu_seqlens, device=embedded.device)
        buckets = bucket_by_length(cu_seqlens, embedded.device)
        flip = partial_flip_index(layout, self.config.kept)
        hidden = self.norm(self.dropout(embedded))
        for layer in cast("list[GMambaLayer]", list(self.layers)):
            hidden = layer(hidden, layout, buckets, flip)
        return hidden[layout.last_index]

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode every prefix: row t equals `encode` of its sequence truncated after position t. [T, D] -> [T, D].

        Raises:
            ConfigError: there is more than one layer, so the outputs of the lower one differ between prefixes.
        """
        if objection := self.config.objection("all-positions"):
            raise ConfigError(objection)
        layout = make_layout(cu_seqlens, device=embedded.device)
        buckets = bucket_by_length(cu_seqlens, embedded.device)
        (layer,) = cast("list[GMambaLayer]", list(self.layers))
        return layer.forward_prefixes(self.norm(self.dropout(embedded)), layout, buckets, self.config.kept)


class GMambaLayer(nn.Module):
    """H1 = LayerNorm(H + Dropout(W (w0 M + w1 M_flipped + w2 GRU) + b)), and the feed-forward network."""

    def __init__(self, config: SIGMAConfig) -> None:
        super().__init__()
        width = config.width
        self.mixer = Mamba2Mixer(config.mixer)
        self.gate, self.flipped_gate = SelectiveGate(width), SelectiveGate(width)
        self.convolution = nn.Linear(3 * width, width)  # the previous, the same and the next position
        self.gru = PackedGRU(width, width, bias=False)
        self.shares = nn.Parameter(torch.tensor([0.8, 0.1, 0.1]).log())
        self.project = nn.Linear(width, width)
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.feed_forward = FeedForward(width, config.dropout)

    def forward(self, hidden: Hidden, layout: Layout, buckets: LengthBuckets, flip: Positions) -> Hidden:
        """[T, D] -> [T, D]."""
        flipped = hidden[flip]
        forward, backward = self.mixer(hidden, layout), self.mixer(flipped, layout)
        recurrent = self.gru(self.convolution(_with_neighbors(hidden, layout)), buckets)
        return self._mix(hidden, flipped, forward, backward, recurrent)

    def forward_prefixes(self, hidden: Hidden, layout: Layout, buckets: LengthBuckets, tail: int) -> Hidden:
        """Compute `forward` at the last position of every prefix; row t: the prefix up to t. [T, D] -> [T, D]."""
        last = hidden if tail else broadcast_first(hidden, layout)
        forward, backward = self.mixer.forward_partially_flipped(hidden, layout, tail)
        states = self.gru(self.convolution(_with_neighbors(hidden, layout)), buckets)
        # The convolution at the last position of a prefix has no next position, so the GRU repeats its last step for each prefix.
        last_input = self.convolution(_with_neighbors(hidden, layout, use_next=False))
        recurrent = self.gru.step(last_input, shift_rows(states, 1) * (layout.position > 0)[:, None])
        return self._mix(hidden, last, forward, backward, recurrent)

    def _mix(self, hidden: Hidden, flipped: Hidden, forward: Hidden, backward: Hidden, recurrent: Hidden) -> Hidden:
        shares = self.shares.softmax(0)
        forward, backward = forward * (1 + self.gate(hidden)), backward * (1 + self.flipped_gate(flipped))
        mixed = self.project(shares[0] * forward + shares[1] * backward + shares[2] * recurrent)
        return self.feed_forward(self.norm(hidden + self.dropout(mixed)))


class SelectiveGate(nn.Module):
    """The dense selective gate: W1 SiLU(h) + W2 sigmoid(h), h = x + W x + b."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.smooth, self.sharp = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden: Hidden) -> Hidden:
        """[T, D] -> [T, D]."""
        dense = hidden + self.dense(hidden)
        return self.smooth(F.silu(dense)) + self.sharp(torch.sigmoid(dense))


def partial_flip_index(layout: Layout, tail: int) -> Positions:
    """Index that reverses all but the last `tail` positions of each sequence: cu_seqlens [0, 5], tail 2 -> [2, 1, 0, 3, 4]."""
    flipped = layout.seq_end - layout.seq_start + 1 - tail
    return layout.seq_start + torch.where(layout.position < flipped, flipped - 1 - layout.position, layout.position)


def _with_neighbors(hidden: Hidden, layout: Layout, *, use_next: bool = True) -> Tensor:
    """Concatenate the previous, same and next position, zero outside the sequence. [T, D] -> [T, 3 D]."""
    has_previous, has_next = (layout.position > 0)[:, None], (layout.position < layout.seq_end - layout.seq_start)[:, None]
    following = shift_rows(hidden, -1) * has_next if use_next else torch.zeros_like(hidden)
    return torch.cat([shift_rows(hidden, 1) * has_previous, hidden, following], dim=1)
