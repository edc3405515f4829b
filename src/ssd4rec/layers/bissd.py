"""The Bi-SSD layer: mixer, residual, LayerNorm, feed-forward network."""

from torch import nn

from ssd4rec.array_types import Hidden, States
from ssd4rec.config.backbones import BiSSDSizes
from ssd4rec.layers.dropout import Dropout
from ssd4rec.layers.feed_forward import FeedForward
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops import keyed_random
from ssd4rec.ops.segments import Layout


class BiSSDLayer(nn.Module):
    """H1 = Dropout(LayerNorm(F + beta K + H)) and H2 = FeedForward(H1), with F and K the forward and backward mixer output.

    With `norm_first` the mixer reads LayerNorm(H) in place of H, and H1 = H + Dropout(F + beta K): dropout is on the branches
    alone, and the last linear map of each branch starts at zero, so that a fresh layer changes nothing.

    Without `feed_forward`, an ablation, H2 = H1.

    Args:
        config: sizes and beta.
        bidirectional: whether to add the backward direction K.

    Source: the Bi-SSD layer of the paper, restated in docs/paper-map.md, "The model", 3.
    """

    def __init__(self, config: BiSSDSizes, *, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional, self.norm_first = bidirectional, config.norm_first
        self.mixer = Mamba2Mixer(config)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = Dropout(config.dropout)
        self.feed_forward: nn.Module = nn.Identity()
        if config.feed_forward:
            self.feed_forward = FeedForward(config.width, config.dropout, norm_first=config.norm_first)

    def forward(self, hidden: Hidden, layout: Layout) -> Hidden:
        """Encode every position, with both directions over the whole sequence. [T, D] -> [T, D]."""
        source = self.source(hidden)
        mixed = self.mixer.forward_bidirectional(source, layout) if self.bidirectional else self.mixer(source, layout)
        return self.residual(mixed, hidden)

    def forward_prefixes(self, hidden: Hidden, layout: Layout) -> Hidden:
        """Compute `forward_last` of every prefix; row t is the prefix that ends at position t. [T, D] -> [T, D]."""
        source = self.source(hidden)
        mixed = self.mixer.forward_prefixes(source, layout) if self.bidirectional else self.mixer(source, layout)
        return self.residual(mixed, hidden)

    def forward_last(self, hidden: Hidden, layout: Layout) -> States:
        """Compute the output at the last position of each sequence only. [T, D] -> [B, D]."""
        mixed = self.mixer.forward_last(self.source(hidden), layout, bidirectional=self.bidirectional)
        with keyed_random.at(layout.last_index):
            return self.residual(mixed, hidden[layout.last_index])

    def source(self, hidden: Hidden) -> Hidden:
        """Return the input of the mixer: LayerNorm(H) with `norm_first`, else H."""
        return self.norm(hidden) if self.norm_first else hidden

    def residual(self, mixed: Hidden, hidden: Hidden) -> Hidden:
        """Add the residual to the mixer output, then apply norm, dropout and feed-forward network, position by position."""
        between = hidden + self.dropout(mixed) if self.norm_first else self.dropout(self.norm(mixed + hidden))
        return self.feed_forward(between)

    def start_as_identity(self) -> None:
        """Set the last linear map of each branch to zero; with `norm_first` the layer then returns its input."""
        nn.init.zeros_(self.mixer.out_proj.weight)
        if isinstance(self.feed_forward, FeedForward):
            nn.init.zeros_(self.feed_forward.narrow.weight)
