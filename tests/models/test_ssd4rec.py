"""The SSD4Rec backbone: whole histories, every prefix, one event at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rows import all_prefixes, boundaries_of, one_by_one, relative_error, shaken
from ssd4rec.config import Bidirectional, SSD4RecConfig
from ssd4rec.errors import ConfigError, ShapeError
from ssd4rec.models.ssd4rec import SSD4Rec

LENGTHS = [1, 5, 2, 6]
EXACT = 1e-11  # float64, relative to the largest number
ROUNDED = 2e-5  # float32 against float64 with the same weights, relative to the largest number

ONE_PASS = pytest.mark.parametrize(
    ("bidirectional", "layers"), [("all", 1), ("top", 1), ("none", 1), ("top", 2), ("none", 2), ("top", 3)]
)
MIRRORS = pytest.mark.parametrize("mirror_back", [False, True], ids=["official", "mirrored back"])
NORMS = pytest.mark.parametrize("norm_embedding", [False, True], ids=["plain", "normed"])
lengths_of_histories = st.lists(st.integers(1, 20), min_size=2, max_size=6)


def small_backbone(bidirectional: Bidirectional = "all", layers: int = 2, **others: float) -> SSD4Rec:
    sizes = {"width": 6, "state_dim": 3, "head_width": 4, "dropout": 0.3, "backward_weight": 0.7}
    torch.manual_seed(0)
    return shaken(SSD4Rec(SSD4RecConfig(**sizes, bidirectional=bidirectional, layers=layers, **others)))


def random_row(lengths: list[int] = LENGTHS) -> Tensor:
    return torch.randn(sum(lengths), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(states: Tensor, module: nn.Module, row: Tensor) -> dict[str, Tensor]:
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    named = {"the row itself": row, **dict(module.named_parameters())}
    found = torch.autograd.grad(states, list(named.values()), weights.to(states.dtype), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}


@ONE_PASS
@MIRRORS
@NORMS
def test_every_prefix_is_the_prefix_alone(
    bidirectional: Bidirectional, layers: int, mirror_back: bool, norm_embedding: bool
) -> None:
    """Row t of one pass is `encode` of the history cut after position t."""
    backbone = small_backbone(bidirectional, layers, mirror_back=mirror_back, norm_embedding=norm_embedding)
    row, cu_seqlens = random_row(), boundaries_of(LENGTHS)
    expected = all_prefixes(backbone.encode, row, cu_seqlens)
    assert relative_error(backbone.encode_prefixes(row, cu_seqlens), expected) < EXACT


@ONE_PASS
@MIRRORS
@NORMS
def test_gradients_of_every_prefix(bidirectional: Bidirectional, layers: int, mirror_back: bool, norm_embedding: bool) -> None:
    """The gradients of the row and of every parameter are those of running each prefix alone."""
    backbone = small_backbone(bidirectional, layers, mirror_back=mirror_back, norm_embedding=norm_embedding)
    row, cu_seqlens = random_row().requires_grad_(), boundaries_of(LENGTHS)
    found = gradients(backbone.encode_prefixes(row, cu_seqlens), backbone, row)
    expected = gradients(all_prefixes(backbone.encode, row, cu_seqlens), backbone, row)
    assert found.keys() == expected.keys()
    assert len(found) >= 1 + 16 * layers
    errors = {name: relative_error(found[name], expected[name]) for name in found}
    assert max(errors.values()) < EXACT, errors


@pytest.mark.parametrize("conv_width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("layers", [1, 2])
def test_every_prefix_for_any_convolution(conv_width: int, layers: int) -> None:
    """One pass is exact for each width of the convolution, values and gradients."""
    backbone = small_backbone("top", layers, conv_width=conv_width)
    row, cu_seqlens = random_row().requires_grad_(), boundaries_of(LENGTHS)
    once, alone = backbone.encode_prefixes(row, cu_seqlens), all_prefixes(backbone.encode, row, cu_seqlens)
    assert relative_error(once, alone) < EXACT
    found, expected = gradients(once, backbone, row), gradients(alone, backbone, row)
    assert max(relative_error(found[name], expected[name]) for name in found) < EXACT


@pytest.mark.parametrize("lengths", [[63], [64], [65], [3, 130]], ids=str)
def test_every_prefix_over_several_chunks(lengths: list[int]) -> None:
    """One pass is exact where histories end beside a chunk of 64, and where they run on over several."""
    backbone = small_backbone("top", 2)
    row, cu_seqlens = random_row(lengths), boundaries_of(lengths)
    with torch.no_grad():
        assert relative_error(backbone.encode_prefixes(row, cu_seqlens), all_prefixes(backbone.encode, row, cu_seqlens)) < EXACT


@MIRRORS
def test_every_prefix_in_float32(mirror_back: bool) -> None:
    """In float32 one pass is right to rounding, values and gradients."""
    lengths = [3, 1, 7, 40]
    backbone = small_backbone("top", 2, mirror_back=mirror_back, norm_embedding=True)
    row, cu_seqlens = random_row(lengths).requires_grad_(), boundaries_of(lengths)
    alone = all_prefixes(backbone.encode, row, cu_seqlens)
    expected = gradients(alone, backbone, row)
    narrow_row, narrow = row.detach().float().requires_grad_(), backbone.float()
    once = narrow.encode_prefixes(narrow_row, cu_seqlens)
    assert once.dtype == torch.float32
    assert relative_error(once, alone) < ROUNDED
    found = gradients(once, narrow, narrow_row)
    assert max(relative_error(found[name], expected[name]) for name in found) < 10 * ROUNDED


def test_every_prefix_of_several_layers_that_read_both_ways() -> None:
    """It does not exist: the layers below give other states to each prefix."""
    message = r'one pass over a history needs layers below the top .* found bidirectional = "all" with 2 layers; use .*"top"'
    with pytest.raises(ConfigError, match=message):
        small_backbone("all", 2).encode_prefixes(random_row(), boundaries_of(LENGTHS))


@pytest.mark.parametrize("read", ["encode", "encode_prefixes"])
def test_boundaries_that_do_not_rise(read: str) -> None:
    """An empty history has nothing to read out."""
    with pytest.raises(
        ShapeError, match=r"cu_seqlens must be \[0, …\] and rise by 1 or more at each step, found \[0, 1, 1, 14\]"
    ):
        getattr(small_backbone("top"), read)(random_row(), torch.tensor([0, 1, 1, 14]))


@pytest.mark.parametrize("bidirectional", ["all", "top", "none"])
@settings(max_examples=15)
@given(lengths=lengths_of_histories)
def test_packed_equals_one_at_a_time(bidirectional: Bidirectional, lengths: list[int]) -> None:
    """A user's state is what it is without neighbors."""
    backbone, row, cu_seqlens = small_backbone(bidirectional), random_row(lengths), boundaries_of(lengths)
    expected = one_by_one(backbone.encode, row, cu_seqlens)
    assert expected.std(dim=0).min() > 0
    assert relative_error(backbone.encode(row, cu_seqlens), expected) < EXACT


