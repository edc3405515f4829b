"""Compare the model with a loop over one sequence written from the description in docs/paper-map.md.

The loop uses nothing from ssd4rec.ops and takes the weights by name.
"""

import math

import pytest
import torch
from torch import Tensor

from packed import cu_seqlens_of, randomized, relative_error
from ssd4rec.config import SSD4RecConfig, load_config
from ssd4rec.models.next_item import NextItemModel, count_parameters
from ssd4rec.models.ssd4rec import SSD4Rec

SEQUENCES = [[3], [7, 2], [5, 5, 1], [9, 8, 7, 6], [0, 4, 10, 0, 2, 3, 1, 1, 6, 8, 9, 2], list(range(1, 11)) * 7]  # 0: masked


def layer_norm(vector: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + 1e-12).sqrt() * weight + bias


def silu(values: Tensor) -> Tensor:
    return values / (1 + torch.exp(-values))


def gelu(values: Tensor) -> Tensor:
    return values * (1 + torch.erf(values / math.sqrt(2))) / 2


def mixer(sequence: list[Tensor], weights: dict[str, Tensor], config: SSD4RecConfig) -> list[Tensor]:
    """Compute the mixer of section 2 position by position."""
    E, N, P, K = config.expand * config.width, config.state_dim, config.head_width, config.conv_width
    H = E // P
    projected = [weights["in_proj.weight"] @ event for event in sequence]
    gates = [z[:E] for z in projected]
    inputs = [xBC[E : 2 * E + 2 * N] for xBC in projected]
    steps = [dt[2 * E + 2 * N :] for dt in projected]
    states = [torch.zeros(P, N, dtype=torch.float64) for _ in range(H)]
    outputs = []
    for t in range(len(sequence)):
        convolved = weights["conv_bias"].clone()
        for back in range(K):
            if t - back >= 0:
                convolved = convolved + weights["conv_weight"][:, K - 1 - back] * inputs[t - back]
        x, B, C = silu(convolved).split([E, N, N])
        y = torch.zeros(E, dtype=torch.float64)
        for h in range(H):
            dt = torch.log1p(torch.exp(steps[t][h] + weights["dt_bias"][h]))
            A = -torch.exp(weights["A_log"][h])
            x_h = x[h * P : (h + 1) * P]
            states[h] = torch.exp(dt * A) * states[h] + dt * torch.outer(x_h, B)
            y[h * P : (h + 1) * P] = states[h] @ C + weights["D"][h] * x_h
        gated = y * silu(gates[t])
        normed = gated / (gated.square().mean() + 1e-5).sqrt() * weights["norm.weight"]
        outputs.append(weights["out_proj.weight"] @ normed)
    return outputs


def under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def official_scores(items: list[int], weights: dict[str, Tensor], config: SSD4RecConfig) -> Tensor:
    """Compute the scores of one sequence in evaluation mode; item 0 is not a candidate (D2)."""
    H0 = [weights["table.weight"][item] for item in items]
    if config.norm_embedding:
        H0 = [layer_norm(h, weights["backbone.norm.weight"], weights["backbone.norm.bias"]) for h in H0]
    for number in range(config.layers):
        layer = under(weights, f"backbone.layers.{number}.")
        forward = mixer(H0, under(layer, "mixer."), config)
        backward = mixer(H0[::-1], under(layer, "mixer."), config)  # not reversed back
        above = []
        for h, f, k in zip(H0, forward, backward, strict=True):
            H1 = layer_norm(f + config.backward_weight * k + h, layer["norm.weight"], layer["norm.bias"])
            network = under(layer, "feed_forward.")
            inner = gelu(network["widen.weight"] @ H1 + network["widen.bias"])
            outer = network["narrow.weight"] @ inner + network["narrow.bias"]
            above.append(layer_norm(H1 + outer, network["norm.weight"], network["norm.bias"]))
        H0 = above
    return weights["table.weight"][1:] @ H0[-1]


def official_model(layers: int, *, norm_embedding: bool) -> tuple[NextItemModel, SSD4RecConfig]:
    config = SSD4RecConfig(
        width=6, state_dim=3, head_width=4, layers=layers, norm_embedding=norm_embedding, bidirectional="all", backward_weight=0.7
    )
    torch.manual_seed(0)
    return randomized(NextItemModel(SSD4Rec(config), catalog_size=10)), config


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("norm_embedding", [False, True], ids=["plain", "normed"])
def test_scores_equal_the_official_forward(layers: int, norm_embedding: bool) -> None:
    """Packed sequences of 1 to 70 items get, in float64, the scores of the loop on each alone."""
    model, config = official_model(layers, norm_embedding=norm_embedding)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    items = torch.tensor([item for sequence in SEQUENCES for item in sequence])
    with torch.no_grad():
        actual = model.score(model.encode(items, cu_seqlens_of([len(sequence) for sequence in SEQUENCES])))
    expected = torch.stack([official_scores(sequence, weights, config) for sequence in SEQUENCES])
    assert expected.std(dim=1).min() > 0.1
    assert relative_error(actual, expected) < 1e-11


@pytest.mark.parametrize(
    ("preset", "catalog_size", "parameters"),
    [
        ("kuairand-pure", 7_111, 3_750_336),
        ("ml-1m", 3_416, 2_804_416),
        ("amazon-beauty", 12_101, 4_063_200),
        ("amazon-video-games", 10_672, 3_697_376),
    ],
)
def test_size_of_the_papers_models(preset: str, catalog_size: int, parameters: int) -> None:
    """Each preset has exactly (items + 1) * 256 + 512 + layers * 964,576 parameters (docs/paper-map.md)."""
    backbone = SSD4Rec(load_config(preset).backbone)
    assert count_parameters(NextItemModel(backbone, catalog_size)) == parameters
    assert parameters == (catalog_size + 1) * 256 + 512 + len(backbone.layers) * 964_576
