"""Several networks side by side are the mean of networks that stand alone."""

import pytest
import torch
from torch import Tensor

from packed import cu_seqlens_of, randomized
from served import HISTORY, assert_same, recommender
from ssd4rec.config import load_config
from ssd4rec.errors import ConfigError
from ssd4rec.explain.leave_one_out import reads_in_one_pass, states_by_rereading, states_in_one_pass
from ssd4rec.models.next_item import NextItemModel, make_model
from ssd4rec.ops.repeats import prefix_items
from ssd4rec.ops.sampled_softmax import make_negative_sampler
from ssd4rec.serving.session import Session
from ssd4rec.training.item_shards import check_shardable

MEMBERS, WIDTH, ITEMS = 3, 16, 12
NAMES = ["ssd4rec", "sasrec", "gru4rec", "caser", "mamba4rec", "sigma", "bert4rec"]
SURROUNDINGS = (
    "backbone.input_fade=0.7",
    "backbone.input_skip=true",
    "backbone.fade_skip_only=true",
    "backbone.repeat_logits=popularity",
)
ITEMS_READ, CU_SEQLENS = torch.tensor([3, 1, 5, 7, 7, 2]), cu_seqlens_of([4, 2])


def model_of(name: str, *overrides: str, members: int = MEMBERS) -> NextItemModel:
    settings = [f'backbone.name="{name}"', f"backbone.width={WIDTH}", f"backbone.members={members}", *SURROUNDINGS, *overrides]
    if name == "bert4rec":
        settings.append("training.objective=masked-item")
    return make_model(load_config("quick", settings), ITEMS).double().eval()


def alone(model: NextItemModel, member: int, name: str, *overrides: str) -> NextItemModel:
    """Return one member as a model of its own."""
    single = model_of(name, *overrides, members=1)
    columns = slice(member * WIDTH, (member + 1) * WIDTH)
    weights = {
        key.replace(f"backbone.members.{member}.", "backbone."): value
        for key, value in model.state_dict().items()
        if f"members.{member}." in key or "members." not in key
    }
    weights["table.weight"] = weights["table.weight"][:, columns]
    weights["repeat_logits.state_weight"] = weights["repeat_logits.state_weight"][:, columns]
    weights |= {key: weights[key][columns] for key in ("input_skip.weight", "input_skip.bias")}
    single.load_state_dict(weights)
    return single


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_mean_of_the_members(name: str) -> None:
    model = randomized(model_of(name))
    history = (ITEMS_READ, CU_SEQLENS)
    each = [alone(model, member, name) for member in range(MEMBERS)]
    expected = torch.stack([single.score(single.encode(*history), history) for single in each]).mean(0)
    torch.testing.assert_close(model.score(model.encode(*history), history), expected)
    assert (each[0].score(each[0].encode(*history), history) - expected).abs().max() > 0.01


@pytest.mark.parametrize("sampled", [False, True])
def test_loss_and_gradients_are_the_means_of_the_members(sampled: bool) -> None:
    """Each member has a softmax of its own."""
    model = randomized(model_of("ssd4rec"))
    each = [alone(model, member, "ssd4rec") for member in range(MEMBERS)]
    targets = torch.tensor([2, 9, 4, 1, 12, 3])
    prefixes = prefix_items(ITEMS_READ, CU_SEQLENS, torch.arange(6))

    def loss_of(one: NextItemModel) -> Tensor:
        torch.manual_seed(5)
        sampler = make_negative_sampler(torch.ones(ITEMS), 0.5, 6) if sampled else None
        return one.loss(one.encode_prefixes(ITEMS_READ, CU_SEQLENS), targets, sampler, 0.1, prefixes)

    loss, losses = loss_of(model), [loss_of(single) for single in each]
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    loss.backward()
    torch.stack(losses).mean().backward()
    torch.testing.assert_close(model.table.weight.grad, torch.cat([single.table.weight.grad for single in each], dim=1))
    ours = dict(model.backbone.named_parameters())
    for member, single in enumerate(each):
        for key, parameter in single.backbone.named_parameters():
            torch.testing.assert_close(ours[f"members.{member}.{key}"].grad, parameter.grad)
    shared = sum(single.repeat_logits.weight.grad for single in each)
    torch.testing.assert_close(model.repeat_logits.weight.grad, shared)


