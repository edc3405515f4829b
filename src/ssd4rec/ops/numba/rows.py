"""Hand the rows of tensors to compiled kernels, and share them between threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens

G = TypeVar("G")
MOST, POSITIONS = 16, 512  # groups, and positions of one: sums over groups must not depend on the number of threads


def flat_rows(values: Tensor) -> tuple[npt.NDArray[np.float32], int]:
    """Return a matrix as one flat array and the distance between its rows; columns of a wider matrix are not copied."""
    if values.stride(1) != 1:
        values = values.contiguous()
    step, (length, width) = values.stride(0), values.shape
    flat: npt.NDArray[np.float32] = values.as_strided(((length - 1) * step + width,), (1,)).numpy()
    return flat, step


def flat_numbers(values: Tensor) -> npt.NDArray[np.float32] | npt.NDArray[np.uint16]:
    """Return all numbers of a contiguous tensor as one flat array; those of bfloat16 as uint16, which `simd.load` widens."""
    flat = values.view(-1)
    numbers: npt.NDArray[np.float32] | npt.NDArray[np.uint16]
    numbers = flat.view(torch.uint16).numpy() if values.dtype == torch.bfloat16 else flat.numpy()
    return numbers


def number_of_groups(positions: int) -> int:
    """Return the number of groups of a batch: small ones are not worth several calls."""
    return min(max(positions // POSITIONS, 1), MOST)


def sequence_groups(cu_seqlens: CuSeqlens) -> list[tuple[int, int]]:
    """Cut the sequences of a packed batch into runs of about equally many positions: (first, last + 1) of each."""
    groups = number_of_groups(int(cu_seqlens[-1]))
    targets = torch.linspace(0, float(cu_seqlens[-1]), groups + 1, dtype=torch.float64)[1:-1]
    edges = [0, *torch.searchsorted(cu_seqlens, targets.long()).tolist(), len(cu_seqlens) - 1]
    return [(first, last) for first, last in pairwise(edges) if first < last]


def for_groups(work: Callable[[G], object], groups: Sequence[G]) -> None:
    """Do the work for each group, with as many threads as PyTorch uses."""
    threads = min(torch.get_num_threads(), len(groups))
    if threads == 1:
        for group in groups:
            work(group)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, groups))


def row_groups(count: int, width: int) -> list[tuple[int, int]]:
    """Cut the numbers of rows into runs of about equal length: (first, last + 1) of each."""
    groups = number_of_groups(count)
    edges = [count * group // groups * width for group in range(groups + 1)]
    return [(first, last) for first, last in pairwise(edges) if first < last]
