"""Protocols of sequence encoders: what a model of this package implements."""

from typing import Protocol, runtime_checkable

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.layers.step import Cache


@runtime_checkable
class Backbone(Protocol):
    """A sequence encoder; see `ssd4rec.models`."""

    width: int

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """Encode each sequence, at its last position. [T, D] -> [B, D]."""
        ...

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode the prefix that ends at each position. [T, D] -> [T, D]."""
        ...


@runtime_checkable
class MaskedItemEncoder(Protocol):
    """An encoder for masked-item prediction: bidirectional in every layer."""

    def encode_positions(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode each position from the whole sequence. [T, D] -> [T, D]."""
        ...


@runtime_checkable
class IncrementalEncoder(Protocol):
    """An encoder that can process one new interaction from a cache."""

    def new_cache(self, sequences: int) -> Cache:
        """Return the cache of empty sequences."""
        ...

    def step(self, cache: Cache, embedded: States) -> tuple[Cache, States]:
        """Process one new interaction of each sequence; return the new cache and the output of `encode`, [B, D]."""
        ...

    def prefill(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> tuple[Cache, States]:
        """Process whole sequences at once; return the cache and the output of `encode`, [B, D]."""
        ...

    @property
    def supports_incremental(self) -> bool:
        """Whether the configured variant supports it."""
        ...
