"""States without each event from one pass equal those of the shortened sequences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explained import VARIANTS, recommender
from ssd4rec.explain.leave_one_out import reads_in_one_pass, states_by_rereading, states_in_one_pass

TOLERANCE = 1e-12


def difference(model, items):
    """The largest difference between the two, in units of the largest number."""
    with torch.inference_mode():
        expected = states_by_rereading(model, items, torch.arange(len(items)))
        states = states_in_one_pass(model, items)
        expected = torch.cat([expected, model.encode(items, torch.tensor([0, len(items)]))])
    assert states.shape == expected.shape
    return float((states - expected).abs().max() / expected.abs().max())


@pytest.mark.thorough
@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=80))
def test_one_pass_equals_rereading(variant, items):
    """Every event of short sequences, where the ends meet, and of sequences of more than one chunk."""
    assert difference(recommender(**VARIANTS[variant]).artifact.model, torch.tensor(items)) < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("events", [63, 64, 65, 68, 128, 300])
def test_one_pass_equals_rereading_of_long_sequences(variant, events):
    """Around the chunk's edges."""
    items = torch.randint(1, 13, (events,), generator=torch.Generator().manual_seed(events))
    assert difference(recommender(**VARIANTS[variant]).artifact.model, items) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_pass_equals_rereading_at_2000_events(variant):
    """All 2,000 shortened sequences."""
    items = torch.randint(1, 13, (2000,), generator=torch.Generator().manual_seed(0))
    assert difference(recommender(**VARIANTS[variant]).artifact.model, items) < TOLERANCE


@pytest.mark.parametrize("steepness", [1e-3, 5.0, 9.0])
def test_decays_of_any_strength(steepness):
    """Nearly none, and so strong that the decay of one event cannot be divided out."""
    model = recommender().artifact.model
    mixer = model.backbone.layers[0].mixer
    with torch.no_grad():
        mixer.A_log.fill_(steepness)
        mixer.in_proj.weight[-mixer.heads :] *= 40  # step sizes from nearly 0 to large ones
    items = torch.randint(1, 13, (70,), generator=torch.Generator().manual_seed(1))
    assert difference(model, items) < TOLERANCE


def test_single_precision():
    """Equal up to the rounding of float32."""
    model = recommender().artifact.model.float()
    assert difference(model, torch.randint(1, 13, (300,), generator=torch.Generator().manual_seed(1))) < 1e-5


def test_models_that_one_pass_serves():
    """One SSD layer that reads the item vectors themselves."""
    assert reads_in_one_pass(recommender().artifact.model)
    assert not reads_in_one_pass(recommender(layers=2).artifact.model)
    assert not reads_in_one_pass(recommender(input_fade=0.7, input_skip=True).artifact.model)
    assert reads_in_one_pass(recommender(input_fade=0.7, input_skip=True, fade_skip_only=True).artifact.model)
