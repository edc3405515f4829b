"""Sums along each history of a packed row, from its first event on or from its last."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd4rec.ops.segments import Chunks, Layout, add_at_, beside


def cumulative_sum(values: Tensor, layout: Layout, *, reverse: bool = False, inclusive: bool = True) -> Tensor:
    """[T, width] -> [T, width]: sums from each history's first event up to position t (reversed: from its last).

    Chunks of Q positions are summed by a product with a matrix of ones, so that no history's sum is the difference of two
    longer sums.

    Args:
        values: [T, width].
        layout: of the row.
        reverse: sum from the last event down.
        inclusive: with position t itself. The sum without it is not the other one less values[t], which would lose the digits
            of a small sum before a large value.
    """
    with torch.autocast(values.device.type, enabled=False):
        total: Tensor = _CumulativeSum.apply(values, layout.chunks, reverse, inclusive)  # type: ignore[no-untyped-call]  # torch has no types here
    return total


def cumulate(values: Tensor, chunks: Chunks, *, reverse: bool, inclusive: bool = True) -> Tensor:
    """`cumulative_sum` without a gradient, for what works its own out."""
    length, Q = values.shape[0], chunks.length
    history = chunks.history
    same = (history[:, :, None] == history[:, None, :]).to(values.dtype)
    skipped = 0 if inclusive else 1
    shaped = chunks.padded(values).view(-1, Q, values.shape[1])
    sums = (same.triu(skipped) if reverse else same.tril(-skipped)) @ shaped
    source, target = chunks.ends(reverse=reverse)
    exit_ = 0 if reverse else Q - 1
    carry = sums[source, exit_].clone() if inclusive else sums[source, exit_] + shaped[source, exit_]  # with slices a view
    for links in chunks.relays_back if reverse else chunks.relays:
        carry[links] += carry[beside(links, 1 if reverse else -1)]
    reached = history[target] == history[source, exit_][:, None]
    add_at_(sums, target, carry[:, None] * reached[..., None])
    return sums.view(-1, values.shape[1])[:length]


class _CumulativeSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, chunks: Chunks, reverse: bool, inclusive: bool) -> Tensor:  # noqa: FBT001 - apply takes no keywords
        ctx.chunks, ctx.reverse, ctx.inclusive = chunks, reverse, inclusive
        return cumulate(values, chunks, reverse=reverse, inclusive=inclusive)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return cumulate(grad, ctx.chunks, reverse=not ctx.reverse, inclusive=ctx.inclusive), None, None, None
