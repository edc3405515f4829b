"""The Bi-SSD layer: mixer, residual, LayerNorm, feed-forward network."""

from torch import nn

from ssd4rec.array_types import Hidden, States
from ssd4rec.config.backbones import BiSSDSizes
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.feed_forward import FeedForward
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops.segments import Layout


class BiSSDLayer(nn.Module):
    """H1 = Dropout(LayerNorm(F + beta K + H)); H2 = FeedForward(H1), which has its own residual, LayerNorm and dropout.

    Without `feed_forward`, an ablation, H2 = H1.

    Args:
        config: sizes and beta.
        bidirectional: whether this layer reads both ways; if not, K is left out.

    Source: the paper's Bi-SSD layer, restated in docs/paper-map.md, "The model", 3.
    """

    def __init__(self, config: BiSSDSizes, *, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.mixer = Mamba2Mixer(config)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = Dropout(config.dropout)
        self.feed_forward = FeedForward(config.width, config.dropout) if config.feed_forward else nn.Identity()

    def forward(self, hidden: Hidden, layout: Layout) -> Hidden:
        """Every position of the row, with both directions over the whole history. [T, D] -> [T, D]."""
        mixed = self.mixer.both_ways(hidden, layout) if self.bidirectional else self.mixer(hidden, layout)
        return self.finish(mixed, hidden)

    def all_prefixes(self, hidden: Hidden, layout: Layout) -> Hidden:
        """Row t: what `read_out` gives for the prefix that ends at position t. [T, D] -> [T, D]."""
        mixed = self.mixer.all_prefixes(hidden, layout) if self.bidirectional else self.mixer(hidden, layout)
        return self.finish(mixed, hidden)

    def read_out(self, hidden: Hidden, layout: Layout) -> States:
        """The last position of each history. [T, D] -> [B, D]."""
        mixed = self.mixer.read_out(hidden, layout, bidirectional=self.bidirectional)
        return self.finish(mixed, hidden[layout.read_out])

    def finish(self, mixed: Hidden, hidden: Hidden) -> Hidden:
        """What follows the mixer, position by position: residual, LayerNorm, feed-forward network."""
        out: Hidden = self.feed_forward(self.dropout(self.norm(mixed + hidden)))
        return out
