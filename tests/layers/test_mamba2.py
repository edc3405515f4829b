"""The Mamba-2 mixer and its forward methods."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from packed import cu_seqlens_of, encode_each, encode_each_prefix, randomized, relative_error, reverse_sequences
from ssd4rec.config import SSD4RecConfig
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops.segments import make_layout

LENGTHS = [1, 5, 2, 9]
EXACT = 1e-12
MIRRORS = pytest.mark.parametrize("mirror_back", [False, True], ids=["official", "reversed back"])


def small_mixer(*, mirror_back: bool = False, conv_width: int = 4) -> Mamba2Mixer:
    config = SSD4RecConfig(
        width=6, state_dim=3, head_width=4, conv_width=conv_width, backward_weight=0.7, mirror_back=mirror_back
    )
    torch.manual_seed(0)
    return randomized(Mamba2Mixer(config))


def random_row(lengths: list[int]) -> Tensor:
    return torch.randn(sum(lengths), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_single_position_by_hand() -> None:
    """Length 1: y = x (dt B.C + D) and out = W RMSNorm(y SiLU(z)), with the last tap of the convolution."""
    mixer, event = small_mixer(), random_row([1])
    z, channels, dt = (mixer.in_proj.weight @ event[0]).split([12, 18, 3])
    x, B, C = F.silu(channels * mixer.conv_weight[:, 3] + mixer.conv_bias).split([12, 3, 3])
    dt = torch.log1p(torch.exp(dt + mixer.dt_bias))
    y = x * (dt * (B * C).sum() + mixer.D).repeat_interleave(4) * F.silu(z)
    normed = y / (y.square().mean() + 1e-5).sqrt() * mixer.norm.weight
    expected = mixer.out_proj.weight @ normed
    torch.testing.assert_close(mixer(event, make_layout(cu_seqlens_of([1])))[0], expected, rtol=EXACT, atol=EXACT)


def test_forward_is_causal() -> None:
    """A change at position 3 changes every output from there on, and no earlier one."""
    mixer, row, layout = small_mixer(), random_row([8]), make_layout(cu_seqlens_of([8]))
    changed = row.clone()
    changed[3] += 1
    difference = (mixer(changed, layout) - mixer(row, layout)).abs().amax(dim=1)
    assert difference[:3].max() == 0
    assert difference[3:].min() > 1e-6


@pytest.mark.parametrize("way", ["forward", "forward_bidirectional", "forward_prefixes"])
@MIRRORS
def test_packed_batch_equals_separate_sequences(way: str, mirror_back: bool) -> None:
    """Each sequence in the packed batch gives the same result as alone."""
    mixer, row, cu_seqlens = small_mixer(mirror_back=mirror_back), random_row(LENGTHS), cu_seqlens_of(LENGTHS)
    expected = encode_each(lambda sequence, edges: getattr(mixer, way)(sequence, make_layout(edges)), row, cu_seqlens)
    assert relative_error(getattr(mixer, way)(row, make_layout(cu_seqlens, chunk=8)), expected) < EXACT


def test_bidirectional_without_mirror_back() -> None:
    """F + beta K, where K is the mixer on each reversed sequence, not reversed back: position i of L gets item L+1-i."""
    mixer, row, cu_seqlens = small_mixer(), random_row(LENGTHS), cu_seqlens_of(LENGTHS)
    layout = make_layout(cu_seqlens, chunk=8)
    expected = mixer(row, layout) + 0.7 * mixer(reverse_sequences(row, cu_seqlens), layout)
    assert relative_error(mixer.forward_bidirectional(row, layout), expected) < EXACT


def test_bidirectional_with_mirror_back() -> None:
    """With mirror_back, K is reversed back before it is added: position i gets item i."""
    mixer, row, cu_seqlens = small_mixer(mirror_back=True), random_row(LENGTHS), cu_seqlens_of(LENGTHS)
    layout = make_layout(cu_seqlens, chunk=8)
    expected = mixer(row, layout) + 0.7 * reverse_sequences(mixer(reverse_sequences(row, cu_seqlens), layout), cu_seqlens)
    assert relative_error(mixer.forward_bidirectional(row, layout), expected) < EXACT


@MIRRORS
@pytest.mark.parametrize("conv_width", [1, 4])
def test_forward_last_equals_bidirectional_at_the_last_position(mirror_back: bool, conv_width: int) -> None:
    """The read-out without a scan equals the scan at the end of each sequence."""
    mixer, row = small_mixer(mirror_back=mirror_back, conv_width=conv_width), random_row(LENGTHS)
    layout = make_layout(cu_seqlens_of(LENGTHS), chunk=8)
    actual = mixer.forward_last(row, layout, bidirectional=True)
    assert relative_error(actual, mixer.forward_bidirectional(row, layout)[layout.last_index]) < EXACT


def test_causal_forward_last_equals_forward_at_the_last_position() -> None:
    """A causal read-out has no backward term."""
    mixer, row, layout = small_mixer(), random_row(LENGTHS), make_layout(cu_seqlens_of(LENGTHS), chunk=8)
    actual = mixer.forward_last(row, layout, bidirectional=False)
    assert relative_error(actual, mixer(row, layout)[layout.last_index]) < EXACT


@MIRRORS
@pytest.mark.parametrize("conv_width", [1, 2, 3, 4, 5])
def test_forward_prefixes_equals_bidirectional_of_each_prefix(conv_width: int, mirror_back: bool) -> None:
    """Row t of one pass equals `forward_bidirectional` of the prefix that ends at t, at its last position."""
    mixer, row, cu_seqlens = (
        small_mixer(mirror_back=mirror_back, conv_width=conv_width),
        random_row(LENGTHS),
        cu_seqlens_of(LENGTHS),
    )
    expected = encode_each_prefix(
        lambda prefix, edges: mixer.forward_bidirectional(prefix, make_layout(edges))[-1:], row, cu_seqlens
    )
    assert relative_error(mixer.forward_prefixes(row, make_layout(cu_seqlens, chunk=8)), expected) < EXACT


def backward_term(mixer: Mamba2Mixer, row: Tensor) -> Tensor:
    """Return beta K at the last position of one sequence."""
    layout = make_layout(cu_seqlens_of([len(row)]))
    return mixer.forward_last(row, layout, bidirectional=True) - mixer.forward_last(row, layout, bidirectional=False)


def test_official_backward_term_depends_on_every_item() -> None:
    """Difference D1: not reversed back, the backward term at the last position depends on the whole sequence."""
    row = random_row([9]).requires_grad_()
    (slope,) = torch.autograd.grad(backward_term(small_mixer(), row).square().sum(), row)
    assert slope.abs().amax(dim=1).min() > 1e-6


def test_reversed_back_backward_term_depends_on_the_last_item_only() -> None:
    """Difference D1: reversed back, the backward term at the last position depends on that item only."""
    mixer, row = small_mixer(mirror_back=True), random_row([9])
    changed = row.clone()
    changed[:-1] += 1
    torch.testing.assert_close(backward_term(mixer, changed), backward_term(mixer, row), rtol=0, atol=1e-12)
    changed[-1] += 1
    assert (backward_term(mixer, changed) - backward_term(mixer, row)).abs().min() > 1e-6


def big_mixer() -> Mamba2Mixer:
    torch.manual_seed(0)
    return Mamba2Mixer(SSD4RecConfig(width=64, state_dim=64, head_width=1))  # 128 heads, 256 channels


def test_initial_decay_rates() -> None:
    """A is uniform in [-16, -1]: mean -8.5, standard deviation 15 / sqrt(12) = 4.33."""
    A = big_mixer().A
    assert A.min() >= -16
    assert A.max() <= -1
    assert A.mean().item() == pytest.approx(-8.5, abs=1.2)  # three standard errors of 128
    assert A.std().item() == pytest.approx(4.33, abs=0.6)


def test_initial_step_sizes() -> None:
    """softplus(dt_bias) is log-uniform in [1e-3, 1e-1]: mean of log10 -2, standard deviation 2 / sqrt(12) = 0.577."""
    dt = F.softplus(big_mixer().dt_bias)
    assert dt.min() >= 1e-3 * (1 - 1e-4)
    assert dt.max() <= 1e-1 * (1 + 1e-4)
    assert dt.log10().mean().item() == pytest.approx(-2, abs=0.16)
    assert dt.log10().std().item() == pytest.approx(0.577, abs=0.08)


@pytest.mark.parametrize("parameter", ["conv_weight", "conv_bias"])
def test_initial_convolution(parameter: str) -> None:
    """Width 4: weights and biases uniform in [-1/2, 1/2], as torch's own convolution."""
    values = getattr(big_mixer(), parameter)
    assert values.abs().max() <= 0.5
    assert values.mean().item() == pytest.approx(0, abs=0.06)
    assert values.std().item() == pytest.approx(1 / 12**0.5, abs=0.03)