def test_members_start_with_other_weights() -> None:
    vectors = model_of("ssd4rec").item_vectors.unflatten(1, (MEMBERS, WIDTH))
    assert (vectors[:, 0] - vectors[:, 1]).abs().min() > 0


@pytest.mark.parametrize("name", NAMES[:-1])
def test_one_pass_is_every_prefix_alone(name: str) -> None:
    model = randomized(model_of(name))
    rows = model.encode_prefixes(ITEMS_READ, CU_SEQLENS)
    for row, (start, end) in enumerate([(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6)]):
        torch.testing.assert_close(rows[row], model.encode(ITEMS_READ[start:end], cu_seqlens_of([end - start]))[0])


@pytest.mark.parametrize("name", ["ssd4rec", "mamba4rec"])
def test_steps_are_the_whole_history(name: str) -> None:
    model = randomized(model_of(name, "backbone.layers=2"))
    assert model.supports_incremental
    items = torch.tensor([3, 1, 9, 7])
    cache, prefilled = model.new_cache(1), model.prefill(items[:2], cu_seqlens_of([2]))[0]
    for end in range(1, 5):
        cache, states = model.advance(cache, items[end - 1 : end])
        torch.testing.assert_close(states, model.encode(items[:end], cu_seqlens_of([end])))
        if end > 2:
            prefilled, again = model.advance(prefilled, items[end - 1 : end])
            torch.testing.assert_close(again, states)


def test_members_that_cannot_read_event_by_event() -> None:
    model = model_of("sasrec")
    assert not model.supports_incremental
    with pytest.raises(ConfigError, match="backbone SASRec does not support incremental inference"):
        model.new_cache(1)


@pytest.mark.parametrize("overrides", [(), ("backbone.norm_embedding=true", "backbone.norm_first=true")])
def test_explanations_in_one_pass_equal_re_reading(overrides: tuple[str, ...]) -> None:
    model = randomized(model_of("ssd4rec", *overrides))
    assert reads_in_one_pass(model)
    items = torch.tensor([3, 1, 5, 7, 7, 2, 11])
    with torch.inference_mode():
        states = states_in_one_pass(model, items)
        torch.testing.assert_close(states[:-1], states_by_rereading(model, items, torch.arange(7)))
        torch.testing.assert_close(states[-1:], model.encode(items, cu_seqlens_of([7])))


def test_shards_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shard_item_table = true does not support"):
        check_shardable(model_of("ssd4rec"))


def test_dropout_differs_between_members() -> None:
    """Members with equal weights read other item vectors in training."""
    model = model_of("ssd4rec", "backbone.input_dropout=0.5")
    with torch.no_grad():
        model.table.weight.copy_(model.table.weight[:, :WIDTH].repeat(1, MEMBERS))
        for member in model.backbone.members:
            member.load_state_dict(model.backbone.members[0].state_dict())
    states = model.encode(ITEMS_READ, CU_SEQLENS).unflatten(1, (MEMBERS, WIDTH))
    assert torch.equal(states[:, 0], states[:, 1])
    states = model.train().encode(ITEMS_READ, CU_SEQLENS).unflatten(1, (MEMBERS, WIDTH))
    assert not torch.allclose(states[:, 0], states[:, 1])


def test_sessions_and_saved_sessions(tmp_path) -> None:
    served = recommender(members=2, input_skip=True, input_fade=0.6, fade_skip_only=True)
    session = Session(served, HISTORY[:4])
    session.save(tmp_path / "user.safetensors")
    for each in (session, Session.load(tmp_path / "user.safetensors", served)):
        for item in HISTORY[4:]:
            each.add(item)
        assert_same(each.recommend(5), served.recommend(HISTORY, 5))
