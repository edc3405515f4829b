"""A fading sum of item vectors: the simplest sequence model, as the input of any other."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.ops.dispatch import fading_sum


class FadingCache(NamedTuple):
    """The state of a fading sum for B sequences."""

    total: Tensor  # [B, D] the sum after the last interaction


class FadingSum(nn.Module):
    """f_t = decay f_{t-1} + e_t over the positions of a sequence, f_0 = 0; the decay is learned.

    A network whose residual stream starts from f has a direct linear path from each recent item to the scores, and its layers
    learn what the sum lacks. It is the SSD scan with one state, a constant step and B = C = 1.

    Args:
        decay: initial value, above 0 and below 1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor([decay]).logit())  # [1]; decay = sigmoid(logit)

    @property
    def decay(self) -> Tensor:
        """The learned decay, [1]."""
        return torch.sigmoid(self.logit)

    def forward(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Return the sum up to each position, see `ops.dispatch.fading_sum`. [T, D] -> [T, D]."""
        return fading_sum(embedded, nn.functional.logsigmoid(self.logit), cu_seqlens)

    def new_cache(self, sequences: int, width: int) -> FadingCache:
        """Return the cache of sequences without interactions."""
        return FadingCache(self.logit.new_zeros(sequences, width))

    def step(self, cache: FadingCache, embedded: States) -> tuple[FadingCache, States]:
        """Add one interaction to each sequence: the new cache, and the sum [B, D]."""
        total = self.decay * cache.total + embedded
        return FadingCache(total), total
