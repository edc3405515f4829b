"""torch's GRU over a packed row."""

from typing import cast

import torch
from torch import Tensor, nn

from ssd4rec.array_types import Channels, Hidden
from ssd4rec.ops.attention import Tables


class PackedGRU(nn.Module):
    """`nn.GRU` that reads each history from its beginning.

    Sequences of like length are read side by side, with padding behind the shorter ones. A `PackedSequence` needs no padding, but
    on a CPU each of its steps makes a gradient of the whole row, so that its price is the square of the length (docs/log.md).

    Args:
        width: of what is read.
        hidden: of the state.
        layers: on top of each other.
        dropout: between them.
        bias: whether the gates have one.
    """

    def __init__(self, width: int, hidden: int, layers: int = 1, dropout: float = 0.0, *, bias: bool = True) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, layers, dropout=dropout if layers > 1 else 0.0, bias=bias)

    def forward(self, row: Hidden, tables: Tables) -> Channels:
        """[T, width] -> [T, hidden]: the state after each event."""
        padded = torch.cat([row, row.new_zeros(1, row.shape[1])])
        states = [self.gru(padded[cells.T])[0].transpose(0, 1).flatten(0, 1) for cells in tables.cells]
        found: Channels = torch.cat(states)[tables.cell]
        return found

    def step(self, row: Hidden, states: Channels) -> Channels:
        """One more event after each state, of a network of one layer. [T, width], [T, hidden] -> [T, hidden]."""
        weights = cast("list[Tensor]", self.gru.all_weights[0])  # of the input, of the state, and the biases if there are some
        new: Channels = torch.gru_cell(row, states, *weights)
        return new
