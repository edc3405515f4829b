"""The weights of each event in the row of the duality matrix that the read-out uses."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from ssd4rec.errors import ConfigError
from ssd4rec.explain.duality_row import Row, last_row
from ssd4rec.explain.reading import Reading
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.models.members import Members
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops.segments import make_layout


class EventRow(NamedTuple):
    """One event in the rows of both directions, see `results.EventWeight`; by default one that is not read."""

    forward: tuple[float, ...] = ()
    backward: tuple[float, ...] = ()
    forward_share: float = 0.0
    backward_share: float = 0.0


def event_weights(reading: Reading) -> tuple[int, list[EventRow]]:
    """Return which layer is the top one, and the weights of the events that the model reads, oldest first.

    Raises:
        ConfigError: the model has no SSD layer that it reads out.
    """
    layer, forward, backward = rows_of_read_out(reading)
    ahead, ahead_share = forward.weights.tolist(), _shares(forward)
    events = len(ahead)
    back: list[list[float]] = [[]] * events
    back_share = [0.0] * events
    if backward is not None:  # the mirrored direction reads the last event only
        length = len(backward.weights)
        back[events - length :], back_share[events - length :] = backward.weights.tolist(), _shares(backward)
    rows = zip(ahead, back, ahead_share, back_share, strict=True)
    return layer, [EventRow(tuple(forth), tuple(other), share, other_share) for forth, other, share, other_share in rows]


def rows_of_read_out(reading: Reading) -> tuple[int, Row, Row | None]:
    """Return the top layer's index, its row forward, and its row backward with the events in the order of the history.

    Raises:
        ConfigError: the model has no SSD layer that it reads out, or several networks.
    """
    backbone = reading.artifact.model.backbone
    if isinstance(backbone, Members):
        raise ConfigError(
            f'level = "weights" needs one network, found backbone.members = {len(backbone.members)}; use level = "effects"'
        )
    if not isinstance(backbone, SSD4Rec):
        raise ConfigError(
            f'level = "weights" needs a model that reads out an SSD layer (ssd4rec or mamba4rec), found '
            f'{type(backbone).__name__}; use level = "effects"'
        )
    items = reading.tensor(reading.read)
    cu_seqlens = torch.tensor([0, len(items)])
    layout = make_layout(cu_seqlens, device=items.device)
    embedded = reading.artifact.model.embed(items, cu_seqlens)
    hidden = backbone.norm(embedded) if backbone.config.norm_embedding else embedded
    *below, top = (cast("BiSSDLayer", layer) for layer in backbone.layers)
    for layer in below:
        hidden = layer(hidden, layout)
    mixer = top.mixer
    _, channels, dt = mixer.project(top.source(hidden))
    forward, backward = last_row(mixer, channels, dt), None
    if top.bidirectional and mixer.mirror_back:
        backward = last_row(mixer, channels[-1:], dt[-1:])
    elif top.bidirectional:
        row = last_row(mixer, channels.flip(0), dt.flip(0))
        backward = Row(row.weights.flip(0), row.x.flip(0), row.skip)
    return len(below), forward, backward


def _shares(row: Row) -> list[float]:
    norms: Tensor = torch.linalg.vector_norm((row.x * row.weights[..., None]).flatten(1), dim=1)
    shares: list[float] = (norms / norms.sum().clamp(min=torch.finfo(norms.dtype).tiny)).tolist()
    return shares
