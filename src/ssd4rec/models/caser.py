"""Caser: convolutions over the last few events as over an image of events by channels."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden, States
from ssd4rec.config.backbones import BackboneSettings
from ssd4rec.layers.dropout import Dropout
from ssd4rec.ops.segments import check, to_device

MAX_FILTERS = 1024


class CaserConfig(BackboneSettings):
    """Settings of Caser."""

    name: Literal["caser"] = "caser"
    window: int = Field(5, ge=1, le=MAX_FILTERS)  # events that are read: L in its paper
    horizontal: int = Field(16, ge=1, le=MAX_FILTERS)  # filters of each height 1 … window
    vertical: int = Field(4, ge=1, le=MAX_FILTERS)  # filters along a channel


class Caser(nn.Module):
    """The last `window` events: horizontal filters of every height with max-pooling, vertical filters, two linear layers.

    In front of a history's first event lie vectors of zeros, `window - 1` of them, so the first prefixes are read too and no
    filter reaches over a boundary. All prefixes share one convolution along the row.

    Differences from the original: no user embedding, for a user who was not trained on has none (it is the one large loss), so
    nothing is joined to the first linear layer's output before the second; item vectors shared with the softmax, over the whole
    catalog, in place of a separate output table with a bias for each item and sampled negatives; one target a window in place
    of the next few; no weight decay unless it is set.

    Source: Tang and Wang 2018, arXiv 1809.07426.
    """

    settings_class = CaserConfig

    def __init__(self, config: CaserConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        window, width = config.window, config.width
        self.horizontal = nn.ModuleList(nn.Conv1d(width, config.horizontal, height) for height in range(1, window + 1))
        self.vertical = nn.Conv1d(1, config.vertical, window)  # the same for each of the D channels
        self.dropout = Dropout(config.dropout)
        self.mix = nn.Linear(config.vertical * width + config.horizontal * window, width)
        self.out = nn.Linear(width, width)

    def encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> States:
        """What the model knows at the end of each history, from its last `window` events. [T, D] -> [B, D].

        Raises:
            ShapeError: cu_seqlens do not rise from 0.
        """
        states: States = self.encode_prefixes(embedded, cu_seqlens)[to_device(cu_seqlens[1:] - 1, embedded.device)]
        return states

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """What the model knows at the end of every prefix. [T, D] -> [T, D].

        Raises:
            ShapeError: cu_seqlens do not rise from 0.
        """
        check(cu_seqlens)
        window, length = self.config.window, embedded.shape[0]
        # cu_seqlens [0, 2, 3] in windows of 3 -> [0 0 a b 0 0 c]: a window that ends at an event of the row holds nothing else's
        history = torch.repeat_interleave(cu_seqlens.diff(), output_size=length)
        ends = to_device(torch.arange(length, device=cu_seqlens.device) + (history + 1) * (window - 1), embedded.device)
        row = embedded.new_zeros(length + (len(cu_seqlens) - 1) * (window - 1), self.width).index_copy(0, ends, embedded)
        image = row.T[None]  # [1, D, places]
        at = ends - (window - 1)  # the window that ends there begins here
        filtered = [torch.relu(filters(image)) for filters in self.horizontal]
        heights = [F.max_pool1d(each, window - height, stride=1)[0] for height, each in enumerate(filtered)]
        across = torch.cat(heights).T[at]  # [T, horizontal * window]
        along = self.vertical(row.T[:, None]).flatten(0, 1).T[at]  # [T, D * vertical]
        found: Hidden = self.out(torch.relu(self.mix(self.dropout(torch.cat([along, across], dim=1)))))
        return found
