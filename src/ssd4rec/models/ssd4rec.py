"""The SSD4Rec backbone: embedding normalization and Bi-SSD layers over a packed row."""

from typing import Literal, cast

from torch import nn

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.config.backbones import BiSSDSizes
from ssd4rec.config.base import Objective
from ssd4rec.errors import ConfigError
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.initialization import initialize_weights
from ssd4rec.layers.step import Cache, LayerCache, cache_after, new_cache, step
from ssd4rec.ops.segments import make_layout

Bidirectional = Literal["all", "top", "none"]


class SSD4RecConfig(BiSSDSizes):
    """Settings of SSD4Rec."""

    name: Literal["ssd4rec"] = "ssd4rec"
    norm_embedding: bool = False
    bidirectional: Bidirectional = "top"  # which layers read both ways; the paper: all

    @property
    def bidirectional_layers(self) -> tuple[bool, ...]:
        """For each layer, bottom to top, whether it reads both ways."""
        return tuple(
            self.bidirectional == "all" or (self.bidirectional == "top" and layer == self.layers - 1)
            for layer in range(self.layers)
        )

    @property
    def supports_all_positions(self) -> bool:
        """Whether one pass can give the exact state of every prefix: only the top layer may read backwards."""
        return not any(self.bidirectional_layers[:-1])

    def objection(self, objective: Objective) -> str | None:
        """Return why an objective cannot train this backbone and what to do instead; None if it can."""
        if objective == "all-positions" and not self.supports_all_positions:
            return (
                f'training.objective = "all-positions" needs layers below the top that read forwards only, found '
                f'backbone.bidirectional = "all" with {self.layers} layers; '
                f'set backbone.bidirectional = "top" or training.objective = "per-prefix"'
            )
        return super().objection(objective)


class SSD4Rec(nn.Module):
    """Whole histories of any length, read in time linear in their length.

    `bidirectional` says which layers read both ways: "all" is the paper's wiring; with "top" the layers below are causal, and
    one pass over a history gives the exact state of each of its prefixes; such a model can also be fed event by event.

    Args:
        config: sizes, dropout and wiring.

    Source: arXiv 2409.01192, restated in docs/paper-map.md, "The model".
    """

    settings_class = SSD4RecConfig

    def __init__(self, config: SSD4RecConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)  # exists even where norm_embedding is off, as in the authors' code
        self.layers = nn.ModuleList(BiSSDLayer(config, bidirectional=both) for both in config.bidirectional_layers)
        self.final_norm: nn.Module = nn.Identity()
        self.apply(initialize_weights)
        if config.norm_first:
            self.final_norm = nn.LayerNorm(config.width, eps=1e-12)
            for layer in self._layers:
                layer.start_as_identity()

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """What the model knows at the end of each history.

        Args:
            embedded: [T, D] item vectors of the packed row.
            cu_seqlens: int64 [B + 1]; history u owns positions cu_seqlens[u]:cu_seqlens[u + 1]. On the CPU, nothing waits
                for the device that the vectors are on.

        Returns:
            [B, D].

        Raises:
            ShapeError: cu_seqlens do not rise from 0.
        """
        layout = make_layout(cu_seqlens, device=embedded.device)
        *below, top = self._layers
        hidden = self._normed(embedded)
        for layer in below:
            hidden = layer(hidden, layout)
        return self._finished(top.read_out(hidden, layout))

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """What the model knows at the end of every prefix: row t equals `encode` of its history cut after position t.

        Args:
            embedded: [T, D] item vectors of the packed row.
            cu_seqlens: int64 [B + 1].

        Returns:
            [T, D].

        Raises:
            ConfigError: a layer below the top reads backwards, so that its states differ from prefix to prefix.
            ShapeError: cu_seqlens do not rise from 0.
        """
        self._check_causal_below("one pass over a history")
        layout = make_layout(cu_seqlens, device=embedded.device)
        *below, top = self._layers
        hidden = self._normed(embedded)
        for layer in below:
            hidden = layer(hidden, layout)
        return self._finished(top.all_prefixes(hidden, layout))

    def step(self, cache: Cache, embedded: States) -> tuple[list[LayerCache], States]:
        """Read one more event of each history, at a price that does not depend on what was read before.

        Args:
            cache: of B histories, from `new_cache` or an earlier step.
            embedded: [B, D] item vectors of the new events.

        Returns:
            The new cache, and [B, D] what `encode` gives for the histories with the new event.

        Raises:
            ConfigError: a layer below the top reads backwards, so that a new event changes every earlier position.
        """
        self._check_causal_below("reading event by event")
        hidden, new = self._normed(embedded), []
        for layer, past in zip(self._layers, cache, strict=True):
            present, hidden = step(layer, past, hidden)
            new.append(present)
        return new, self._finished(hidden)

    def prefill(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> tuple[list[LayerCache], States]:
        """Read whole histories at once: what `step` would have come to, event by event.

        Args:
            embedded: [T, D] item vectors of the packed row.
            cu_seqlens: int64 [B + 1].

        Returns:
            The cache of the B histories, and [B, D] what `encode` gives.

        Raises:
            ConfigError: a layer below the top reads backwards.
            ShapeError: cu_seqlens do not rise from 0.
        """
        self._check_causal_below("reading event by event")
        layout = make_layout(cu_seqlens, device=embedded.device)
        *below, top = self._layers
        hidden, cache = self._normed(embedded), []
        for layer in below:
            cache.append(cache_after(layer, hidden, layout))
            hidden = layer(hidden, layout)
        cache.append(cache_after(top, hidden, layout))
        return cache, self._finished(top.read_out(hidden, layout))

    def new_cache(self, histories: int) -> list[LayerCache]:
        """What the layers remember, bottom to top, of histories that have not begun."""
        return [new_cache(layer, histories) for layer in self._layers]

    @property
    def supports_incremental(self) -> bool:
        """Whether `step` and `prefill` work: no layer below the top reads backwards."""
        return self.config.supports_all_positions

    def _check_causal_below(self, what: str) -> None:
        if not self.supports_incremental:
            raise ConfigError(
                f'{what} needs layers below the top that read forwards only, found bidirectional = "all" with '
                f'{self.config.layers} layers; use bidirectional = "top" (or train with the objective "per-prefix")'
            )

    @property
    def _layers(self) -> list[BiSSDLayer]:
        return cast("list[BiSSDLayer]", list(self.layers))

    def _finished(self, hidden: Hidden) -> Hidden:
        states: Hidden = self.final_norm(hidden)
        return states

    def _normed(self, embedded: Hidden) -> Hidden:
        return self.norm(self.dropout(embedded)) if self.config.norm_embedding else embedded
