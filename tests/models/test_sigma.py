"""SIGMA: what is reversed, and what is not."""

import pytest
import torch

from rows import all_prefixes, boundaries_of, one_by_one, relative_error, shaken
from ssd4rec.config import SIGMAConfig, parse_config
from ssd4rec.errors import ConfigError
from ssd4rec.models.sigma import SIGMA, partially_flipped
from ssd4rec.ops.segments import make_layout


def small(**settings: int) -> SIGMA:
    torch.manual_seed(0)
    return shaken(SIGMA(SIGMAConfig(width=8, state_dim=4, head_width=4, **settings)))


def random_row(length: int) -> torch.Tensor:
    return torch.randn(length, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [(2, [2, 1, 0, 3, 4, 5, 6]), (0, [4, 3, 2, 1, 0, 6, 5]), (1, [3, 2, 1, 0, 4, 5, 6]), (9, [0, 1, 2, 3, 4, 5, 6])],
)
def test_all_but_the_last_events_are_reversed(kept: int, expected: list[int]) -> None:
    """Sequences of 5 and 2 events."""
    assert partially_flipped(make_layout(torch.tensor([0, 5, 7])), kept).tolist() == expected


def test_one_layer_by_its_parts() -> None:
    """The state of one history is what the formula gives with its parts called one after the other."""
    backbone, row = small(kept=2), random_row(6)
    (layer,) = backbone.layers
    layout, cu_seqlens = make_layout(boundaries_of([6])), boundaries_of([6])
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


def test_the_three_readings_begin_with_the_authors_shares() -> None:
    """.8 forwards, .1 reversed, .1 recurrent."""
    (layer,) = SIGMA(SIGMAConfig(width=8, head_width=4)).layers
    assert layer.shares.softmax(0).tolist() == pytest.approx([0.8, 0.1, 0.1])


@pytest.mark.parametrize("kept", [0, 1, 2, 4])
def test_one_pass_is_every_prefix_alone_however_many_are_kept(kept: int) -> None:
    """Five are held to it in `test_every_backbone.py`."""
    backbone, row, cu_seqlens = small(kept=kept), random_row(17), boundaries_of([1, 9, 2, 5])
    expected = all_prefixes(backbone.encode, row, cu_seqlens)
    assert relative_error(backbone.encode_prefixes(row, cu_seqlens), expected) < 1e-11


def test_two_layers_read_packed_histories_as_they_are_one_at_a_time() -> None:
    """One pass cannot train them, so `test_every_backbone.py` holds one layer to it."""
    backbone, row, cu_seqlens = small(layers=2, kept=2), random_row(27), boundaries_of([1, 5, 2, 13, 6])
    assert relative_error(backbone.encode(row, cu_seqlens), one_by_one(backbone.encode, row, cu_seqlens)) < 1e-11


def test_one_pass_cannot_train_two_layers() -> None:
    """The upper one reads states that differ from prefix to prefix."""
    assert parse_config('[backbone]\nname = "sigma"').training.objective == "all-positions"
    message = r'one layer of SIGMA, .* found backbone\.layers = 2; set backbone\.layers = 1 or training\.objective = "per-prefix"'
    with pytest.raises(ConfigError, match=message):
        parse_config('[backbone]\nname = "sigma"\nlayers = 2\n[training]\nobjective = "all-positions"')
    with pytest.raises(ConfigError, match=message):
        small(layers=2).encode_prefixes(random_row(3), boundaries_of([3]))
