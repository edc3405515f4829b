"""A fading sum of item vectors in front of a network."""

import pytest
import torch

from packed import cu_seqlens_of, randomized
from served import HISTORY, assert_same, recommender
from ssd4rec.config import load_config
from ssd4rec.layers.fading_sum import FadingSum
from ssd4rec.models.next_item import NextItemModel, make_model
from ssd4rec.serving.session import Session

LENGTHS = [1, 70, 3, 130]


def test_by_hand() -> None:
    """Decay 1/2, vectors 1, 2, 4 in one sequence and 8 in the next: 1, 2.5, 5.25 and 8."""
    summed = FadingSum(0.5)(torch.tensor([[1.0], [2.0], [4.0], [8.0]]), cu_seqlens_of([3, 1]))
    torch.testing.assert_close(summed, torch.tensor([[1.0], [2.5], [5.25], [8.0]]))


def test_values_and_gradients_equal_the_recursion() -> None:
    """Sequences within and across chunks; the gradients of the vectors and of the decay too."""
    layer = FadingSum(0.7).double()
    embedded = torch.randn(sum(LENGTHS), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows, start = [], 0
    for length in LENGTHS:
        cache = layer.new_cache(1, 6)
        for position in range(start, start + length):
            cache, total = layer.step(cache, embedded[position : position + 1])
            rows.append(total)
        start += length
    expected, actual = torch.cat(rows), layer(embedded, cu_seqlens_of(LENGTHS))
    torch.testing.assert_close(actual, expected)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        torch.autograd.grad((actual * weights).sum(), (embedded, layer.logit)),
        torch.autograd.grad((expected * weights).sum(), (embedded, layer.logit)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def faded(name: str, *overrides: str) -> NextItemModel:
    config = load_config("quick", [f'backbone.name="{name}"', "backbone.input_fade=0.7", "backbone.width=16", *overrides])
    return randomized(make_model(config, 12)).double().eval()


@pytest.mark.parametrize("name", ["ssd4rec", "sasrec", "gru4rec", "caser", "mamba4rec", "sigma"])
def test_one_pass_is_every_prefix_alone(name: str) -> None:
    """Row t of `encode_prefixes` is `encode` of the prefix, whatever network reads the sum."""
    model = faded(name)
    items = torch.tensor([3, 1, 0, 7, 7, 2])
    rows = model.encode_prefixes(items, cu_seqlens_of([4, 2]))
    for row, (start, end) in enumerate([(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6)]):
        torch.testing.assert_close(rows[row], model.encode(items[start:end], cu_seqlens_of([end - start]))[0])


@pytest.mark.parametrize("name", ["ssd4rec", "mamba4rec"])
def test_steps_are_the_whole_history(name: str) -> None:
    """Event by event from nothing, and from the middle on after `prefill`: the states of `encode`."""
    model = faded(name)
    items = torch.tensor([3, 1, 9, 7, 7, 2])
    cache, prefilled = model.new_cache(1), model.prefill(items[:3], cu_seqlens_of([3]))[0]
    for end in range(1, 7):
        cache, states = model.advance(cache, items[end - 1 : end])
        expected = model.encode(items[:end], cu_seqlens_of([end]))
        torch.testing.assert_close(states, expected)
        if end > 3:
            prefilled, states = model.advance(prefilled, items[end - 1 : end])
            torch.testing.assert_close(states, expected)


def test_sessions_and_saved_sessions_have_it(tmp_path) -> None:
    """A session's answers are those of the whole history, before and after it is saved."""
    served = recommender(input_fade=0.6)
    session = Session(served, HISTORY[:4])
    session.save(tmp_path / "user.safetensors")
    loaded = Session.load(tmp_path / "user.safetensors", served)
    for each in (session, loaded):
        for item in HISTORY[4:]:
            each.add(item)
        assert_same(each.recommend(5), served.recommend(HISTORY, 5))


def test_without_it_nothing_changes() -> None:
    """An input_fade of 0 adds nothing: parameters and states are those of before the option."""
    plain = make_model(load_config("quick", ["backbone.width=16"]), 12)
    assert plain.fading_sum is None
    assert not [name for name in plain.state_dict() if "fading" in name or "repeat" in name]
