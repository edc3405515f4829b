"""GRU4Rec: a gated recurrent network over the whole history."""

from torch import nn

from ssd4rec.config import GRU4RecConfig
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.gru import PackedGRU
from ssd4rec.ops.segments import sent
from ssd4rec.shapes import Boundaries, Hidden, States


class GRU4Rec(nn.Module):
    """Dropout, GRU of the width `hidden`, and a linear map back to D.

    It reads histories whole and one event after the other, so a pass takes as many steps as the longest history of a batch has
    events. One pass trains every prefix exactly.

    Differences from the original: softmax over the whole catalogue in place of BPR or TOP1 on the other items of a batch; item
    vectors in place of one-hot input, shared with the softmax; each history starts afresh. It is the network that RecBole has,
    but for biases in the gates.

    Source: Hidasi, Karatzoglou, Baltrunas and Tikk 2016, arXiv 1511.06939; Tan, Xu and Liu 2016, arXiv 1606.08117.
    """

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.dropout = Dropout(config.dropout)
        self.gru = PackedGRU(config.width, config.hidden, config.layers, config.dropout)
        self.out = nn.Linear(config.hidden, config.width)

    def encode(self, embedded: Hidden, boundaries: Boundaries) -> States:
        """What the model knows at the end of each history. [T, D] -> [B, D].

        Raises:
            ShapeError: boundaries do not rise from 0.
        """
        states: States = self.encode_prefixes(embedded, boundaries)[sent(boundaries[1:] - 1, embedded.device)]
        return states

    def encode_prefixes(self, embedded: Hidden, boundaries: Boundaries) -> Hidden:
        """What the model knows at the end of every prefix. [T, D] -> [T, D].

        Raises:
            ShapeError: boundaries do not rise from 0.
        """
        found: Hidden = self.out(self.gru(self.dropout(embedded), boundaries))
        return found
