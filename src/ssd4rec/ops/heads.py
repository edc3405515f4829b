"""Scale and sum heads that are stored side by side as the E = H * P columns of one matrix."""

import torch
from torch import Tensor


def scale_heads(values: Tensor, factor: Tensor) -> Tensor:
    """Multiply the P columns of each head by its factor. [..., E] * [..., H] -> [..., E]."""
    return (values.unflatten(-1, (factor.shape[-1], -1)) * factor[..., None]).flatten(-2)


def scale_heads_to(out: Tensor, values: Tensor, factor: Tensor) -> None:
    """Write `scale_heads` to memory of the size of values."""
    heads = factor.shape[-1]
    torch.mul(values.unflatten(-1, (heads, -1)), factor[..., None], out=out.unflatten(-1, (heads, -1)))


def scale_heads_(values: Tensor, factor: Tensor) -> Tensor:
    """Apply `scale_heads` in place."""
    values.unflatten(-1, (factor.shape[-1], -1)).mul_(factor[..., None])
    return values


def add_scaled_heads_(total: Tensor, values: Tensor, factor: Tensor) -> None:
    """Compute total += scale_heads(values, factor) in one pass."""
    heads = factor.shape[-1]
    total.unflatten(-1, (heads, -1)).addcmul_(values.unflatten(-1, (heads, -1)), factor[..., None])


def sum_heads(values: Tensor, heads: int) -> Tensor:
    """Sum the P columns of each head. [..., E] -> [..., H]."""
    return values.unflatten(-1, (heads, -1)).sum(-1)
