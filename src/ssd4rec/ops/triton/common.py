"""What several kernels, or those who start them, share."""
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-untyped-def, unused-ignore"
# ruff: noqa: ANN001, ANN201 - kernels: pointers and constexprs carry no types that Python knows

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

NO_EVENT = tl.constexpr(-1)  # where a row's end is passed: the place of no event


@triton.jit
@no_type_check
def places_of(first, last, block, T, Q: tl.constexpr):
    """(rows, where the history of each begins, where it ends), each [Q] int64; past the row's end 0 and -1: an empty history."""
    rows = block.to(tl.int64) * Q + tl.arange(0, Q)
    begins = tl.load(first + rows, mask=rows < T, other=0)
    ends = tl.load(last + rows, mask=rows < T, other=NO_EVENT)
    return rows, begins, ends


def rows_together(values: Tensor) -> Tensor:
    """A matrix of which each row lies in one piece; rows may lie apart, as the columns of one projection do."""
    return values if values.stride(1) == 1 else values.contiguous()


def precision() -> str:
    """How float32 operands are rounded: as torch rounds its own; tf32x3 keeps float32 in three parts, on tensor cores."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def interpreted() -> bool:
    """Do kernels run in Triton's interpreter? Decided when they are decorated: TRITON_INTERPRET=1 was set before."""
    return not isinstance(places_of, triton.JITFunction)
