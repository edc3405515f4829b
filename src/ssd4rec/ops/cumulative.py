"""Cumulative sums along each sequence of a packed batch, in either direction."""

from functools import partial

import torch
from torch import Tensor

from ssd4rec.ops.gather import linear_map
from ssd4rec.ops.segments import Chunks, Layout, add_rows_


def cumulative_sum(values: Tensor, layout: Layout, *, reverse: bool = False, inclusive: bool = True) -> Tensor:
    """Sum values from the first position of each sequence up to each position. [T, width] -> [T, width].

    Chunks of Q positions are summed by a product with a masked matrix of ones. With `reverse` the sum is from the last position
    down; if not `inclusive` it leaves out the position itself. No sum is computed as the difference of two longer sums, which
    would lose the digits of a small sum next to a large one.
    """
    sums = partial(cumulative_sum_no_grad, chunks=layout.chunks, inclusive=inclusive)
    with torch.autocast(values.device.type, enabled=False):
        return linear_map(values, partial(sums, reverse=reverse), partial(sums, reverse=not reverse))


def cumulative_sum_no_grad(values: Tensor, chunks: Chunks, *, reverse: bool, inclusive: bool = True) -> Tensor:
    """Compute `cumulative_sum` without autograd, for functions with their own backward pass."""
    length, Q = values.shape[0], chunks.size
    seq_idx = chunks.seq_idx
    same_sequence = (seq_idx[:, :, None] == seq_idx[:, None, :]).to(values.dtype)
    diagonal = 0 if inclusive else 1
    chunked = chunks.pad(values).view(-1, Q, values.shape[1])
    sums = (same_sequence.triu(diagonal) if reverse else same_sequence.tril(-diagonal)) @ chunked
    source, target = chunks.source_and_target(reverse=reverse)
    exit_ = chunks.exit(reverse=reverse)
    # The sum that enters each chunk. The clone matters when source is a slice, whose result is a view.
    entering = sums[source, exit_].clone() if inclusive else sums[source, exit_] + chunked[source, exit_]
    for level, previous in chunks.dependencies(reverse=reverse):
        entering[level] += entering[previous]
    continues = seq_idx[target] == seq_idx[source, exit_][:, None]
    add_rows_(sums, target, entering[:, None] * continues[..., None])
    return sums.view(-1, values.shape[1])[:length]
