"""Caser: convolutions over the last few interactions, treated as an image of positions by channels."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.config.backbones import BackboneSettings
from ssd4rec.layers.dropout import Dropout
from ssd4rec.ops.segments import check_cu_seqlens, to_device

MAX_FILTERS = 1024


class CaserConfig(BackboneSettings):
    """Settings of Caser."""

    name: Literal["caser"] = "caser"
    """Name of the model."""
    window: int = Field(5, ge=1, le=MAX_FILTERS)
    """Number of events read (L in the paper)."""
    horizontal: int = Field(16, ge=1, le=MAX_FILTERS)
    """Number of horizontal filters of each height from 1 to window."""
    vertical: int = Field(4, ge=1, le=MAX_FILTERS)
    """Number of vertical filters."""


class Caser(nn.Module):
    """Horizontal filters of every height with max-pooling and vertical filters over a window, then two linear layers.

    Each sequence is preceded by `window - 1` zero vectors, so short prefixes have a full window and no filter crosses from one
    sequence to the next. All prefixes share one convolution over the packed batch.

    Differences from the original: no user embedding (new users have none; this is the largest loss), so nothing is concatenated
    before the second linear layer; item embeddings shared with a softmax over the whole catalog, in place of a separate output
    table with item biases and sampled negatives; one target per window in place of the next few; no weight decay by default.

    Source: Tang and Wang 2018, arXiv 1809.07426.
    """

    settings_class: ClassVar[type[BackboneSettings]] = CaserConfig

    def __init__(self, config: CaserConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        window, width = config.window, config.width
        self.horizontal = nn.ModuleList(nn.Conv1d(width, config.horizontal, height) for height in range(1, window + 1))
        self.vertical = nn.Conv1d(1, config.vertical, window)  # shared by the D channels
        self.dropout = Dropout(config.dropout)
        self.mix = nn.Linear(config.vertical * width + config.horizontal * window, width)
        self.out = nn.Linear(width, width)

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """Encode the last `window` interactions of each sequence. [T, D] -> [B, D]."""
        return self.encode_prefixes(embedded, cu_seqlens)[to_device(cu_seqlens[1:] - 1, embedded.device)]

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode every prefix. [T, D] -> [T, D]."""
        check_cu_seqlens(cu_seqlens)
        window, length = self.config.window, embedded.shape[0]
        # cu_seqlens [0, 2, 3] with a window of 3 -> [0 0 a b 0 0 c]: a window that ends at an item contains no other sequence.
        seq_idx = torch.repeat_interleave(cu_seqlens.diff(), output_size=length)
        ends = to_device(torch.arange(length, device=cu_seqlens.device) + (seq_idx + 1) * (window - 1), embedded.device)
        padded = embedded.new_zeros(length + (len(cu_seqlens) - 1) * (window - 1), self.width).index_copy(0, ends, embedded)
        image = padded.T[None]  # [1, D, positions]
        starts = ends - (window - 1)
        filtered = [torch.relu(filters(image)) for filters in self.horizontal]
        pooled = [F.max_pool1d(each, window - height, stride=1)[0] for height, each in enumerate(filtered)]
        horizontal = torch.cat(pooled).T[starts]  # [T, horizontal * window]
        vertical = self.vertical(padded.T[:, None]).flatten(0, 1).T[starts]  # [T, D * vertical]
        return self.out(torch.relu(self.mix(self.dropout(torch.cat([vertical, horizontal], dim=1)))))