@settings(max_examples=15)
@given(lengths=lengths_of_histories, data=st.data())
def test_other_neighbours_change_nothing(lengths: list[int], data: st.DataObject) -> None:
    """When every other history in the row changes, a user's state stays, and theirs do not."""
    backbone, row, cu_seqlens = small_backbone(), random_row(lengths), boundaries_of(lengths)
    user = data.draw(st.integers(0, len(lengths) - 1))
    theirs = torch.ones(len(row), 1, dtype=torch.bool)
    theirs[cu_seqlens[user] : cu_seqlens[user + 1]] = False
    before, after = (
        backbone.encode(row, cu_seqlens),
        backbone.encode(row + theirs * torch.tensor([1.0, 0, 2, 0, 0, 3]), cu_seqlens),
    )
    torch.testing.assert_close(after[user], before[user], rtol=EXACT, atol=EXACT)
    others = torch.arange(len(lengths)) != user
    assert (after - before)[others].abs().amax(dim=1).min() > 1e-6


@settings(max_examples=15)
@given(lengths=lengths_of_histories, data=st.data())
def test_order_of_histories_does_not_matter(lengths: list[int], data: st.DataObject) -> None:
    """Laid end to end in another order, the histories have the same states in that order."""
    backbone, row = small_backbone(), random_row(lengths)
    order = data.draw(st.permutations(range(len(lengths))))
    histories = row.split(lengths)
    shuffled = backbone.encode(torch.cat([histories[user] for user in order]), boundaries_of([lengths[user] for user in order]))
    torch.testing.assert_close(shuffled, backbone.encode(row, boundaries_of(lengths))[order], rtol=EXACT, atol=EXACT)


