"""Repeat logits without each event equal those of the shortened sequences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd4rec.explain.leave_one_out import logits_without_each
from ssd4rec.layers.repeat_logits import RepeatLogits
from ssd4rec.ops.repeats import sequence_items

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("features", ["bias", "recency", "transitions", "popularity"])
@settings(max_examples=30)
@given(items=st.lists(st.integers(1, 6), min_size=2, max_size=20))
def test_equal_the_logits_of_shortened_sequences(features, items):
    """Items that occur once, twice in a row, last, or not at all any more."""
    generator = torch.Generator().manual_seed(0)
    layer = RepeatLogits(4, features, 6).double().requires_grad_(requires_grad=False)
    layer.set_popularity(np.arange(7))
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    states = torch.randn(len(items), 4, generator=generator).double()
    added = logits_without_each(layer, states, torch.tensor(items), torch.arange(len(items)), 6)
    for place in range(len(items)):
        shorter, expected = torch.tensor(items[:place] + items[place + 1 :]), torch.zeros(1, 6).double()
        prefixes = sequence_items(shorter, torch.tensor([0, len(shorter)]))
        layer.added(states[place : place + 1], prefixes).add_to(expected, slice(0, 1))
        torch.testing.assert_close(added[place], expected[0], rtol=0, atol=1e-12)
