"""SIGMA: one Mamba over the history and over the history partly reversed, gated, beside a recurrent network."""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden, Positions, States
from ssd4rec.config.backbones import MAX_WINDOW, BiSSDSizes, Mamba2Sizes
from ssd4rec.config.base import Objective
from ssd4rec.errors import ConfigError
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.feed_forward import FeedForward
from ssd4rec.layers.gru import PackedGRU
from ssd4rec.layers.initialization import initialize_weights
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops.attention import Tables, lay_in_tables
from ssd4rec.ops.gather import earlier, of_first
from ssd4rec.ops.segments import Layout, make_layout


class SIGMAConfig(Mamba2Sizes):
    """Settings of SIGMA."""

    name: Literal["sigma"] = "sigma"
    kept: int = Field(5, ge=0, le=MAX_WINDOW)  # events at the end that are not reversed: r in its paper

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
    """LayerNorm(Dropout(E)), then layers of G-Mamba and a feed-forward network, read at the last event.

    G-Mamba is the weighted sum of three readings of a history, projected:
    M(H), the mixer forwards; M(flip H), the same mixer where all but the last `kept` events are reversed; and a GRU over a
    convolution of width 3. The first two are multiplied by 1 + a gate (the dense selective gate): W1 SiLU(h) + W2 sigmoid(h),
    h = H + W H + b.

    The reversed part differs from prefix to prefix, and still one pass gives the state of every prefix, exactly, with one layer:
    `ops/partially_flipped.py`. With more, only the objective "per-prefix" trains it.

    Differences from the original: Mamba-2 in place of Mamba; the last `kept` events of each history stay in place, where the
    authors' code reverses the first 45 of 50 padded places, whatever the history's length; the weights of the sum are learned
    through their softmax and begin at .8, .1 and .1 (the authors' stay as they begin); the residual is there with one layer
    too; each gate reads its own input.

    Source: Liu et al. 2024, arXiv 2408.11451, and what its authors' code does.
    """

    settings_class = SIGMAConfig

    def __init__(self, config: SIGMAConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)
        self.layers = nn.ModuleList(GMambaLayer(config) for _ in range(config.layers))
        self.apply(initialize_weights)

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """What the model knows at the end of each history. [T, D] -> [B, D].

        Raises:
            ShapeError: cu_seqlens do not rise from 0.
        """
        layout = make_layout(cu_seqlens, device=embedded.device)
        tables = lay_in_tables(cu_seqlens, embedded.device)
        flip = partially_flipped(layout, self.config.kept)
        hidden = self.norm(self.dropout(embedded))
        for layer in cast("list[GMambaLayer]", list(self.layers)):
            hidden = layer(hidden, layout, tables, flip)
        states: States = hidden[layout.read_out]
        return states

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """What it knows at the end of every prefix: row t equals `encode` of its history cut after position t. [T, D] -> [T, D].

        Raises:
            ConfigError: there is more than one layer: the states of the lower one differ from prefix to prefix.
            ShapeError: cu_seqlens do not rise from 0.
        """
        if objection := self.config.objection("all-positions"):
            raise ConfigError(objection)
        layout = make_layout(cu_seqlens, device=embedded.device)
        tables = lay_in_tables(cu_seqlens, embedded.device)
        (layer,) = cast("list[GMambaLayer]", list(self.layers))
        return layer.all_prefixes(self.norm(self.dropout(embedded)), layout, tables, self.config.kept)


class GMambaLayer(nn.Module):
    """H1 = LayerNorm(H + Dropout(W (w0 M + w1 M_flipped + w2 GRU) + b)), and the feed-forward network."""

    def __init__(self, config: SIGMAConfig) -> None:
        super().__init__()
        width = config.width
        self.mixer = Mamba2Mixer(config.mixer)
        self.gate, self.flipped_gate = SelectiveGate(width), SelectiveGate(width)
        self.convolution = nn.Linear(3 * width, width)  # the event before, the event, the event after
        self.gru = PackedGRU(width, width, bias=False)
        self.shares = nn.Parameter(torch.tensor([0.8, 0.1, 0.1]).log())
        self.project = nn.Linear(width, width)
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.feed_forward = FeedForward(width, config.dropout)

    def forward(self, hidden: Hidden, layout: Layout, tables: Tables, flip: Positions) -> Hidden:
        """[T, D] -> [T, D]."""
        flipped = hidden[flip]
        ahead, back = self.mixer(hidden, layout), self.mixer(flipped, layout)
        recurrent = self.gru(self.convolution(_with_neighbors(hidden, layout)), tables)
        return self._mixed(hidden, flipped, ahead, back, recurrent)

    def all_prefixes(self, hidden: Hidden, layout: Layout, tables: Tables, kept: int) -> Hidden:
        """Row t: `forward` of the prefix that ends at position t, read at its last position. [T, D] -> [T, D]."""
        last = hidden if kept else of_first(hidden, layout)
        ahead, back = self.mixer.partially_flipped(hidden, layout, kept)
        states = self.gru(self.convolution(_with_neighbors(hidden, layout)), tables)
        # up to the event before the last one the convolution has heard what the prefix holds; the last has no event after it
        ending = self.convolution(_with_neighbors(hidden, layout, after=False))
        recurrent = self.gru.step(ending, earlier(states, 1) * (layout.place > 0)[:, None])
        return self._mixed(hidden, last, ahead, back, recurrent)

    def _mixed(self, hidden: Hidden, flipped: Hidden, ahead: Hidden, back: Hidden, recurrent: Hidden) -> Hidden:
        shares = self.shares.softmax(0)
        ahead, back = ahead * (1 + self.gate(hidden)), back * (1 + self.flipped_gate(flipped))
        mixed = self.project(shares[0] * ahead + shares[1] * back + shares[2] * recurrent)
        out: Hidden = self.feed_forward(self.norm(hidden + self.dropout(mixed)))
        return out


class SelectiveGate(nn.Module):
    """W1 SiLU(h) + W2 sigmoid(h), h = x + W x + b."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.smooth, self.sharp = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden: Hidden) -> Hidden:
        """[T, D] -> [T, D]."""
        dense = hidden + self.dense(hidden)
        gate: Hidden = self.smooth(F.silu(dense)) + self.sharp(torch.sigmoid(dense))
        return gate


def partially_flipped(layout: Layout, kept: int) -> Positions:
    """Each history reversed but for its last `kept` events: cu_seqlens [0, 5], kept 2 -> [2, 1, 0, 3, 4]."""
    reversed_events = layout.last - layout.first + 1 - kept
    turned = torch.where(layout.place < reversed_events, reversed_events - 1 - layout.place, layout.place)
    return layout.first + turned


def _with_neighbors(hidden: Hidden, layout: Layout, *, after: bool = True) -> Tensor:
    # [T, 3 D]; zeros where a history begins or ends, and for the event after where none is to be heard
    starts, ends = (layout.place > 0)[:, None], (layout.place < layout.last - layout.first)[:, None]
    following = earlier(hidden, -1) * ends if after else torch.zeros_like(hidden)
    return torch.cat([earlier(hidden, 1) * starts, hidden, following], dim=1)
