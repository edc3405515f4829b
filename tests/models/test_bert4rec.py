"""BERT4Rec: blanks, what a position attends to, and the cloze objective."""

import pytest
import torch

import worlds
from rows import boundaries_of, relative_error, shaken
from ssd4rec.config import BERT4RecConfig, SSD4RecConfig, TrainingConfig, parse_config
from ssd4rec.data.packing import PackedBatch
from ssd4rec.errors import ConfigError
from ssd4rec.models.bert4rec import BERT4Rec
from ssd4rec.models.next_item import NextItemModel, count_parameters
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops.segments import append
from ssd4rec.training.objective import next_item_loss, pass_cost


def small(max_length: int = 20) -> NextItemModel:
    torch.manual_seed(0)
    return shaken(NextItemModel(BERT4Rec(BERT4RecConfig(width=8, max_length=max_length)), 9))


def test_a_place_at_the_end_of_each_history_by_hand() -> None:
    """[5, 7] and [2] with 0 and 9 appended."""
    items, cu_seqlens = append(torch.tensor([5, 7, 2]), torch.tensor([0, 2, 3]), torch.tensor([0, 9]))
    assert (items.tolist(), cu_seqlens.tolist()) == ([5, 7, 0, 2, 9], [0, 3, 5])


def test_the_next_item_is_asked_through_a_blank() -> None:
    """`encode` of [3, 4] is the state of the blank in [3, 4, 0]."""
    model = small()
    found = model.encode(torch.tensor([3, 4, 7]), boundaries_of([2, 1]))
    blanks = model.encode_masked(torch.tensor([3, 4, 0, 7, 0]), boundaries_of([3, 2]))
    assert relative_error(found, blanks[[2, 4]]) < 1e-12


def test_a_position_hears_both_ways_and_only_its_own_history() -> None:
    """The state of a position depends on what comes before and after it, and on no other history."""
    model, cu_seqlens = small(), boundaries_of([4, 3])
    row = torch.randn(7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    states = model.backbone.encode_positions(row, cu_seqlens)
    (gradient,) = torch.autograd.grad(states[1].square().sum(), row)
    assert (gradient[:4].abs().sum(1) > 1e-9).all()
    assert not gradient[4:].any()


def test_the_hidden_item_is_not_read() -> None:
    """Cloze does not leak: the vectors of hidden items reach the loss through the softmax alone."""
    batch = PackedBatch(torch.tensor([1, 2, 3]), torch.tensor([0, 3]), torch.tensor([2, 3, 4]))
    model = small()
    read = []
    model.table.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    next_item_loss(model, batch, TrainingConfig(objective="masked-item", mask_ratio=0.0))
    assert read[0].tolist() == [1, 2, 3, 0]


def test_fillers_are_asked_for_nothing() -> None:
    """A filler of item 0 changes no loss."""
    config = TrainingConfig(objective="masked-item", mask_ratio=0.0)
    alone = PackedBatch(torch.tensor([1, 2, 3]), torch.tensor([0, 3]), torch.tensor([2, 3, 4]))
    filled = PackedBatch(torch.tensor([1, 2, 3, 0, 0]), torch.tensor([0, 3, 5]), torch.tensor([2, 3, 4, 0, 0]))
    model = small()
    with torch.no_grad():
        assert float(next_item_loss(model, alone, config)) == pytest.approx(
            float(next_item_loss(model, filled, config)), abs=1e-12
        )


def test_random_items_are_asked_for_beside_the_last() -> None:
    """With mask ratio 0.5 about half of the items and every last one are hidden."""
    batch = PackedBatch(torch.ones(4000, dtype=torch.int64), torch.arange(0, 4001, 10), torch.full((4000,), 2))
    model = small()
    read = []
    model.table.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    torch.manual_seed(0)
    with torch.no_grad():
        next_item_loss(model, batch, TrainingConfig(objective="masked-item", mask_ratio=0.5))
    items = read[0].view(400, 11)
    assert not items[:, -1].any()
    assert float((items[:, :-1] == 0).double().mean()) == pytest.approx(0.5, abs=0.03)


def test_only_the_last_places_are_read() -> None:
    """With max_length 4 the blank and the last three events."""
    model = small(max_length=4)
    long, short = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([4, 5, 6])
    assert relative_error(model.encode(long, boundaries_of([6])), model.encode(short, boundaries_of([3]))) < 1e-12


def test_what_cloze_costs() -> None:
    """One history of 6 events trains on 4: they are read, 3 + 1; asked are the last and a third of the three before it."""
    world = worlds.world([[1, 2, 3, 4, 5, 6]])
    cost = pass_cost(world.split.train, TrainingConfig(objective="masked-item", mask_ratio=0.34))
    assert (cost.tokens, cost.targets) == (4, 2)


def test_one_pass_cannot_train_it() -> None:
    """The error says which objectives can; without one in the file, cloze is taken."""
    message = r'training\.objective = "all-positions" cannot train the backbone bert4rec; .* = "masked-item" or "per-prefix"'
    with pytest.raises(ConfigError, match=message):
        parse_config('[backbone]\nname = "bert4rec"\n[training]\nobjective = "all-positions"')
    assert parse_config('[backbone]\nname = "bert4rec"').training.objective == "masked-item"
    with pytest.raises(ConfigError, match=r'BERT4Rec reads both ways .* "masked-item" or "per-prefix"'):
        small().encode_prefixes(torch.tensor([1, 2]), boundaries_of([2]))


def test_others_do_not_fill_in_blanks() -> None:
    """Cloze is refused for a backbone that reads forwards, in the settings and by the model."""
    with pytest.raises(ConfigError, match=r'training\.objective = "masked-item" cannot train the backbone sasrec'):
        parse_config('[backbone]\nname = "sasrec"\n[training]\nobjective = "masked-item"')
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=8)), 3)
    with pytest.raises(ConfigError, match=r'SSD4Rec does not fill in blanks; use the objective "all-positions" or "per-prefix"'):
        model.encode_masked(torch.tensor([1, 0]), boundaries_of([2]))


def test_its_size() -> None:
    """SASRec's, and D^2 + D for the map at the end."""
    assert count_parameters(BERT4Rec(BERT4RecConfig(width=64, max_length=50))) == 2 * 49_984 + 128 + 50 * 64 + 4_160
