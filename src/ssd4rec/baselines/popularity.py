"""What everybody takes: the baseline that every model must beat."""

import numpy as np
import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, States


class Popularity:
    """Scores an item by its training events, whatever the history.

    Args:
        counts: [V + 1] training events of each item number; that of number 0 is not looked at.
    """

    def __init__(self, counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        # float64 tells counts up to 2^53 apart
        self.item_vectors: Tensor = torch.from_numpy(counts[1:].astype(np.float64))[:, None]

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:
        """[B, 1]: the same for everybody."""
        del items
        return torch.ones(cu_seqlens.shape[0] - 1, 1, dtype=torch.float64)
