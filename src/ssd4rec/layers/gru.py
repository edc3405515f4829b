"""A GRU over a packed batch."""

from typing import cast

import torch
from torch import Tensor, nn

from ssd4rec.array_types import Channels, Hidden
from ssd4rec.ops.attention import LengthBuckets


class PackedGRU(nn.Module):
    """`nn.GRU` applied to each sequence of a packed batch from a zero state, with dropout between its layers.

    Sequences of similar length are padded on the right and processed together. torch's `PackedSequence` needs no padding, but on
    a CPU each of its steps allocates a gradient of the whole batch, so its cost is quadratic in the length.
    """

    def __init__(self, width: int, hidden: int, layers: int = 1, dropout: float = 0.0, *, bias: bool = True) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, layers, dropout=dropout if layers > 1 else 0.0, bias=bias)

    def forward(self, values: Hidden, buckets: LengthBuckets) -> Channels:
        """Return the state after each position. [T, width] -> [T, hidden]."""
        padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
        states = [self.gru(padded[table.T])[0].transpose(0, 1).flatten(0, 1) for table in buckets.tables]
        return torch.cat(states)[buckets.slot]

    def step(self, values: Hidden, states: Channels) -> Channels:
        """Advance each state by one position, in a single-layer GRU. [T, width], [T, hidden] -> [T, hidden]."""
        weights = cast("list[Tensor]", self.gru.all_weights[0])  # input weight, state weight, and the biases if there are any
        return torch.gru_cell(values, states, *weights)
