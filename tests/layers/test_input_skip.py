"""A direct path from what the network reads to the scores."""

import pytest
import torch
from torch.nn import functional as F

from packed import cu_seqlens_of, randomized
from served import HISTORY, assert_same, recommender
from ssd4rec.config import load_config
from ssd4rec.models.next_item import NextItemModel, make_model
from ssd4rec.serving.session import Session


def skipping(name: str, *overrides: str) -> NextItemModel:
    settings = [f'backbone.name="{name}"', "backbone.input_skip=true", "backbone.width=16", *overrides]
    return make_model(load_config("quick", settings), 12).double().eval()


@pytest.mark.parametrize("fade", [0.0, 0.7])
@pytest.mark.parametrize("name", ["ssd4rec", "sasrec", "gru4rec", "bert4rec"])
def test_adds_the_normalized_input_of_the_last_position(name: str, fade: float) -> None:
    """By its definition, from the parts of the model."""
    model = randomized(skipping(name, f"backbone.input_fade={fade}"))
    check_definition(model, name, model.embed)


@pytest.mark.parametrize("name", ["ssd4rec", "sasrec", "gru4rec", "bert4rec"])
def test_the_fading_sum_goes_around_the_network(name: str) -> None:
    """The network reads the item vectors themselves."""
    model = randomized(skipping(name, "backbone.input_fade=0.7", "backbone.fade_skip_only=true"))
    check_definition(model, name, lambda items, cu_seqlens: model.fading_sum(model.table(items), cu_seqlens))
    items, cu_seqlens = torch.tensor([3, 1, 2]), cu_seqlens_of([3])
    assert torch.equal(model.embed(items, cu_seqlens), model.table(items))


def check_definition(model, name, around) -> None:
    """The state is that of the network, plus LayerNorm of the last row that goes around it."""
    items, cu_seqlens = torch.tensor([3, 1, 0, 7, 7, 2]), cu_seqlens_of([4, 2])
    if name == "bert4rec":  # reads the mask after each sequence
        items, cu_seqlens = torch.tensor([3, 1, 0, 7, 0, 7, 2, 0]), cu_seqlens_of([5, 3])
    embedded, added = model.embed(items, cu_seqlens), around(items, cu_seqlens)
    norm = model.input_skip
    for row, end in enumerate(cu_seqlens[1:].tolist()):
        alone = F.layer_norm(added[end - 1], (16,), norm.weight, norm.bias)
        expected = model.backbone.encode(embedded, cu_seqlens)[row] + alone
        history = items if name != "bert4rec" else torch.tensor([3, 1, 0, 7, 7, 2])
        lengths = cu_seqlens if name != "bert4rec" else cu_seqlens_of([4, 2])
        torch.testing.assert_close(model.encode(history, lengths)[row], expected)


@pytest.mark.parametrize("skip_only", ["false", "true"])
@pytest.mark.parametrize("name", ["ssd4rec", "sasrec", "gru4rec", "caser", "mamba4rec", "sigma"])
def test_one_pass_is_every_prefix_alone(name: str, skip_only: str) -> None:
    """Row t of `encode_prefixes` is `encode` of the prefix."""
    model = randomized(skipping(name, "backbone.input_fade=0.7", f"backbone.fade_skip_only={skip_only}"))
    items = torch.tensor([3, 1, 0, 7, 7, 2])
    rows = model.encode_prefixes(items, cu_seqlens_of([4, 2]))
    for row, (start, end) in enumerate([(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6)]):
        torch.testing.assert_close(rows[row], model.encode(items[start:end], cu_seqlens_of([end - start]))[0])


@pytest.mark.parametrize(("fade", "skip_only"), [(0.0, "false"), (0.7, "false"), (0.7, "true")])
def test_steps_are_the_whole_history(fade: float, skip_only: str) -> None:
    model = randomized(skipping("ssd4rec", f"backbone.input_fade={fade}", f"backbone.fade_skip_only={skip_only}"))
    items = torch.tensor([3, 1, 9, 7])
    cache, prefilled = model.new_cache(1), model.prefill(items[:2], cu_seqlens_of([2]))[0]
    for end in range(1, 5):
        cache, states = model.advance(cache, items[end - 1 : end])
        torch.testing.assert_close(states, model.encode(items[:end], cu_seqlens_of([end])))
        if end > 2:
            prefilled, again = model.advance(prefilled, items[end - 1 : end])
            torch.testing.assert_close(again, states)


def test_a_fresh_network_scores_by_its_input_alone() -> None:
    """With norm_first the branches start at zero: the state is twice the normalized fading sum."""
    model = skipping("ssd4rec", "backbone.input_fade=0.7", "backbone.norm_first=true", "backbone.norm_embedding=false")
    items, cu_seqlens = torch.tensor([3, 1, 9]), cu_seqlens_of([3])
    norm = F.layer_norm(model.embed(items, cu_seqlens)[-1:], (16,), eps=1e-12)
    torch.testing.assert_close(model.encode(items, cu_seqlens), 2 * norm, rtol=1e-2, atol=1e-2)  # another epsilon


def test_sessions_and_saved_sessions_have_it(tmp_path) -> None:
    served = recommender(input_skip=True, input_fade=0.6, fade_skip_only=True)
    session = Session(served, HISTORY[:4])
    session.save(tmp_path / "user.safetensors")
    for each in (session, Session.load(tmp_path / "user.safetensors", served)):
        for item in HISTORY[4:]:
            each.add(item)
        assert_same(each.recommend(5), served.recommend(HISTORY, 5))
