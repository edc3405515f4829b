"""Dropout as a module."""

from torch import Tensor, nn

from ssd4rec.ops.dispatch import dropout


class Dropout(nn.Dropout):
    """`nn.Dropout` with the random numbers of `ops.dropout`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Apply dropout to a tensor of any shape."""
        return dropout(input, self.p, training=self.training)
