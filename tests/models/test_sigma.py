"""SIGMA: the partial flip and its layers."""

import pytest
import torch

from packed import cu_seqlens_of, encode_each, encode_each_prefix, randomized, relative_error
from ssd4rec.config import SIGMAConfig, parse_config
from ssd4rec.errors import ConfigError
from ssd4rec.models.sigma import SIGMA, partial_flip_index
from ssd4rec.ops.segments import make_layout


def small(**settings: int) -> SIGMA:
    torch.manual_seed(0)
    return randomized(SIGMA(SIGMAConfig(width=8, state_dim=4, head_width=4, **settings)))


def random_row(length: int) -> torch.Tensor:
    return torch.randn(length, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [(2, [2, 1, 0, 3, 4, 5, 6]), (0, [4, 3, 2, 1, 0, 6, 5]), (1, [3, 2, 1, 0, 4, 5, 6]), (9, [0, 1, 2, 3, 4, 5, 6])],
)
def test_partial_flip_index(kept: int, expected: list[int]) -> None:
    """Sequences of lengths 5 and 2."""
    assert partial_flip_index(make_layout(torch.tensor([0, 5, 7])), kept).tolist() == expected


def test_layer_equals_its_formula() -> None:
    """The output for one sequence equals the formula evaluated part by part."""
    backbone, row = small(kept=2), random_row(6)
    (layer,) = backbone.layers
    layout, cu_seqlens = make_layout(cu_seqlens_of([6])), cu_seqlens_of([6])
    hidden = backbone.norm(row)
    flipped = torch.cat([hidden[:4].flip(0), hidden[4:]])
    weight, bias = layer.convolution.weight.unflatten(1, (3, 8)).transpose(1, 2), layer.convolution.bias
    convolved = torch.nn.functional.conv1d(hidden.T[None], weight, bias, padding=1)[0].T
    recurrent, _ = layer.gru.gru(convolved)

    def gate(module, x):
        dense = x + module.dense(x)
        return module.smooth(dense * torch.sigmoid(dense)) + module.sharp(torch.sigmoid(dense))

    ahead = layer.mixer(hidden, layout) * (1 + gate(layer.gate, hidden))
    back = layer.mixer(flipped, layout) * (1 + gate(layer.flipped_gate, flipped))
    parts = torch.stack([ahead, back, recurrent])
    mixed = layer.project((layer.shares.softmax(0)[:, None, None] * parts).sum(0))
    expected = layer.feed_forward(layer.norm(hidden + mixed))[-1:]
    assert relative_error(backbone.encode(row, cu_seqlens), expected) < 1e-12


def test_initial_weights_of_the_sum() -> None:
    """0.8 forward, 0.1 flipped, 0.1 recurrent, as in the authors' code."""
    (layer,) = SIGMA(SIGMAConfig(width=8, head_width=4)).layers
    assert layer.shares.softmax(0).tolist() == pytest.approx([0.8, 0.1, 0.1])


@pytest.mark.thorough
@pytest.mark.parametrize("kept", [0, 1, 2, 4])
def test_all_positions_equal_each_prefix_alone(kept: int) -> None:
    """For several tail lengths; `test_every_backbone.py` covers the default, 5."""
    backbone, row, cu_seqlens = small(kept=kept), random_row(17), cu_seqlens_of([1, 9, 2, 5])
    expected = encode_each_prefix(backbone.encode, row, cu_seqlens)
    assert relative_error(backbone.encode_prefixes(row, cu_seqlens), expected) < 1e-11


def test_packed_batch_equals_separate_sequences_with_two_layers() -> None:
    """`test_every_backbone.py` covers one layer only, because one pass cannot train two."""
    backbone, row, cu_seqlens = small(layers=2, kept=2), random_row(27), cu_seqlens_of([1, 5, 2, 13, 6])
    assert relative_error(backbone.encode(row, cu_seqlens), encode_each(backbone.encode, row, cu_seqlens)) < 1e-11


def test_all_positions_training_of_two_layers_is_an_error() -> None:
    """The input of the upper layer differs between prefixes."""
    assert parse_config('[backbone]\nname = "sigma"').training.objective == "all-positions"
    message = r'one layer of SIGMA .* found backbone\.layers = 2; set backbone\.layers = 1 or training\.objective = "per-prefix"'
    with pytest.raises(ConfigError, match=message):
        parse_config('[backbone]\nname = "sigma"\nlayers = 2\n[training]\nobjective = "all-positions"')
    with pytest.raises(ConfigError, match=message):
        small(layers=2).encode_prefixes(random_row(3), cu_seqlens_of([3]))
