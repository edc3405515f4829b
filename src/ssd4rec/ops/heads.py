"""All heads side by side as the E columns of one matrix, and one number a head that meets its P columns."""

from torch import Tensor


def by_head(values: Tensor, factor: Tensor) -> Tensor:
    """[..., E] * [..., H]: a head's factor multiplies its P columns."""
    scaled: Tensor = (values.unflatten(-1, (factor.shape[-1], -1)) * factor[..., None]).flatten(-2)
    return scaled


def scale_(values: Tensor, factor: Tensor) -> Tensor:
    """`by_head` in place."""
    values.unflatten(-1, (factor.shape[-1], -1)).mul_(factor[..., None])
    return values


def add_by_head_(total: Tensor, values: Tensor, factor: Tensor) -> None:
    """total += by_head(values, factor), in one go."""
    heads = factor.shape[-1]
    total.unflatten(-1, (heads, -1)).addcmul_(values.unflatten(-1, (heads, -1)), factor[..., None])


def sum_of_head(values: Tensor, heads: int) -> Tensor:
    """[..., E] -> [..., H]: each head's P columns summed."""
    total: Tensor = values.unflatten(-1, (heads, -1)).sum(-1)
    return total