@ONE_PASS
@MIRRORS
def test_step_by_step_equals_the_whole(bidirectional: Bidirectional, layers: int, mirror_back: bool) -> None:
    """Two histories fed event by event have, after each event, the state of their prefix."""
    backbone = small_backbone(bidirectional, layers, mirror_back=mirror_back)
    row, cu_seqlens = random_row([9, 9]), boundaries_of([9, 9])
    expected = backbone.encode_prefixes(row, cu_seqlens).view(2, 9, 6)
    state = backbone.new_cache(2)
    for t in range(9):
        state, found = backbone.step(state, row.view(2, 9, 6)[:, t])
        assert relative_error(found, expected[:, t]) < EXACT


def test_step_of_several_layers_that_read_both_ways() -> None:
    """It does not exist: a new event changes every earlier position."""
    backbone = small_backbone("all", 2)
    with pytest.raises(ConfigError, match=r'reading event by event needs layers below the top .* found bidirectional = "all"'):
        backbone.step(backbone.new_cache(1), random_row()[:1])


def test_top_reads_backwards_in_the_top_layer_only() -> None:
    """Of three layers "top" turns the last, "all" every one, "none" no one."""
    for bidirectional, expected in {"top": [False, False, True], "all": [True] * 3, "none": [False] * 3}.items():
        assert [layer.bidirectional for layer in small_backbone(bidirectional, 3).layers] == expected


def test_norm_embedding_norms_what_comes_in() -> None:
    """With it, H0 = LayerNorm(E[v]); without, H0 = E[v]."""
    plain, normed = small_backbone(), small_backbone(norm_embedding=True)
    row, cu_seqlens = random_row(), boundaries_of(LENGTHS)
    H0 = F.layer_norm(row, (6,), plain.norm.weight, plain.norm.bias, eps=1e-12)
    torch.testing.assert_close(normed.encode(row, cu_seqlens), plain.encode(H0, cu_seqlens))
    assert (normed.encode(row, cu_seqlens) - plain.encode(row, cu_seqlens)).abs().max() > 1e-3


def test_norm_embedding_drops_before_it_norms() -> None:
    """In training H0 = LayerNorm(Dropout(E[v])), in that order: what reaches the first layer has mean 0 and no zeros."""
    torch.manual_seed(0)
    backbone = SSD4Rec(SSD4RecConfig(width=8, state_dim=3, head_width=4, dropout=0.5, norm_embedding=True)).train()
    seen = []
    backbone.layers[0].mixer.in_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone.encode(torch.randn(14, 8) + 5, boundaries_of(LENGTHS))
    assert seen[0].ne(0).all()
    torch.testing.assert_close(seen[0].mean(dim=1), torch.zeros(14), rtol=0, atol=1e-6)


def test_dropout_is_off_in_evaluation() -> None:
    """In evaluation two reads are the same bit for bit; in training they are not."""
    backbone, row, cu_seqlens = small_backbone(), random_row(), boundaries_of(LENGTHS)
    assert torch.equal(backbone.encode(row, cu_seqlens), backbone.encode(row, cu_seqlens))
    backbone.train()
    assert not torch.equal(backbone.encode(row, cu_seqlens), backbone.encode(row, cu_seqlens))


def test_initial_linear_maps() -> None:
    """Every linear map is N(0, 0.02) and its bias 0, in_proj and out_proj included; every LayerNorm is (1, 0)."""
    torch.manual_seed(0)
    backbone = SSD4Rec(SSD4RecConfig(width=64, layers=2))
    maps = [module for module in backbone.modules() if isinstance(module, nn.Linear)]
    assert len(maps) == 2 * 4
    for module in maps:
        assert module.weight.mean().item() == pytest.approx(0, abs=1e-3)
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert module.bias is None or module.bias.eq(0).all()
    norms = [module for module in backbone.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 1 + 2 * 2
    for module in norms:
        assert module.weight.eq(1).all()
        assert module.bias.eq(0).all()


def check_bf16(read: str, layers: int) -> None:
    backbone, row, cu_seqlens = small_backbone("top", layers).float(), random_row([9, 70]).float(), boundaries_of([9, 70])
    expected = getattr(backbone, read)(row, cu_seqlens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = getattr(backbone, read)(row, cu_seqlens)
    assert relative_error(found, expected) < 0.05


def test_bf16_autocast_reads_once() -> None:
    """With precision "bf16-mixed", what is read without a scan is that of float32 to bfloat16's two digits."""
    check_bf16("encode", 1)


@pytest.mark.parametrize(("read", "layers"), [("encode", 2), ("encode_prefixes", 1), ("encode_prefixes", 2)])
def test_bf16_autocast(read: str, layers: int) -> None:
    """With precision "bf16-mixed" the states are those of float32 to bfloat16's two digits."""
    check_bf16(read, layers)
