"""SSD4Rec: whole sequences, every prefix, and incremental steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from packed import cu_seqlens_of, encode_each, encode_each_prefix, randomized, relative_error
from ssd4rec.config import SSD4RecConfig
from ssd4rec.errors import ConfigError, ShapeError
from ssd4rec.models.ssd4rec import Bidirectional, SSD4Rec

LENGTHS = [1, 5, 2, 6]
EXACT = 1e-11  # float64, relative to the largest value
ROUNDED = 2e-5  # float32, relative to the largest value of the float64 reference

LESS_COMMON = [("top", 1), ("none", 1), ("none", 2), ("top", 3)]
ONE_PASS = pytest.mark.parametrize(
    ("bidirectional", "layers"),
    [("all", 1), ("top", 2), *(pytest.param(*each, marks=pytest.mark.thorough) for each in LESS_COMMON)],
)
MIRRORS = pytest.mark.parametrize("mirror_back", [False, True], ids=["official", "reversed back"])
NORMS = pytest.mark.parametrize("norm_embedding", [False, True], ids=["plain", "normed"])
lengths_of_histories = st.lists(st.integers(1, 20), min_size=2, max_size=6)


def small_backbone(bidirectional: Bidirectional = "all", layers: int = 2, **others: float) -> SSD4Rec:
    sizes = {"width": 6, "state_dim": 3, "head_width": 4, "dropout": 0.3, "backward_weight": 0.7}
    torch.manual_seed(0)
    return randomized(SSD4Rec(SSD4RecConfig(**sizes, bidirectional=bidirectional, layers=layers, **others)))


def random_row(lengths: list[int] = LENGTHS) -> Tensor:
    return torch.randn(sum(lengths), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(states: Tensor, module: nn.Module, row: Tensor) -> dict[str, Tensor]:
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = {"the row itself": row, **dict(module.named_parameters())}
    actual = torch.autograd.grad(states, list(inputs.values()), weights.to(states.dtype), allow_unused=True)
    return {name: gradient for name, gradient in zip(inputs, actual, strict=True) if gradient is not None}


@ONE_PASS
@MIRRORS
@NORMS
def test_encode_prefixes_equals_each_prefix_alone(
    bidirectional: Bidirectional, layers: int, mirror_back: bool, norm_embedding: bool
) -> None:
    """Row t of one pass equals `encode` of the sequence truncated after position t."""
    backbone = small_backbone(bidirectional, layers, mirror_back=mirror_back, norm_embedding=norm_embedding)
    row, cu_seqlens = random_row(), cu_seqlens_of(LENGTHS)
    expected = encode_each_prefix(backbone.encode, row, cu_seqlens)
    assert relative_error(backbone.encode_prefixes(row, cu_seqlens), expected) < EXACT


@pytest.mark.thorough
@ONE_PASS
@MIRRORS
@NORMS
def test_gradients_of_encode_prefixes(bidirectional: Bidirectional, layers: int, mirror_back: bool, norm_embedding: bool) -> None:
    """The gradients of the input and of every parameter equal those of running each prefix alone."""
    backbone = small_backbone(bidirectional, layers, mirror_back=mirror_back, norm_embedding=norm_embedding)
    row, cu_seqlens = random_row().requires_grad_(), cu_seqlens_of(LENGTHS)
    actual = gradients(backbone.encode_prefixes(row, cu_seqlens), backbone, row)
    expected = gradients(encode_each_prefix(backbone.encode, row, cu_seqlens), backbone, row)
    assert actual.keys() == expected.keys()
    assert len(actual) >= 1 + 16 * layers
    errors = {name: relative_error(actual[name], expected[name]) for name in actual}
    assert max(errors.values()) < EXACT, errors


@pytest.mark.thorough
@pytest.mark.parametrize("conv_width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("layers", [1, 2])
def test_encode_prefixes_for_any_convolution_width(conv_width: int, layers: int) -> None:
    """One pass is exact for each width of the convolution: values and gradients."""
    backbone = small_backbone("top", layers, conv_width=conv_width)
    row, cu_seqlens = random_row().requires_grad_(), cu_seqlens_of(LENGTHS)
    one_pass, separate = backbone.encode_prefixes(row, cu_seqlens), encode_each_prefix(backbone.encode, row, cu_seqlens)
    assert relative_error(one_pass, separate) < EXACT
    actual, expected = gradients(one_pass, backbone, row), gradients(separate, backbone, row)
    assert max(relative_error(actual[name], expected[name]) for name in actual) < EXACT


@pytest.mark.thorough
@pytest.mark.parametrize("lengths", [[63], [64], [65], [3, 130]], ids=str)
def test_encode_prefixes_over_several_chunks(lengths: list[int]) -> None:
    """One pass is exact for sequences that end near the boundary of a chunk of 64 or cover several chunks."""
    backbone = small_backbone("top", 2)
    row, cu_seqlens = random_row(lengths), cu_seqlens_of(lengths)
    with torch.no_grad():
        assert (
            relative_error(backbone.encode_prefixes(row, cu_seqlens), encode_each_prefix(backbone.encode, row, cu_seqlens))
            < EXACT
        )


@pytest.mark.thorough
@MIRRORS
def test_encode_prefixes_in_float32(mirror_back: bool) -> None:
    """In float32 one pass is accurate: values and gradients."""
    lengths = [3, 1, 7, 40]
    backbone = small_backbone("top", 2, mirror_back=mirror_back, norm_embedding=True)
    row, cu_seqlens = random_row(lengths).requires_grad_(), cu_seqlens_of(lengths)
    separate = encode_each_prefix(backbone.encode, row, cu_seqlens)
    expected = gradients(separate, backbone, row)
    narrow_row, narrow = row.detach().float().requires_grad_(), backbone.float()
    one_pass = narrow.encode_prefixes(narrow_row, cu_seqlens)
    assert one_pass.dtype == torch.float32
    assert relative_error(one_pass, separate) < ROUNDED
    actual = gradients(one_pass, narrow, narrow_row)
    assert max(relative_error(actual[name], expected[name]) for name in actual) < 10 * ROUNDED


def test_encode_prefixes_with_bidirectional_lower_layers() -> None:
    """The outputs of the lower layers differ between prefixes, so this is an error."""
    message = r'all-positions training needs causal layers below the top, found bidirectional = "all" with 2 layers; use .*"top"'
    with pytest.raises(ConfigError, match=message):
        small_backbone("all", 2).encode_prefixes(random_row(), cu_seqlens_of(LENGTHS))


@pytest.mark.parametrize("read", ["encode", "encode_prefixes"])
def test_cu_seqlens_that_do_not_increase(read: str) -> None:
    """An empty sequence is an error, because it has no last position."""
    with pytest.raises(
        ShapeError, match=r"cu_seqlens must start at 0 and increase by at least 1 at each step, found \[0, 1, 1, 14\]"
    ):
        getattr(small_backbone("top"), read)(random_row(), torch.tensor([0, 1, 1, 14]))


@pytest.mark.thorough
@pytest.mark.parametrize("bidirectional", ["all", "top", "none"])
@settings(max_examples=15)
@given(lengths=lengths_of_histories)
def test_packed_batch_equals_separate_sequences(bidirectional: Bidirectional, lengths: list[int]) -> None:
    """The result of a sequence does not depend on the others."""
    backbone, row, cu_seqlens = small_backbone(bidirectional), random_row(lengths), cu_seqlens_of(lengths)
    expected = encode_each(backbone.encode, row, cu_seqlens)
    assert expected.std(dim=0).min() > 0
    assert relative_error(backbone.encode(row, cu_seqlens), expected) < EXACT


@pytest.mark.thorough
@settings(max_examples=15)
@given(lengths=lengths_of_histories, data=st.data())
def test_sequences_are_independent(lengths: list[int], data: st.DataObject) -> None:
    """If every other sequence of the packed batch changes, a sequence keeps its result, and the others do not."""
    backbone, row, cu_seqlens = small_backbone(), random_row(lengths), cu_seqlens_of(lengths)
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


@pytest.mark.thorough
@settings(max_examples=15)
@given(lengths=lengths_of_histories, data=st.data())
def test_order_of_sequences_does_not_matter(lengths: list[int], data: st.DataObject) -> None:
    """Packed in another order, the sequences have the same results in that order."""
    backbone, row = small_backbone(), random_row(lengths)
    order = data.draw(st.permutations(range(len(lengths))))
    sequences = row.split(lengths)
    shuffled = backbone.encode(torch.cat([sequences[user] for user in order]), cu_seqlens_of([lengths[user] for user in order]))
    torch.testing.assert_close(shuffled, backbone.encode(row, cu_seqlens_of(lengths))[order], rtol=EXACT, atol=EXACT)


@ONE_PASS
@MIRRORS
def test_steps_equal_encode_prefixes(bidirectional: Bidirectional, layers: int, mirror_back: bool) -> None:
    """After each step, two sequences have the representation of their prefix."""
    backbone = small_backbone(bidirectional, layers, mirror_back=mirror_back)
    row, cu_seqlens = random_row([9, 9]), cu_seqlens_of([9, 9])
    expected = backbone.encode_prefixes(row, cu_seqlens).view(2, 9, 6)
    state = backbone.new_cache(2)
    for t in range(9):
        state, actual = backbone.step(state, row.view(2, 9, 6)[:, t])
        assert relative_error(actual, expected[:, t]) < EXACT


def test_step_with_bidirectional_lower_layers() -> None:
    """A new item changes every earlier position, so this is an error."""
    backbone = small_backbone("all", 2)
    with pytest.raises(
        ConfigError, match=r'incremental inference needs causal layers below the top, found bidirectional = "all"'
    ):
        backbone.step(backbone.new_cache(1), random_row()[:1])


def test_bidirectional_layers() -> None:
    """Of three layers, "top" makes the last bidirectional, "all" every one and "none" none."""
    for bidirectional, expected in {"top": [False, False, True], "all": [True] * 3, "none": [False] * 3}.items():
        assert [layer.bidirectional for layer in small_backbone(bidirectional, 3).layers] == expected


def test_norm_embedding() -> None:
    """H0 = LayerNorm(E[v]) with norm_embedding, H0 = E[v] without."""
    plain, normed = small_backbone(), small_backbone(norm_embedding=True)
    row, cu_seqlens = random_row(), cu_seqlens_of(LENGTHS)
    H0 = F.layer_norm(row, (6,), plain.norm.weight, plain.norm.bias, eps=1e-12)
    torch.testing.assert_close(normed.encode(row, cu_seqlens), plain.encode(H0, cu_seqlens))
    assert (normed.encode(row, cu_seqlens) - plain.encode(row, cu_seqlens)).abs().max() > 1e-3


def test_dropout_precedes_norm_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training H0 = LayerNorm(Dropout(E[v])): the input of the first layer has mean 0 and no zeros."""
    torch.manual_seed(0)
    backbone = SSD4Rec(SSD4RecConfig(width=8, state_dim=3, head_width=4, dropout=0.5, norm_embedding=True)).train()
    mixer, seen = backbone.layers[0].mixer, []
    project = mixer.project
    monkeypatch.setattr(mixer, "project", lambda hidden: seen.append(hidden) or project(hidden))
    backbone.encode(torch.randn(14, 8) + 5, cu_seqlens_of(LENGTHS))
    assert seen[0].ne(0).all()
    torch.testing.assert_close(seen[0].mean(dim=1), torch.zeros(14), rtol=0, atol=1e-6)


