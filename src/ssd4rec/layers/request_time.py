"""Adapt states to the time of a request."""

import torch
from torch import Tensor, nn

from ssd4rec.array_types import RequestTimes, States
from ssd4rec.ops import keyed_random

UNKNOWN = -1  # the gap of a request whose time is not known
GAP_BINS, HOURS, WEEKDAYS = 64, 24, 7
DROPPED = 0.2  # share of the training targets whose time is left out, so that the model also answers without one


class RequestTime(nn.Module):
    """Adapt the state of a sequence to the time at which the next item is wanted.

        state' = state * (1 + scale) + shift,   (scale, shift) = G[gap] + H[hour] + W[weekday]

    gap is the time since the last interaction, in two bins an octave; hour and weekday are those of the request, in the time
    zone of the data. G, H and W start at zero, where the state stays what it is, and it does where the time is not known.

    Args:
        width: D, of the states.

    Source: the temporal channel of FuXi-Linear reads its state with exp(rate * gap) and clock features. Here scale and shift do
    the same for the state that all layers have made, so that one state serves requests at any time.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(GAP_BINS + HOURS + WEEKDAYS, 2 * width)
        nn.init.zeros_(self.table.weight)

    def forward(self, states: States, times: RequestTimes) -> States:
        """Return the states at the time of their requests: the gap and the moment in seconds. [B, D], int64 [B, 2] -> [B, D].

        A gap of `UNKNOWN` leaves the state as it is.
        """
        is_known = times[:, 0] >= 0
        if self.training:
            is_known = is_known & (keyed_random.uniform(is_known.shape, is_known.device) >= DROPPED)
        scale, shift = self.table(bins_of(times)).sum(1).chunk(2, dim=1)
        return torch.where(is_known[:, None], states * (1 + scale) + shift, states)


def bins_of(times: RequestTimes) -> Tensor:
    """Return the three rows of the table that belong to each request. int64 [B, 2] -> int64 [B, 3]."""
    gap, moment = times[:, 0].clamp(min=0), times[:, 1]
    octaves = (2 * torch.log2(1 + gap.double())).long().clamp(max=GAP_BINS - 1)
    hour = torch.div(moment, 3600, rounding_mode="floor") % HOURS
    weekday = torch.div(moment, 86400, rounding_mode="floor") % WEEKDAYS
    return torch.stack([octaves, GAP_BINS + hour, GAP_BINS + HOURS + weekday], dim=1)
