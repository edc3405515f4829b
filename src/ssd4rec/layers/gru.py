"""torch's GRU over a packed row."""

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from ssd4rec.ops.segments import lay_out, sent
from ssd4rec.shapes import Boundaries, Channels, Hidden


class PackedGRU(nn.Module):
    """`nn.GRU` that reads each history from its beginning, without padding.

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

    def forward(self, row: Hidden, boundaries: Boundaries) -> Channels:
        """[T, width] -> [T, hidden]: the state after each event. Boundaries may stay on the CPU."""
        # torch wants all first events, then all second ones, the longest history first:
        # boundaries [0, 1, 4] -> order [1, 0, 2, 3], 2 + 1 + 1 events a step
        layout = lay_out(boundaries.cpu())
        lengths = layout.boundaries.diff()
        seat = lengths.argsort(descending=True, stable=True).argsort()
        order = (layout.place * len(lengths) + seat[layout.history]).argsort()
        states, _ = self.gru(PackedSequence(row[sent(order, row.device)], torch.bincount(layout.place)))
        found: Channels = states.data[sent(order.argsort(), row.device)]
        return found
