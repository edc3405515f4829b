"""Depthwise causal convolution inside each history, then SiLU."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.ops.segments import Layout
from ssd4rec.shapes import Channels


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """out_t = SiLU(bias + sum_k weight[K-1-k] in_{t-k}), over the events t-k of the same history.

    Args:
        channels: [T, channels].
        weight: [channels, K], the last column meets the event itself.
        bias: [channels].
        layout: of the row.
        reverse: read t+k in place of t-k, as if each history ran backwards.
    """
    return F.silu(taps(channels, weight, bias, layout, reverse=reverse)[-1])


def taps(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> list[Channels]:
    """The convolution before its SiLU, as it builds up: entry k has read the event itself and k neighbours.

    Reversed, entry k is what event s receives in a prefix that ends at event s+k (`ops/prefixes.py`).
    """
    width = weight.shape[1]
    partial = [torch.addcmul(bias, channels, weight[:, width - 1])]
    length = channels.shape[0]
    for k in range(1, width):
        if k >= length:
            partial.append(partial[-1])
            continue
        if reverse:
            inside = (layout.last[:-k] - layout.first[:-k] - layout.place[:-k]) >= k
            reached = torch.cat([channels[k:] * inside[:, None], channels.new_zeros(k, channels.shape[1])])
        else:
            inside = layout.place[k:] >= k
            reached = torch.cat([channels.new_zeros(k, channels.shape[1]), channels[:-k] * inside[:, None]])
        partial.append(torch.addcmul(partial[-1], reached, weight[:, width - 1 - k]))
    return partial
