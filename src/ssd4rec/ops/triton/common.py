"""Helpers shared by the kernels and by the functions that launch them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

NO_POSITION = tl.constexpr(-1)  # loaded out of bounds


@triton.jit
def load_positions(seq_starts, seq_ends, block, T, Q: tl.constexpr):
    """Return (rows, first and last position of each row's sequence), each [Q] int64; out of bounds 0 and -1, an empty one."""
    rows = block.to(tl.int64) * Q + tl.arange(0, Q)
    first = tl.load(seq_starts + rows, mask=rows < T, other=0)
    last = tl.load(seq_ends + rows, mask=rows < T, other=NO_POSITION)
    return rows, first, last


@triton.jit
def head_tile(H, HG: tl.constexpr, P: tl.constexpr):
    """Return (row block, tile, its heads [HG], its columns [HG * P]) of a program that computes HG heads of P columns."""
    tiles = tl.cdiv(H, HG)
    tile = tl.program_id(0) % tiles
    return tl.program_id(0) // tiles, tile, tile * HG + tl.arange(0, HG), tile * HG * P + tl.arange(0, HG * P)


@triton.jit
def expand_heads(head_values, Q: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """[Q, HG] -> [Q, HG * P]: repeat the factor of each head for its columns."""
    return tl.reshape(tl.broadcast_to(head_values[:, :, None], (Q, HG, P)), (Q, HG * P))


@triton.jit
def sum_heads(column_values, Q: tl.constexpr, HG: tl.constexpr, P: tl.constexpr):
    """[Q, HG * P] -> [Q, HG]: sum the columns of each head."""
    return tl.sum(tl.reshape(column_values, (Q, HG, P)), axis=2)


def contiguous_rows(values: Tensor) -> Tensor:
    """Return a matrix whose rows are contiguous; the rows themselves may be strided, like slices of one projection."""
    return values if values.stride(1) == 1 else values.contiguous()


def precision() -> str:
    """Return the precision of float32 products that matches torch's setting; tf32x3 splits float32 into three tf32 parts."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter: TRITON_INTERPRET=1 was set when they were decorated."""
    return not isinstance(load_positions, triton.JITFunction)
