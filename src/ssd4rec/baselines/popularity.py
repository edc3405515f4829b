"""Most-popular baseline."""

import numpy as np
import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, States


class Popularity:
    """Scores an item by its number of training events, the same for every user.

    Args:
        counts: [V + 1] training events of each item index; that of index 0 is ignored.
    """

    def __init__(self, counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        # float64: counts up to 2^53 are exact
        self.item_vectors: Tensor = torch.from_numpy(counts[1:].astype(np.float64))[:, None]

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:
        """Return the same state for every sequence. [T] -> [B, 1]."""
        del items
        return torch.ones(cu_seqlens.shape[0] - 1, 1, dtype=torch.float64)
