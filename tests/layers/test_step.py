"""Incremental steps equal encoding the whole sequence again."""

import pytest
import torch

from packed import cu_seqlens_of, randomized
from ssd4rec.config import SSD4RecConfig
from ssd4rec.errors import ConfigError
from ssd4rec.models.ssd4rec import SSD4Rec

WIDTHS = pytest.mark.parametrize("conv_width", [1, 2, 4])
VARIANTS = pytest.mark.parametrize(
    "variant",
    [
        {"layers": 1, "bidirectional": "all"},
        {"layers": 2, "bidirectional": "top"},
        {"layers": 2, "bidirectional": "top", "mirror_back": True},
        {"layers": 3, "bidirectional": "none"},
    ],
    ids=lambda variant: "-".join(map(str, variant.values())),
)


def backbone(**settings):
    config = SSD4RecConfig(width=16, state_dim=8, head_width=8, dropout=0.0, backward_weight=0.7, norm_embedding=True, **settings)
    torch.manual_seed(0)  # a test below needs states that are not tiny
    return randomized(SSD4Rec(config)).double().eval()


@pytest.mark.thorough
@WIDTHS
@VARIANTS
def test_each_step_equals_encode(conv_width, variant):
    """Three sequences of 1 … 12 positions, step by step, to 1e-12 in float64."""
    model = backbone(conv_width=conv_width, **variant)
    hidden = torch.randn(3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = model.new_cache(3)
    for length in range(1, 13):
        state, actual = model.step(state, hidden[:, length - 1])
        expected = model.encode(hidden[:, :length].reshape(-1, 16), torch.arange(4) * length)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert state[-1].length.tolist() == [12, 12, 12]


@pytest.mark.thorough
def test_cache_size_is_constant():
    """After 1 and after 100 positions the cache has the same shapes."""
    model = backbone()
    state = model.new_cache(1)
    state, _ = model.step(state, torch.randn(1, 16, dtype=torch.float64))
    sizes = [part.shape for part in state[0]]
    for _ in range(99):
        state, _ = model.step(state, torch.randn(1, 16, dtype=torch.float64))
    assert [part.shape for part in state[0]] == sizes


def test_cache_is_not_modified():
    """Two steps from the same cache give the same result."""
    model = backbone()
    before, _ = model.step(model.new_cache(1), torch.ones(1, 16, dtype=torch.float64))
    new = torch.full((1, 16), 0.5, dtype=torch.float64)
    (_, first), (_, second) = model.step(before, new), model.step(before, new)
    assert torch.equal(first, second)


def test_bidirectional_lower_layers_cannot_step():
    """A new position would change every earlier position."""
    model = backbone(layers=2, bidirectional="all")
    with pytest.raises(ConfigError, match="incremental inference needs causal layers below the top"):
        model.step(model.new_cache(1), torch.ones(1, 16, dtype=torch.float64))


@pytest.mark.thorough
@WIDTHS
@VARIANTS
def test_prefilled_cache_equals_steps(conv_width, variant):
    """Prefilling sequences around the convolution width and the chunk size equals stepping, and so does the next step."""
    model = backbone(conv_width=conv_width, **variant)
    lengths = [1, 2, 3, 4, 5, 63, 64, 65, 200]
    hidden = torch.randn(sum(lengths), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cache, states = model.prefill(hidden, cu_seqlens_of(lengths))
    torch.testing.assert_close(states, model.encode(hidden, cu_seqlens_of(lengths)), rtol=0, atol=1e-12)
    new = torch.randn(1, 16, dtype=torch.float64)
    for row, stepped in enumerate(step_each(model, hidden.split(lengths))):
        actual = [layer._make(part[[row]] for part in layer) for layer in cache]
        for layer, expected in zip(actual, stepped, strict=True):
            for name in expected._fields:
                torch.testing.assert_close(getattr(layer, name), getattr(expected, name), rtol=0, atol=1e-11, msg=name)
        assert stepped[0].ssm_state.abs().max() > 1e-3
        torch.testing.assert_close(model.step(actual, new)[1], model.step(stepped, new)[1], rtol=0, atol=1e-11)


def step_each(model, sequences):
    """Return the cache of each sequence after stepping through it; the sequences, in order of length, step together."""
    caches, cache = [], model.new_cache(len(sequences))
    for position in range(len(sequences[-1])):
        active = [sequence for sequence in sequences if len(sequence) > position]
        cache, _ = model.step(cache, torch.stack([sequence[position] for sequence in active]))
        finished = sum(len(sequence) == position + 1 for sequence in active)
        caches += [[layer._make(part[[row]] for part in layer) for layer in cache] for row in range(finished)]
        cache = [layer._make(part[finished:] for part in layer) for layer in cache]
    return caches