def test_initial_skip_and_norm_are_one() -> None:
    """D = 1 and the weight of the RMSNorm is 1."""
    mixer = big_mixer()
    assert mixer.D.eq(1).all()
    assert mixer.norm.weight.eq(1).all()
    assert mixer.norm.eps == 1e-5


def test_shapes_of_the_parameters() -> None:
    """At D = 6, E = 12, N = 3, P = 4 in_proj has widths z 12, x 12, B 3, C 3, dt 3; only the convolution and dt have biases."""
    shapes = {name: tuple(parameter.shape) for name, parameter in small_mixer().named_parameters()}
    assert shapes == {
        "in_proj.weight": (33, 6),
        "conv_weight": (18, 4),
        "conv_bias": (18,),
        "dt_bias": (3,),
        "A_log": (3,),
        "D": (3,),
        "norm.weight": (12,),
        "out_proj.weight": (6, 12),
    }


def test_any_number_of_heads() -> None:
    """Three, one or five heads work; mamba-ssm 2.2.2 needs a multiple of 8."""
    for width, head_width in ((6, 4), (2, 4), (5, 2)):
        mixer = randomized(Mamba2Mixer(SSD4RecConfig(width=width, state_dim=3, head_width=head_width)))
        row = torch.randn(5, width, dtype=torch.float64)
        assert mixer(row, make_layout(cu_seqlens_of([5]))).isfinite().all()
