"""One more event equals reading the whole history again."""

import pytest
import torch

from rows import boundaries_of, shaken
from ssd4rec.config import SSD4RecConfig
from ssd4rec.errors import ConfigError
from ssd4rec.models.ssd4rec import SSD4Rec


def backbone(**settings):
    config = SSD4RecConfig(width=16, state_dim=8, head_width=8, dropout=0.0, backward_weight=0.7, norm_embedding=True, **settings)
    torch.manual_seed(0)  # the smallest state of a test depends on its weights
    return shaken(SSD4Rec(config)).double().eval()


@pytest.mark.parametrize("conv_width", [1, 2, 4])
@pytest.mark.parametrize(
    "wiring",
    [
        {"layers": 1, "bidirectional": "all"},
        {"layers": 2, "bidirectional": "top"},
        {"layers": 2, "bidirectional": "top", "mirror_back": True},
        {"layers": 3, "bidirectional": "none"},
    ],
    ids=lambda wiring: "-".join(map(str, wiring.values())),
)
def test_each_step_gives_what_encode_gives(conv_width, wiring):
    """Three histories of 1 … 12 events, step by step, to 1e-12 in float64."""
    model = backbone(conv_width=conv_width, **wiring)
    hidden = torch.randn(3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = model.new_cache(3)
    for read in range(1, 13):
        state, found = model.step(state, hidden[:, read - 1])
        expected = model.encode(hidden[:, :read].reshape(-1, 16), torch.arange(4) * read)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert state[-1].events.tolist() == [12, 12, 12]


def test_the_state_does_not_grow():
    """After 1 and after 100 events a state has as many numbers."""
    model = backbone()
    state = model.new_cache(1)
    state, _ = model.step(state, torch.randn(1, 16, dtype=torch.float64))
    sizes = [part.shape for part in state[0]]
    for _ in range(99):
        state, _ = model.step(state, torch.randn(1, 16, dtype=torch.float64))
    assert [part.shape for part in state[0]] == sizes


def test_a_state_is_not_changed_in_place():
    """Stepping twice from one state gives the same twice."""
    model = backbone()
    before, _ = model.step(model.new_cache(1), torch.ones(1, 16, dtype=torch.float64))
    event = torch.full((1, 16), 0.5, dtype=torch.float64)
    (_, first), (_, second) = model.step(before, event), model.step(before, event)
    assert torch.equal(first, second)


def test_layers_that_all_read_backwards_cannot_step():
    """A new event would change every earlier position."""
    model = backbone(layers=2, bidirectional="all")
    with pytest.raises(ConfigError, match="reading event by event needs layers below the top that read forwards only"):
        model.step(model.new_cache(1), torch.ones(1, 16, dtype=torch.float64))


@pytest.mark.parametrize("conv_width", [1, 2, 4])
@pytest.mark.parametrize(
    "wiring",
    [
        {"layers": 1, "bidirectional": "all"},
        {"layers": 2, "bidirectional": "top"},
        {"layers": 2, "bidirectional": "top", "mirror_back": True},
        {"layers": 3, "bidirectional": "none"},
    ],
    ids=lambda wiring: "-".join(map(str, wiring.values())),
)
def test_a_prefilled_state_is_the_one_that_steps_come_to(conv_width, wiring):
    """Sequences of 1 … 5, 63, 64, 65, 130 and 300 events at once: each number of the state to 1e-11, and the next step too."""
    model = backbone(conv_width=conv_width, **wiring)
    lengths = [1, 2, 3, 4, 5, 63, 64, 65, 130, 300]
    hidden = torch.randn(sum(lengths), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state, states = model.prefill(hidden, boundaries_of(lengths))
    torch.testing.assert_close(states, model.encode(hidden, boundaries_of(lengths)), rtol=0, atol=1e-12)
    event = torch.randn(1, 16, dtype=torch.float64)
    for row, events in enumerate(hidden.split(lengths)):
        stepped = model.new_cache(1)
        for each in events:
            stepped, _ = model.step(stepped, each[None])
        found = [layer._make(part[[row]] for part in layer) for layer in state]
        for layer, expected in zip(found, stepped, strict=True):
            for name in expected._fields:
                torch.testing.assert_close(getattr(layer, name), getattr(expected, name), rtol=0, atol=1e-11, msg=name)
        assert stepped[0].scan.abs().max() > 1e-3
        torch.testing.assert_close(model.step(found, event)[1], model.step(stepped, event)[1], rtol=0, atol=1e-11)
