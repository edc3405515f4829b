"""Options of all kernels, and loops over rows of any width, which LLVM turns into vector instructions.

Everything here is compiled by numba into the kernels of this package; float32 only.
"""

from typing import Any

import numpy as np
from numba import njit

ALLOCATING: Any = {"error_model": "numpy", "cache": True, "nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
# Without reference counts a slice is a pointer and a length. With them, taking one costs as much as a loop over 64 numbers.
# Functions that allocate memory need them: those get ALLOCATING, and leave the loops to functions with FAST.
FAST: Any = {**ALLOCATING, "_nrt": False}

ZERO, ONE, HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)


@njit(**FAST)
def copy_to(out, x):
    """Set out = x."""
    for j in range(out.shape[0]):
        out[j] = x[j]


@njit(**FAST)
def dot(x, y):
    """Return the sum of x y."""
    total = np.float32(0.0)
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total
