"""Loops over the channels of one position, which LLVM turns into vector instructions.

Everything here is compiled by numba into the kernels of this package; float32 only.
"""

from typing import Any

import numpy as np
from numba import njit

ALLOCATING: Any = {"error_model": "numpy", "cache": True, "nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
# Without reference counts a slice is a pointer and a length. With them, taking one costs as much as a loop over 64 numbers.
# Functions that allocate memory need them: those get ALLOCATING, and leave the loops to functions with FAST.
FAST: Any = {**ALLOCATING, "_nrt": False}

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
SMALLEST, LARGEST = np.float32(-87.0), np.float32(88.0)
ZERO, ONE, HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)
# exp(r) = 1 + r + r^2 (C0 r^4 + … + C5) for |r| <= ln(2) / 2; Cephes, `expf`
C0, C1, C2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
C3, C4, C5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


@njit(**FAST)
def exp(x):
    """Return e to the power of x, to about one unit in the last place; below -87 and above 88, of the nearer end."""
    clamped = min(max(x, SMALLEST), LARGEST)
    n = np.floor(clamped * LOG2_E + HALF)
    r = clamped - n * LN2_HIGH - n * LN2_LOW
    poly = ((((C0 * r + C1) * r + C2) * r + C3) * r + C4) * r + C5
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (poly * (r * r) + r + ONE) * power


@njit(**FAST)
def sigmoid(x):
    """Return 1 / (1 + exp(-x))."""
    return ONE / (ONE + exp(-x))


@njit(**FAST)
def copy_to(out, x):
    """Set out = x."""
    for j in range(out.shape[0]):
        out[j] = x[j]


@njit(**FAST)
def add_product_(out, x, factor):
    """Add x factor, with vectors."""
    for j in range(out.shape[0]):
        out[j] += x[j] * factor[j]


@njit(**FAST)
def dot(x, y):
    """Return the sum of x y."""
    total = np.float32(0.0)
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total
