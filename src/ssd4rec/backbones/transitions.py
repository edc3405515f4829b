"""What came soon after what: the baseline that counts where models learn."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from ssd4rec.shapes import Boundaries, Items, Scores

Numbers = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]

REACH = 7  # events apart, at most, of two items that are counted as a pair
READ = 10  # last events of a history that are looked up
FADE = 0.7  # an event further apart, or further back, counts so much less
BACKWARDS = 0.5  # what a pair counts for the item that came first
POPULARITY_POWER = 0.2  # of the events of either item, that its pairs are divided by
BLOCK_ELEMENTS = 1 << 21  # scores held at once


class Transitions:
    """Scores an item by how often it came soon after, or before, the last items of the history.

        score(j) = sum over the last READ events i, k events back, of FADE^k S[i, j]
        S[i, j]  = (A[i, j] + BACKWARDS A[j, i]) / (n_i n_j)^POPULARITY_POWER        n_i = 1 + training events of i
        A[i, j]  = sum of FADE^(d - 1) over training events i that j follows d events later, d <= REACH

    Nothing is learnt. The five numbers were chosen by hand by validation NDCG@10 on Amazon Beauty (docs/log.md).

    Args:
        items: int64 [T] the training part, packed.
        boundaries: int64 [B + 1] of its histories.
        catalogue_size: V.

    Source: sequential rules (Kamehkhosh, Jannach and Ludewig 2017), read from several items with fading weights
    (Garg et al. 2019, "Sequence and Time Aware Neighborhood"), pairs counted in both directions.
    """

    def __init__(self, items: Numbers, boundaries: Numbers, catalogue_size: int) -> None:
        self.catalogue_size = catalogue_size
        history = np.repeat(np.arange(len(boundaries) - 1), np.diff(boundaries))
        keys: Numbers = np.zeros(0, dtype=np.int64)
        weights: Weights = np.zeros(0)
        for apart in range(1, REACH + 1):
            together = history[apart:] == history[:-apart]
            earlier, later = items[:-apart][together] - 1, items[apart:][together] - 1
            weight = np.full(len(earlier), FADE ** (apart - 1))
            keys, place = np.unique(
                np.concatenate([keys, earlier * catalogue_size + later, later * catalogue_size + earlier]), return_inverse=True
            )
            added = np.concatenate([weights, weight, BACKWARDS * weight])
            weights = np.bincount(place, added, minlength=len(keys)).astype(np.float64)
        row, self._column = keys // catalogue_size, keys % catalogue_size
        events = (1.0 + np.bincount(items - 1, minlength=catalogue_size)) ** -POPULARITY_POWER
        self._weight = weights * events[row] * events[self._column]
        self._edges = np.searchsorted(row, np.arange(catalogue_size + 1))

    def score_blocks(self, items: Items, boundaries: Boundaries) -> Iterator[tuple[slice, Scores]]:
        """The scores of a few histories at a time.

        Args:
            items: int64 [T] packed histories.
            boundaries: int64 [B + 1].

        Yields:
            Which histories, and their scores, float64 [rows, V]; 0 where nothing is known.
        """
        edges, read = boundaries.cpu().numpy(), items.cpu().numpy()
        size = max(1, BLOCK_ELEMENTS // self.catalogue_size)
        for first in range(0, len(edges) - 1, size):
            rows = slice(first, min(first + size, len(edges) - 1))
            yield rows, self._scores(read, edges[rows.start : rows.stop + 1])

    def _scores(self, items: Numbers, edges: Numbers) -> Scores:
        histories = len(edges) - 1
        scores = np.zeros(histories * self.catalogue_size)
        for back in range(READ):
            place = edges[1:] - 1 - back
            there = np.flatnonzero(place >= edges[:-1])
            there = there[items[place[there]] > 0]
            item = items[place[there]] - 1
            found = self._edges[item + 1] - self._edges[item]
            before = np.cumsum(found) - found
            entry = np.arange(found.sum()) + np.repeat(self._edges[item] - before, found)
            cell = np.repeat(there, found) * self.catalogue_size + self._column[entry]
            scores[cell] += FADE**back * self._weight[entry]  # no cell twice: a history has one event in each place
        return torch.from_numpy(scores).view(histories, self.catalogue_size)
