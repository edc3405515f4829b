"""Protocols of sequence encoders, and a base class for models that read a limited number of positions."""

from typing import Protocol, runtime_checkable

from torch import nn

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.layers.step import Cache
from ssd4rec.ops.windows import encode_last, encode_windows


@runtime_checkable
class Backbone(Protocol):
    """A sequence encoder, an `nn.Module`.

    embedded [T, D] holds the item embeddings of the packed batch. cu_seqlens int64 [B + 1] may stay on the CPU while the
    embeddings are on a GPU; then nothing synchronizes with the GPU.
    """

    width: int

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """Encode each sequence, at its last position. [T, D] -> [B, D].

        Raises:
            ShapeError: cu_seqlens do not increase from 0.
        """
        ...

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode every prefix: row t equals `encode` of its sequence truncated after position t. [T, D] -> [T, D].

        Raises:
            ConfigError: one pass cannot encode every prefix.
            ShapeError: cu_seqlens do not increase from 0.
        """
        ...


class WindowedEncoder(nn.Module):
    """A `Backbone` that reads at most `max_length` positions at once; a subclass encodes them in `_encode`."""

    def __init__(self, width: int, max_length: int) -> None:
        super().__init__()
        self.width, self.max_length = width, max_length

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """Encode the last `max_length` positions of each sequence, at the last one. [T, D] -> [B, D]."""
        return encode_last(self._encode, embedded, cu_seqlens, self.max_length)

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode every position; longer sequences are cut into windows that overlap by half. [T, D] -> [T, D]."""
        return encode_windows(self._encode, embedded, cu_seqlens, self.max_length)

    def _encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        raise NotImplementedError


@runtime_checkable
class MaskedItemEncoder(Protocol):
    """An encoder for masked-item prediction: bidirectional in every layer."""

    def encode_positions(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode each position from the whole sequence. [T, D] -> [T, D]."""
        ...


@runtime_checkable
class IncrementalEncoder(Protocol):
    """An encoder that can process one new interaction from a cache, in time independent of the length of the sequence.

    `step` and `prefill` raise a ConfigError if the configured variant does not support it.
    """

    def new_cache(self, sequences: int) -> Cache:
        """Return the cache of empty sequences."""
        ...

    def step(self, cache: Cache, embedded: States) -> tuple[Cache, States]:
        """Process one new interaction of each sequence; return the new cache and the output of `encode`, [B, D]."""
        ...

    def prefill(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> tuple[Cache, States]:
        """Process whole sequences at once, as `step` would; return the cache and the output of `encode`, [B, D]."""
        ...

    @property
    def supports_incremental(self) -> bool:
        """Whether the configured variant supports it."""
        ...
