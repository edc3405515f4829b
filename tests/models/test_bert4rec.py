"""BERT4Rec: masks, attention and the masked-item objective."""

import pytest
import torch

import worlds
from packed import cu_seqlens_of, randomized, relative_error
from ssd4rec.config import BERT4RecConfig, SSD4RecConfig, TrainingConfig, parse_config
from ssd4rec.data.packing import PackedBatch
from ssd4rec.errors import ConfigError
from ssd4rec.models.bert4rec import BERT4Rec
from ssd4rec.models.next_item import NextItemModel, count_parameters
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops.segments import append_to_each
from ssd4rec.training.objective import next_item_loss, pass_cost


def small(max_length: int = 20) -> NextItemModel:
    torch.manual_seed(0)
    return randomized(NextItemModel(BERT4Rec(BERT4RecConfig(width=8, max_length=max_length)), 9))


def test_append_to_each_by_hand() -> None:
    """[5, 7] and [2] with 0 and 9 appended."""
    items, cu_seqlens = append_to_each(torch.tensor([5, 7, 2]), torch.tensor([0, 2, 3]), torch.tensor([0, 9]))
    assert (items.tolist(), cu_seqlens.tolist()) == ([5, 7, 0, 2, 9], [0, 3, 5])


def test_next_item_is_predicted_at_an_appended_mask() -> None:
    """`encode` of [3, 4] is the output at the mask in [3, 4, 0]."""
    model = small()
    actual = model.encode(torch.tensor([3, 4, 7]), cu_seqlens_of([2, 1]))
    blanks = model.encode_masked(torch.tensor([3, 4, 0, 7, 0]), cu_seqlens_of([3, 2]))
    assert relative_error(actual, blanks[[2, 4]]) < 1e-12


def test_attention_is_bidirectional_within_a_sequence() -> None:
    """The output at a position depends on earlier and later positions of its sequence, and on no other sequence."""
    model, cu_seqlens = small(), cu_seqlens_of([4, 3])
    row = torch.randn(7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    states = model.backbone.encode_positions(row, cu_seqlens)
    (gradient,) = torch.autograd.grad(states[1].square().sum(), row)
    assert (gradient[:4].abs().sum(1) > 1e-9).all()
    assert not gradient[4:].any()


def test_masked_items_are_not_in_the_input() -> None:
    """No leakage: the embeddings of masked items enter the loss through the softmax only."""
    batch = PackedBatch(torch.tensor([1, 2, 3]), torch.tensor([0, 3]), torch.tensor([2, 3, 4]))
    model = small()
    model_inputs = []
    model.table.register_forward_hook(lambda _, inputs, __: model_inputs.append(inputs[0]))
    next_item_loss(model, batch, TrainingConfig(objective="masked-item", mask_ratio=0.0))
    assert model_inputs[0].tolist() == [1, 2, 3, 0]


def test_padding_has_no_targets() -> None:
    """A padding sequence of item 0 does not change the loss."""
    config = TrainingConfig(objective="masked-item", mask_ratio=0.0)
    alone = PackedBatch(torch.tensor([1, 2, 3]), torch.tensor([0, 3]), torch.tensor([2, 3, 4]))
    filled = PackedBatch(torch.tensor([1, 2, 3, 0, 0]), torch.tensor([0, 3, 5]), torch.tensor([2, 3, 4, 0, 0]))
    model = small()
    with torch.no_grad():
        assert float(next_item_loss(model, alone, config)) == pytest.approx(
            float(next_item_loss(model, filled, config)), abs=1e-12
        )


def test_random_items_and_the_last_item_are_masked() -> None:
    """With mask ratio 0.5 about half of the items and every last item are masked."""
    batch = PackedBatch(torch.ones(4000, dtype=torch.int64), torch.arange(0, 4001, 10), torch.full((4000,), 2))
    model = small()
    model_inputs = []
    model.table.register_forward_hook(lambda _, inputs, __: model_inputs.append(inputs[0]))
    torch.manual_seed(0)
    with torch.no_grad():
        next_item_loss(model, batch, TrainingConfig(objective="masked-item", mask_ratio=0.5))
    items = model_inputs[0].view(400, 11)
    assert not items[:, -1].any()
    assert float((items[:, :-1] == 0).double().mean()) == pytest.approx(0.5, abs=0.03)


def test_max_length() -> None:
    """With max_length 4 the model uses the mask and the last three items."""
    model = small(max_length=4)
    long, short = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([4, 5, 6])
    assert relative_error(model.encode(long, cu_seqlens_of([6])), model.encode(short, cu_seqlens_of([3]))) < 1e-12


def test_cost_of_masked_item_training() -> None:
    """A sequence of 6 has 4 training items: 3 + 1 tokens; targets are the last and a third of the three before it."""
    world = worlds.world([[1, 2, 3, 4, 5, 6]])
    cost = pass_cost(world.split.train, TrainingConfig(objective="masked-item", mask_ratio=0.34))
    assert (cost.tokens, cost.targets) == (4, 2)


def test_all_positions_training_is_an_error() -> None:
    """The error names the possible objectives; the default is masked-item."""
    message = r'training\.objective = "all-positions" cannot train the backbone bert4rec; .* = "masked-item" or "per-prefix"'
    with pytest.raises(ConfigError, match=message):
        parse_config('[backbone]\nname = "bert4rec"\n[training]\nobjective = "all-positions"')
    assert parse_config('[backbone]\nname = "bert4rec"').training.objective == "masked-item"
    with pytest.raises(ConfigError, match=r'BERT4Rec is bidirectional .* "masked-item" or "per-prefix"'):
        small().encode_prefixes(torch.tensor([1, 2]), cu_seqlens_of([2]))


def test_masked_item_training_of_causal_models_is_an_error() -> None:
    """The settings and the model refuse the masked-item objective for other models."""
    with pytest.raises(ConfigError, match=r'training\.objective = "masked-item" cannot train the backbone sasrec'):
        parse_config('[backbone]\nname = "sasrec"\n[training]\nobjective = "masked-item"')
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=8)), 3)
    with pytest.raises(
        ConfigError, match=r'SSD4Rec does not predict masked items; use the objective "all-positions" or "per-prefix"'
    ):
        model.encode_masked(torch.tensor([1, 0]), cu_seqlens_of([2]))


def test_number_of_parameters() -> None:
    """As SASRec, plus D^2 + D for the final projection."""
    assert count_parameters(BERT4Rec(BERT4RecConfig(width=64, max_length=50))) == 2 * 49_984 + 128 + 50 * 64 + 4_160
