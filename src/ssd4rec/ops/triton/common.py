"""What several kernels, or those who start them, share."""
# mypy: disable-error-code="import-not-found, import-untyped, unused-ignore"

import torch
import triton.language as tl
from torch import Tensor

NO_EVENT = tl.constexpr(-1)  # where a row's end is passed: the place of no event


def rows_together(values: Tensor) -> Tensor:
    """A matrix of which each row lies in one piece; rows may lie apart, as the columns of one projection do."""
    return values if values.stride(1) == 1 else values.contiguous()


def precision() -> str:
    """How float32 operands are rounded: as torch rounds its own; tf32x3 keeps float32 in three parts, on tensor cores."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
