"""`ops.cross_entropy.exp_and_sum_` in one pass, compiled by numba."""

import torch
from numba import njit
from torch import Tensor

from ssd4rec.ops import cross_entropy
from ssd4rec.ops.numba.rows import flat_numbers
from ssd4rec.ops.numba.simd import LANES, exp, filled, load, store
from ssd4rec.ops.numba.simd import total as total_of
from ssd4rec.ops.numba.vectors import FAST, ZERO

MOST_THREADS = 4  # one thread runs the kernel, which is three times as fast as a thread of PyTorch


def exp_and_sum_(scores: Tensor, total: Tensor) -> None:
    """Replace float32 or bfloat16 scores [rows, n] by their exponentials, and add the sums of the rows to total [rows, 1]."""
    rest = scores.shape[1] % LANES
    if torch.get_num_threads() > MOST_THREADS:
        rest = scores.shape[1]
    else:
        _exp_and_sum_(flat_numbers(scores), total.view(-1).numpy(), scores.shape[1], rest)
    if rest:
        cross_entropy.exp_and_sum_(scores[:, -rest:], total)


@njit(**FAST)
def _exp_and_sum_(scores, total, width, rest):
    """Treat all but the last `rest` numbers of each row."""
    for row in range(len(total)):
        sums = filled(ZERO)
        for j in range(row * width, (row + 1) * width - rest, LANES):
            store(scores, j, exp(load(scores, j)))
            sums = sums + load(scores, j)  # as stored: what is rounded must sum to 1
        total[row] += total_of(sums)
