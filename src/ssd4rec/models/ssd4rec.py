"""SSD4Rec: embedding normalization and Bi-SSD layers over a packed batch."""

from typing import ClassVar, Literal, cast

from torch import nn

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.config.backbones import BackboneSettings, BiSSDSizes, Objective
from ssd4rec.errors import ConfigError
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.initialization import initialize_weights
from ssd4rec.layers.step import Cache, LayerCache, new_cache, prefill, step
from ssd4rec.ops.segments import Layout, make_layout

Bidirectional = Literal["all", "top", "none"]


class SSD4RecConfig(BiSSDSizes):
    """Settings of SSD4Rec."""

    name: Literal["ssd4rec"] = "ssd4rec"
    """Name of the model."""
    norm_embedding: bool = False
    """Apply dropout and LayerNorm to the item vectors before the first layer."""
    bidirectional: Bidirectional = "top"
    """Which layers are bidirectional: all (as in the paper), only the top one, or none."""

    @property
    def bidirectional_layers(self) -> tuple[bool, ...]:
        """For each layer, bottom to top, whether it is bidirectional."""
        return tuple(
            self.bidirectional == "all" or (self.bidirectional == "top" and layer == self.layers - 1)
            for layer in range(self.layers)
        )

    @property
    def supports_all_positions(self) -> bool:
        """Whether one pass can encode every prefix exactly: only the top layer may be bidirectional."""
        return not any(self.bidirectional_layers[:-1])

    def objection(self, objective: Objective) -> str | None:
        """Return why an objective cannot train this backbone and what to do instead; None if it can."""
        if objective == "all-positions" and not self.supports_all_positions:
            return (
                f'training.objective = "all-positions" needs causal layers below the top, found '
                f'backbone.bidirectional = "all" with {self.layers} layers; '
                f'set backbone.bidirectional = "top" or training.objective = "per-prefix"'
            )
        return super().objection(objective)


class SSD4Rec(nn.Module):
    """Encode sequences of any length in time linear in their length.

    `bidirectional` selects the layers that add the backward direction. "all" is the paper's variant. With "top" the layers below
    are causal: one pass computes the exact representation of every prefix, and `step` processes one interaction at a time.

    Args:
        config: sizes, dropout and variant.

    Source: arXiv 2409.01192, restated in docs/paper-map.md, "The model".
    """

    settings_class: ClassVar[type[BackboneSettings]] = SSD4RecConfig

    def __init__(self, config: SSD4RecConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)  # exists even if norm_embedding is off, as in the authors' code
        self.layers = nn.ModuleList(BiSSDLayer(config, bidirectional=both) for both in config.bidirectional_layers)
        self.final_norm: nn.Module = nn.Identity()
        self.apply(initialize_weights)
        if config.norm_first:
            self.final_norm = nn.LayerNorm(config.width, eps=1e-12)
            for layer in self._layers:
                layer.start_as_identity()

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """Encode each sequence, at its last position. [T, D] -> [B, D]."""
        top, hidden, layout = self._lower_layers(embedded, cu_seqlens)
        return self.final_norm(top.forward_last(hidden, layout))

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode every prefix: row t equals `encode` of its sequence truncated after position t. [T, D] -> [T, D].

        Raises:
            ConfigError: a layer below the top is bidirectional, so its outputs differ between prefixes.
        """
        self._check_causal_below("all-positions training")
        top, hidden, layout = self._lower_layers(embedded, cu_seqlens)
        return self.final_norm(top.forward_prefixes(hidden, layout))

    def step(self, cache: Cache, embedded: States) -> tuple[list[LayerCache], States]:
        """Process one new interaction of each sequence; return the new cache and the output of `encode`, [B, D]."""
        self._check_causal_below("incremental inference")
        hidden, new = self._normalize(embedded), []
        for layer, layer_cache in zip(self._layers, cache, strict=True):
            new_layer_cache, hidden = step(layer, cast("LayerCache", layer_cache), hidden)
            new.append(new_layer_cache)
        return new, self.final_norm(hidden)

    def prefill(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> tuple[list[LayerCache], States]:
        """Process whole sequences at once; return the cache and the output of `encode`, [B, D]."""
        self._check_causal_below("incremental inference")
        layout = make_layout(cu_seqlens, device=embedded.device)
        *below, top = self._layers
        hidden, cache = self._normalize(embedded), []
        for layer in below:
            cache.append(prefill(layer, hidden, layout)[0])
            hidden = layer(hidden, layout)
        top_cache, states = prefill(top, hidden, layout)
        return [*cache, top_cache], self.final_norm(states)

    def new_cache(self, sequences: int) -> list[LayerCache]:
        """Return the caches of empty sequences, bottom layer first."""
        return [new_cache(layer, sequences) for layer in self._layers]

    @property
    def supports_incremental(self) -> bool:
        """Whether `step` and `prefill` are available: otherwise an interaction changes every position below the top layer."""
        return self.config.supports_all_positions

    def _check_causal_below(self, what: str) -> None:
        if not self.supports_incremental:
            raise ConfigError(
                f'{what} needs causal layers below the top, found bidirectional = "all" with {self.config.layers} layers; '
                f'use bidirectional = "top" (or train with the objective "per-prefix")'
            )

    def _lower_layers(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> tuple[BiSSDLayer, Hidden, Layout]:
        """Return the top layer, its input, and the layout of the packed batch."""
        layout, (*below, top) = make_layout(cu_seqlens, device=embedded.device), self._layers
        hidden = self._normalize(embedded)
        for layer in below:
            hidden = layer(hidden, layout)
        return top, hidden, layout

    @property
    def _layers(self) -> list[BiSSDLayer]:
        return cast("list[BiSSDLayer]", list(self.layers))

    def _normalize(self, embedded: Hidden) -> Hidden:
        return self.norm(self.dropout(embedded)) if self.config.norm_embedding else embedded
