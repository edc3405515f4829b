"""The added logits of a block of rows of `ops.cross_entropy`, compiled by numba.

The items of a prefix are found by a walk over its positions. PyTorch takes some thirty passes over all cells for the same.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ssd4rec.ops.cross_entropy import ALWAYS_COUNTED, SAFE_ADDED, AddedLogits
from ssd4rec.ops.numba.rows import flat_numbers
from ssd4rec.ops.numba.simd import number_at, put
from ssd4rec.ops.numba.vectors import FAST

FEATURES = 5  # 1, and for each cell log(1 + gap), log(count), log(1 + transitions), log popularity


class BlockLogits:
    """`ops.cross_entropy.BlockLogits` for scores in float32 or bfloat16; see there."""

    def __init__(self, added: AddedLogits, rows: slice, targets: Tensor, tile_width: int, classes: int) -> None:
        prefixes, coefficients = added.prefixes, added.coefficients[rows].detach()
        self.count, self.used = coefficients.shape
        start, end = prefixes.start[rows].numpy(), prefixes.end[rows].numpy()
        walk = prefixes.items.numpy(), prefixes.following.numpy(), start, end, tile_width
        self.edges = np.zeros(-(-classes // tile_width) + 1, np.int64)
        _count_cells(*walk, self.edges)
        cells = int(self.edges[-1])
        self.places, self.row = np.empty(cells, np.int64), np.empty(cells, np.int32)
        self.features, self.values = np.empty((cells, FEATURES - 1), np.float32), np.empty(cells, np.float32)
        self.target_cell = np.full(self.count, -1, np.int64)
        padded = np.zeros((self.count, FEATURES), np.float32)
        padded[:, : self.used] = coefficients.numpy()
        longest = int((end - start).max(initial=0)) + 2
        logarithms = np.log(np.arange(1, longest + 1)).astype(np.float32)
        arrays = self.places, self.row, self.features, self.values, self.target_cell
        occurrences = prefixes.count.numpy(), prefixes.order.numpy(), prefixes.place.numpy()
        transitions = np.zeros(classes + 1 if self.used > ALWAYS_COUNTED else 0, np.int64)  # of one row at a time
        popularity = np.zeros(classes + 1, np.float32) if added.log_popularity is None else added.log_popularity.float().numpy()
        inputs = classes, *occurrences, targets.numpy(), padded, logarithms, transitions, popularity, self.edges[:-1].copy()
        self.largest = _fill(*walk, *inputs, *arrays)

    def fits_unshifted(self) -> bool:
        """Whether a score that is safe stays so."""
        return bool(self.largest <= SAFE_ADDED)

    def add(self, scores: Tensor, tile: int) -> None:
        """Add the logits of one tile to the flat scores of the block, in place."""
        _add(flat_numbers(scores), self.places, self.values, self.edges[tile], self.edges[tile + 1])

    def of_targets(self) -> float:
        """Return the sum of the logits that were added to targets."""
        return float(self.values[self.target_cell[self.target_cell >= 0]].sum(dtype=np.float64))

    def gradient(self, weights: Tensor, total: Tensor) -> Tensor:
        """Return the gradient of the block's coefficients from the flat softmax weights and their sums [rows, 1]."""
        out = np.zeros((self.count, FEATURES), np.float32)
        cells = self.places, self.row, self.features, self.target_cell
        _gradient(flat_numbers(weights), total.numpy()[:, 0], *cells, out)
        return torch.from_numpy(out[:, : self.used])


@njit(**FAST)
def _count_cells(items, following, start, end, tile_width, edges):
    for row in range(len(start)):
        for position in range(start[row], end[row] + 1):
            if following[position] > end[row]:
                edges[(items[position] - 1) // tile_width + 1] += 1
    for tile in range(1, len(edges)):
        edges[tile] += edges[tile - 1]


@njit(**FAST)
def _fill(
    items, following, start, end, tile_width, classes, counts, order, place, targets, coefficients, logarithms, transitions,
    popularity, next_cell, places, rows, features, values, target_cell,
):  # fmt: skip
    count, largest = len(start), np.float32(0.0)
    for row in range(count):
        bias, by_gap, by_count, by_transitions, by_popularity = coefficients[row]
        earlier = counts[end[row]] - 1 if len(transitions) and items[end[row]] > 0 else 0  # occurrences of the last item
        for nth in range(1, earlier + 1):
            transitions[items[order[place[end[row]] - nth] + 1]] += 1
        for position in range(start[row], end[row] + 1):
            if following[position] <= end[row]:
                continue
            column = items[position] - 1
            tile = column // tile_width
            first = tile * tile_width
            width = min(first + tile_width, classes) - first
            cell = next_cell[tile]
            next_cell[tile] += 1
            gap, occurrences = logarithms[end[row] - position], logarithms[counts[position] - 1]
            after = logarithms[transitions[column + 1]] if earlier > 0 else np.float32(0.0)
            frequency = popularity[column + 1]
            value = bias + by_gap * gap + by_count * occurrences + by_transitions * after + by_popularity * frequency
            places[cell], rows[cell] = count * first + row * width + column - first, row
            features[cell, 0], features[cell, 1], features[cell, 2], features[cell, 3] = gap, occurrences, after, frequency
            values[cell] = value
            largest = max(largest, abs(value))
            if column == targets[row]:
                target_cell[row] = cell
        for nth in range(1, earlier + 1):
            transitions[items[order[place[end[row]] - nth] + 1]] = 0
    return largest


@njit(**FAST)
def _add(scores, places, values, first, last):
    for cell in range(first, last):
        put(scores, places[cell], number_at(scores, places[cell]) + values[cell])


@njit(**FAST)
def _gradient(weights, total, places, rows, features, target_cell, out):
    for cell in range(len(places)):
        row = rows[cell]
        error = number_at(weights, places[cell]) / total[row]
        if target_cell[row] == cell:
            error -= np.float32(1.0)
        out[row, 0] += error
        for feature in range(FEATURES - 1):
            out[row, feature + 1] += error * features[cell, feature]
