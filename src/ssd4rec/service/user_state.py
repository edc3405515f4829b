"""The state of a user, and a request to score it."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ssd4rec.layers.step import Cache
from ssd4rec.service.ids import MICROSECONDS
from ssd4rec.serving.topk import TopK

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
OVERHEAD = 2000  # bytes of a state without its arrays: objects, and a few answers


class RequestMoment(NamedTuple):
    """When the next items are wanted, and when the last event before was, in microseconds since 1970."""

    at: int
    last_event: int

    def in_seconds(self) -> dict[str, int]:
        """Return the arguments of `Recommender.recommend`."""
        return {name: value // MICROSECONDS for name, value in self._asdict().items()}


@dataclass
class UserState:
    """State of one history. `indices` contains unknown items too, as 0."""

    indices: Indices
    cache: Cache | None = None
    vector: Tensor | None = None  # [1, D] what `encode` gives; None: nothing known was read
    # answers given from this state, by everything else that they depend on
    best: dict[Hashable, TopK] = field(default_factory=dict)

    @cached_property
    def unknown(self) -> int:
        """Events of items that the catalog does not contain."""
        return int(len(self.indices) - np.count_nonzero(self.indices))

    @cached_property
    def bytes(self) -> int:
        """Size in memory."""
        cache = sum(part.nbytes for layer in self.cache or () for part in layer)
        return self.indices.nbytes + cache + (0 if self.vector is None else self.vector.nbytes) + OVERHEAD


@dataclass(frozen=True)
class ScoreJob:
    """A history that is read, and what may be recommended to it."""

    state: UserState
    k: int
    exclude_seen: bool
    excluded: Mask | None
    only_known: bool  # a history with an unknown item gets popular items
