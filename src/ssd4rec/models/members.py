"""Several networks side by side, each with columns of the item table of its own: an ensemble that is one model."""

from typing import cast

import torch
from torch import Tensor, nn

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.errors import ConfigError
from ssd4rec.layers.step import Cache
from ssd4rec.models.encoders import Backbone, IncrementalEncoder, MaskedItemEncoder


class Members(nn.Module):
    """M encoders of width D as one of width M D: member m reads and writes columns m D … (m + 1) D - 1, and no others.

    Args:
        members: M encoders of equal width.

    Source: an ensemble of networks that differ in their initial weights and dropout (Lakshminarayanan, Pritzel and Blundell
    2017), whose scores are averaged: a product of experts.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.width = sum(cast("Backbone", each).width for each in members)

    @property
    def _incremental(self) -> list[IncrementalEncoder]:
        if not self.supports_incremental:
            raise ConfigError(
                f"the backbone {type(self.members[0]).__name__} does not support incremental inference with these settings; "
                f"encode the whole history again"
            )
        return cast("list[IncrementalEncoder]", list(self.members))

    def _side_by_side(self, method: str, embedded: Hidden, cu_seqlens: CuSeqlens) -> Tensor:
        columns = embedded.chunk(len(self.members), dim=-1)
        encoded = [getattr(member, method)(own, cu_seqlens) for member, own in zip(self.members, columns, strict=True)]
        return torch.cat(encoded, dim=-1)

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """Encode each sequence, at its last position. [T, M D] -> [B, M D]."""
        return self._side_by_side("encode", embedded, cu_seqlens)

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode the prefix that ends at each position. [T, M D] -> [T, M D]."""
        return self._side_by_side("encode_prefixes", embedded, cu_seqlens)

    @property
    def supports_incremental(self) -> bool:
        """Whether every member can process one new interaction from a cache."""
        return all(isinstance(each, IncrementalEncoder) and each.supports_incremental for each in self.members)

    def new_cache(self, sequences: int) -> Cache:
        """Return the caches of empty sequences: those of the first member, then those of the second."""
        return [layer for each in self._incremental for layer in each.new_cache(sequences)]

    def step(self, cache: Cache, embedded: States) -> tuple[Cache, States]:
        """Process one new interaction of each sequence; return the new cache and the output of `encode`, [B, M D]."""
        layers = len(cache) // len(self.members)
        caches = [cache[first : first + layers] for first in range(0, len(cache), layers)]
        columns = embedded.chunk(len(self.members), dim=-1)
        parts = zip(self._incremental, caches, columns, strict=True)
        return _joined([member.step(own_cache, own_columns) for member, own_cache, own_columns in parts])

    def prefill(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> tuple[Cache, States]:
        """Process whole sequences at once; return the cache and the output of `encode`, [B, M D]."""
        columns = embedded.chunk(len(self.members), dim=-1)
        return _joined([member.prefill(each, cu_seqlens) for member, each in zip(self._incremental, columns, strict=True)])


class MaskedItemMembers(Members):
    """`Members` for encoders that predict masked items."""

    def encode_positions(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode each position from the whole sequence. [T, M D] -> [T, M D]."""
        return self._side_by_side("encode_positions", embedded, cu_seqlens)


def members_of(backbone: nn.Module) -> list[nn.Module]:
    """Return the encoders that a backbone consists of: its members, or itself."""
    return list(backbone.members) if isinstance(backbone, Members) else [backbone]


def side_by_side(members: list[nn.Module]) -> nn.Module:
    """Return one encoder for all members; a single one is returned as it is."""
    if len(members) == 1:
        return members[0]
    return MaskedItemMembers(members) if isinstance(members[0], MaskedItemEncoder) else Members(members)


def _joined(read: list[tuple[Cache, States]]) -> tuple[Cache, States]:
    return [layer for cache, _ in read for layer in cache], torch.cat([states for _, states in read], dim=-1)