def test_dropout_is_off_in_evaluation() -> None:
    """In evaluation mode two calls give the same bits; in training mode they do not."""
    backbone, row, cu_seqlens = small_backbone(), random_row(), cu_seqlens_of(LENGTHS)
    assert torch.equal(backbone.encode(row, cu_seqlens), backbone.encode(row, cu_seqlens))
    backbone.train()
    assert not torch.equal(backbone.encode(row, cu_seqlens), backbone.encode(row, cu_seqlens))


def test_initial_linear_layers() -> None:
    """Linear weights are N(0, 0.02), including in_proj and out_proj, and biases 0; every LayerNorm is (1, 0)."""
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
    backbone, row, cu_seqlens = small_backbone("top", layers).float(), random_row([9, 70]).float(), cu_seqlens_of([9, 70])
    expected = getattr(backbone, read)(row, cu_seqlens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = getattr(backbone, read)(row, cu_seqlens)
    assert relative_error(actual, expected) < 0.05


def test_bf16_autocast_without_a_scan() -> None:
    """With precision "bf16-mixed", the read-out without a scan agrees with float32 to two digits."""
    check_bf16("encode", 1)


@pytest.mark.parametrize(("read", "layers"), [("encode", 2), ("encode_prefixes", 1), ("encode_prefixes", 2)])
def test_bf16_autocast(read: str, layers: int) -> None:
    """With precision "bf16-mixed", the results agree with float32 to two digits."""
    check_bf16(read, layers)
