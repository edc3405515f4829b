"""The items that a user took most often, then the most popular ones."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from ssd4rec._csr import IntArray
from ssd4rec.array_types import CuSeqlens, Items, Scores
from ssd4rec.ops.segments import flat_score_index

BLOCK_ELEMENTS = 1 << 21  # scores held at once


class PersonalPopularity:
    """Scores the items of a sequence by how often they occur in it, and all other items below them by their popularity.

        score(j) = number of occurrences of j in the sequence + training events of j / (1 + training events of all items)

    Where users repeat items (places, groceries, songs), it is hard to beat. Where they do not, it recommends what they have.

    Args:
        counts: [V + 1] training events of each item index; that of index 0 is ignored.

    Source: GP-TopFreq of Li, Jullien, Ariannezhad and de Rijke 2023, "A Next Basket Recommendation Reality Check".
    """

    name = "personal-popularity"

    def __init__(self, counts: IntArray) -> None:
        self.popularity = torch.from_numpy(counts[1:] / (1.0 + counts[1:].sum()))
        self.catalog_size = len(self.popularity)

    @classmethod
    def fit(
        cls,
        items: IntArray,
        cu_seqlens: IntArray,
        catalog_size: int,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> "PersonalPopularity":
        """Count the events of packed sequences."""
        model = cls(np.bincount(items, minlength=catalog_size + 1))
        if progress:
            progress(len(cu_seqlens) - 1, len(cu_seqlens) - 1)
        return model

    def score_blocks(self, items: Items, cu_seqlens: CuSeqlens) -> Iterator[tuple[slice, Scores]]:
        """Yield the scores of a few packed sequences at a time: the rows, and float64 [rows, V]."""
        size, sequences = max(1, BLOCK_ELEMENTS // self.catalog_size), len(cu_seqlens) - 1
        for first in range(0, sequences, size):
            rows = slice(first, min(first + size, sequences))
            scores = self.popularity.repeat(rows.stop - rows.start, 1)
            seen = flat_score_index(items, cu_seqlens, rows, self.catalog_size).cpu()
            scores.view(-1).index_add_(0, seen, torch.ones(len(seen), dtype=scores.dtype))
            yield rows, scores
