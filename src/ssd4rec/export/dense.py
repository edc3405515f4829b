"""The model for one history in operations that every runtime has: matrices over all pairs of events instead of a scan.

Both forms give the same states; this is the duality in the name of SSD. Time and memory grow with the square of the history,
those of the scan linearly. The quadratic form is used for exported graphs only, where histories have a few hundred events.
"""

import copy
import math
from types import MethodType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd4rec.errors import ConfigError
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.layers.repeat_logits import SCALE, RepeatLogits
from ssd4rec.layers.request_time import GAP_BINS, HOURS, WEEKDAYS, RequestTime
from ssd4rec.layers.step import LayerCache
from ssd4rec.models.members import members_of
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops.gated_norm import gated_norm_reference


class ReadOutGraph(nn.Module):
    """A graph from the item indices of a history to the scores of all items, or to the k best items.

    Args:
        model: of the backbone ssd4rec or mamba4rec.
        max_length: number of last events that are read; None: all.
        k: return the k best item indices and their scores; None: all scores.
        repeat_bias: added once to the score of every item of the history, as in score fusion.

    Raises:
        ConfigError: the model has another backbone.
    """

    def __init__(
        self, model: NextItemModel, max_length: int | None = None, k: int | None = None, repeat_bias: float = 0.0
    ) -> None:
        super().__init__()
        self.model, self.encoders = _plain_copy(model)
        self.max_length, self.k, self.repeat_bias = max_length, k, repeat_bias

    def forward(self, items: Tensor, times: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Score the next item.

        Args:
            items: int64 [T] item indices 1 … V, oldest first, at least one.
            times: int64 [1, 2] gap and moment of the request in seconds, for a model with `request_time`; a gap of -1, or None:
                not known.

        Returns:
            [V] scores, column j for item index j + 1; with k, item indices [k] and scores [k], best first.
        """
        history = items
        if self.max_length is not None:
            items = items[-self.max_length :]
        hidden = self.model.table(items)
        faded = hidden if self.model.fading_sum is None else _fading_sum(hidden, self.model.fading_sum.decay)
        last = faded[-1:]
        if not self.model.fade_skip_only:
            hidden = faded
        columns = hidden.chunk(len(self.encoders), dim=1)
        state = torch.cat([_encode(*each) for each in zip(self.encoders, columns, strict=True)], dim=1)
        state = self.model.output(state, last)
        state = _at(self.model.request_time, state, times)
        scores: Tensor = (state @ self.model.item_vectors.T)[0]
        if self.model.repeat_logits is not None:
            scores = scores.scatter_add(0, history - 1, _repeat_logits(self.model.repeat_logits, state[0], history))
        if self.repeat_bias:
            bias = torch.full_like(history, self.repeat_bias, dtype=scores.dtype)
            scores = scores + torch.zeros_like(scores).scatter(0, history - 1, bias)  # once, even if an item occurs twice
        if self.k is None:
            return scores
        values, places = scores.topk(min(self.k, len(scores)))
        return places + 1, values


class StepGraph(nn.Module):
    """A graph that adds one event to each history: from caches of all layers and item indices to new caches and scores.

    Args:
        model: one that reads event by event.

    Raises:
        ConfigError: the model has another backbone, a layer below the top reads backwards, or scores depend on more than the
            layers' caches.
    """

    def __init__(self, model: NextItemModel) -> None:
        super().__init__()
        self.model, encoders = _plain_copy(model)
        if not self.model.supports_incremental:
            raise ConfigError('a state step needs causal layers below the top; train with backbone.bidirectional = "top"')
        options = (self.model.repeat_logits, self.model.fading_sum, self.model.input_skip)
        if any(each is not None for each in options):
            raise ConfigError(
                "the graph of a state step has no repeat_logits, input_fade or input_skip, and the model does; "
                "export the read-out graph"
            )
        self.layers = sum(len(each.layers) for each in encoders)

    def forward(self, items: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Read one event.

        Args:
            items: int64 [B] item indices.
            rest: for a model with `request_time`, int64 [B, 2] gap and moment of each request in seconds, a gap of -1: not known.
                Then the tensors of `LayerCache`, layer by layer from the bottom; all zero before the first event.

        Returns:
            [B, V] scores, then the new caches in the same order.
        """
        layer = self.model.request_time
        times, caches = (None, rest) if layer is None else (rest[0], rest[1:])
        size = len(LayerCache._fields)
        old = [LayerCache(*caches[start : start + size]) for start in range(0, self.layers * size, size)]
        new, states = self.model.advance(old, items)
        scores = self.model.score(_at(layer, states, times))
        return scores, *(tensor for layer in new for tensor in layer)


def cache_names(layers: int) -> list[str]:
    """Return the names of the caches in the order of `StepGraph.forward`."""
    return [f"layer{layer}_{field}" for layer in range(layers) for field in LayerCache._fields]


def _plain_copy(model: NextItemModel) -> tuple[NextItemModel, list[SSD4Rec]]:
    """Return a copy on the CPU whose norm is made of torch's own operations, and the encoders of its members."""
    for each in members_of(model.backbone):
        if not isinstance(each, SSD4Rec):
            raise ConfigError(
                f"models of the backbone {type(each).__name__} cannot be exported to ONNX; ssd4rec and mamba4rec can"
            )
    plain = copy.deepcopy(model).cpu().float().eval()
    encoders = cast("list[SSD4Rec]", members_of(plain.backbone))
    for encoder in encoders:
        for layer in cast("list[BiSSDLayer]", list(encoder.layers)):
            layer.mixer.gated = MethodType(_gated, layer.mixer)  # type: ignore[method-assign]
    return plain, encoders


def _encode(encoder: SSD4Rec, hidden: Tensor) -> Tensor:
    """Return the output of an encoder at the last position of one history. [T, D] -> [1, D]."""
    if encoder.config.norm_embedding:
        hidden = encoder.norm(hidden)
    *below, top = cast("list[BiSSDLayer]", list(encoder.layers))
    for layer in below:
        hidden = layer.residual(_mix(layer, hidden), hidden)
    out: Tensor = encoder.final_norm(top.residual(_mix(top, hidden)[-1:], hidden[-1:]))
    return out


def _gated(mixer: Mamba2Mixer, y: Tensor, gate: Tensor) -> Tensor:
    return gated_norm_reference(y.flatten(1), gate, mixer.norm.weight, cast("float", mixer.norm.eps))


def _mix(layer: BiSSDLayer, hidden: Tensor) -> Tensor:
    """Return the mixer's output at every position of one history: `forward_bidirectional`, or `forward`. [T, D] -> [T, D]."""
    mixer = layer.mixer
    gate, channels, dt = mixer.project(layer.source(hidden))
    mixed = mixer.gated(_scan(mixer, _convolve(mixer, channels), dt), gate)
    if layer.bidirectional:
        back = mixer.gated(_scan(mixer, _convolve(mixer, channels.flip(0)), dt.flip(0)), gate.flip(0))
        if mixer.mirror_back:
            back = back.flip(0)
        mixed = mixed + mixer.backward_weight * back
    out: Tensor = mixer.out_proj(mixed)
    return out


def _fading_sum(hidden: Tensor, decay: Tensor) -> Tensor:
    """Return the fading sum of one history as a product with a triangle of powers. [T, D] -> [T, D]."""
    places = torch.arange(hidden.shape[0])
    gaps = places[:, None] - places[None, :]
    powers = torch.where(gaps >= 0, decay.log() * gaps.clamp(min=0), float("-inf")).exp()
    return powers @ hidden


def _at(layer: RequestTime | None, states: Tensor, times: Tensor | None) -> Tensor:
    """Return states at the time of their requests: `RequestTime.forward`. [B, D] -> [B, D].

    In operations that no runtime rounds: the bin of a gap is the number of thresholds that it reaches, and only the rest of a day
    or week is divided, because integers are divided as float32.
    """
    if layer is None or times is None:
        return states
    gap, moment = times[:, :1], times[:, 1:]
    bins = (gap >= torch.tensor([math.isqrt(2**half - 1) for half in range(1, GAP_BINS)])).sum(1, keepdim=True)
    hour = torch.div(moment % (3600 * HOURS), 3600, rounding_mode="floor")
    weekday = torch.div(moment % (86400 * WEEKDAYS), 86400, rounding_mode="floor")
    rows = layer.table(torch.cat([bins, GAP_BINS + hour, GAP_BINS + HOURS + weekday], dim=1))
    scale, shift = rows.sum(1).chunk(2, dim=1)
    return torch.where(gap >= 0, states * (1 + scale) + shift, states)


def _repeat_logits(layer: RepeatLogits, state: Tensor, items: Tensor) -> Tensor:
    """Return [T]: at the latest occurrence of each item its logit, 0 elsewhere."""
    places = torch.arange(items.shape[0])
    equal = items[:, None] == items[None, :]
    latest = ~(equal & (places[None, :] > places[:, None])).any(1)
    gaps, counts = (items.shape[0] - 1 - places).float(), equal.float().sum(1)
    coefficients = SCALE * layer.weight + layer.state_weight @ state
    transitions = equal[:, 1:].float() @ equal[-1, :-1].float()
    features = [torch.ones_like(gaps), torch.log1p(gaps), counts.log(), torch.log1p(transitions)]
    if layer.log_popularity is not None:
        features.append(layer.log_popularity[items])
    return (coefficients @ torch.stack(features[: coefficients.shape[0]])) * latest


def _convolve(mixer: Mamba2Mixer, channels: Tensor) -> Tensor:
    """Return the causal convolution and SiLU. [T, channels] -> [T, channels]."""
    width = mixer.conv_weight.shape[1]
    padded = F.pad(channels.T[None], (width - 1, 0))
    convolved = F.conv1d(padded, mixer.conv_weight[:, None], mixer.conv_bias, groups=mixer.conv_weight.shape[0])
    return F.silu(convolved[0].T)


def _scan(mixer: Mamba2Mixer, convolved: Tensor, dt: Tensor) -> Tensor:
    """Return the scan of one history as a product with a decaying lower triangle. -> [T, H, P]."""
    x, B, C = mixer.split(convolved)
    # float64, because differences of sums of log-decays are needed, and the sums grow with the history
    sums = torch.cumsum((dt * mixer.A).double(), dim=0).T  # [H, T]
    differences = sums[:, :, None] - sums[:, None, :]
    places = torch.arange(convolved.shape[0])
    earlier = places[:, None] >= places[None, :]
    weights = torch.where(earlier, differences, float("-inf")).exp().float() * (C @ B.T)
    y = weights @ (x * dt[..., None]).transpose(0, 1)  # [H, T, P]
    return y.transpose(0, 1) + mixer.D[:, None] * x
