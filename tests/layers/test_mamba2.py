"""The Mamba-2 mixer and its four ways of reading a row."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rows import all_prefixes, boundaries_of, mirrored, one_by_one, relative_error, shaken
from ssd4rec.config import SSD4RecConfig
from ssd4rec.layers.mamba2 import Mamba2Mixer
from ssd4rec.ops.segments import make_layout

LENGTHS = [1, 5, 2, 9]
EXACT = 1e-12
MIRRORS = pytest.mark.parametrize("mirror_back", [False, True], ids=["official", "mirrored back"])


def small_mixer(*, mirror_back: bool = False, conv_width: int = 4) -> Mamba2Mixer:
    config = SSD4RecConfig(
        width=6, state_dim=3, head_width=4, conv_width=conv_width, backward_weight=0.7, mirror_back=mirror_back
    )
    torch.manual_seed(0)
    return shaken(Mamba2Mixer(config))


def random_row(lengths: list[int]) -> Tensor:
    return torch.randn(sum(lengths), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_one_event_by_hand() -> None:
    """A lone event: y = x (dt B.C + D), out = W RMSNorm(y SiLU(z)), with what the last tap of the convolution lets through."""
    mixer, event = small_mixer(), random_row([1])
    z, channels, dt = (mixer.in_proj.weight @ event[0]).split([12, 18, 3])
    x, B, C = F.silu(channels * mixer.conv_weight[:, 3] + mixer.conv_bias).split([12, 3, 3])
    dt = torch.log1p(torch.exp(dt + mixer.dt_bias))
    y = x * (dt * (B * C).sum() + mixer.D).repeat_interleave(4) * F.silu(z)
    normed = y / (y.square().mean() + 1e-5).sqrt() * mixer.norm.weight
    expected = mixer.out_proj.weight @ normed
    torch.testing.assert_close(mixer(event, make_layout(boundaries_of([1])))[0], expected, rtol=EXACT, atol=EXACT)


def test_forward_is_causal() -> None:
    """A change at position 3 changes no earlier output and every later one."""
    mixer, row, layout = small_mixer(), random_row([8]), make_layout(boundaries_of([8]))
    changed = row.clone()
    changed[3] += 1
    difference = (mixer(changed, layout) - mixer(row, layout)).abs().amax(dim=1)
    assert difference[:3].max() == 0
    assert difference[3:].min() > 1e-6


@pytest.mark.parametrize("way", ["forward", "both_ways", "all_prefixes"])
@MIRRORS
def test_packed_equals_one_at_a_time(way: str, mirror_back: bool) -> None:
    """Each history in the row reads as it does alone."""
    mixer, row, cu_seqlens = small_mixer(mirror_back=mirror_back), random_row(LENGTHS), boundaries_of(LENGTHS)
    expected = one_by_one(lambda history, edges: getattr(mixer, way)(history, make_layout(edges)), row, cu_seqlens)
    assert relative_error(getattr(mixer, way)(row, make_layout(cu_seqlens, chunk=8)), expected) < EXACT


def test_both_ways_adds_the_backward_read_as_it_comes_out() -> None:
    """F + beta K with K the forward mixer on each history mirrored, not mirrored back: position i of L meets item L+1-i."""
    mixer, row, cu_seqlens = small_mixer(), random_row(LENGTHS), boundaries_of(LENGTHS)
    layout = make_layout(cu_seqlens, chunk=8)
    expected = mixer(row, layout) + 0.7 * mixer(mirrored(row, cu_seqlens), layout)
    assert relative_error(mixer.both_ways(row, layout), expected) < EXACT


def test_both_ways_mirrored_back() -> None:
    """With mirror_back, K is mirrored back before it is added: position i meets item i."""
    mixer, row, cu_seqlens = small_mixer(mirror_back=True), random_row(LENGTHS), boundaries_of(LENGTHS)
    layout = make_layout(cu_seqlens, chunk=8)
    expected = mixer(row, layout) + 0.7 * mirrored(mixer(mirrored(row, cu_seqlens), layout), cu_seqlens)
    assert relative_error(mixer.both_ways(row, layout), expected) < EXACT


@MIRRORS
@pytest.mark.parametrize("conv_width", [1, 4])
def test_read_out_equals_both_ways_at_the_last_position(mirror_back: bool, conv_width: int) -> None:
    """No scan is needed for what a scan gives at the end of each history."""
    mixer, row = small_mixer(mirror_back=mirror_back, conv_width=conv_width), random_row(LENGTHS)
    layout = make_layout(boundaries_of(LENGTHS), chunk=8)
    found = mixer.read_out(row, layout, bidirectional=True)
    assert relative_error(found, mixer.both_ways(row, layout)[layout.read_out]) < EXACT


def test_read_out_forwards_equals_forward_at_the_last_position() -> None:
    """A mixer that reads forwards only is read out without its backward term."""
    mixer, row, layout = small_mixer(), random_row(LENGTHS), make_layout(boundaries_of(LENGTHS), chunk=8)
    found = mixer.read_out(row, layout, bidirectional=False)
    assert relative_error(found, mixer(row, layout)[layout.read_out]) < EXACT


@MIRRORS
@pytest.mark.parametrize("conv_width", [1, 2, 3, 4, 5])
def test_every_prefix_equals_both_ways_of_each_prefix(conv_width: int, mirror_back: bool) -> None:
    """Row t of one pass is `both_ways` of the prefix that ends at t, at its last position."""
    mixer, row, cu_seqlens = (
        small_mixer(mirror_back=mirror_back, conv_width=conv_width),
        random_row(LENGTHS),
        boundaries_of(LENGTHS),
    )
    expected = all_prefixes(lambda prefix, edges: mixer.both_ways(prefix, make_layout(edges))[-1:], row, cu_seqlens)
    assert relative_error(mixer.all_prefixes(row, make_layout(cu_seqlens, chunk=8)), expected) < EXACT


def backward_term(mixer: Mamba2Mixer, row: Tensor) -> Tensor:
    """beta K at the read-out of one history."""
    layout = make_layout(boundaries_of([len(row)]))
    return mixer.read_out(row, layout, bidirectional=True) - mixer.read_out(row, layout, bidirectional=False)


def test_the_official_backward_term_at_the_read_out_knows_every_item() -> None:
    """Difference D1: added as it comes out, the backward read at the last position has seen the whole history."""
    row = random_row([9]).requires_grad_()
    (slope,) = torch.autograd.grad(backward_term(small_mixer(), row).square().sum(), row)
    assert slope.abs().amax(dim=1).min() > 1e-6


def test_the_backward_term_mirrored_back_knows_the_last_item_only() -> None:
    """Difference D1: mirrored back, the backward read at the last position has seen that one item."""
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
    """D = 1 and the RMSNorm's weight is 1."""
    mixer = big_mixer()
    assert mixer.D.eq(1).all()
    assert mixer.norm.weight.eq(1).all()
    assert mixer.norm.eps == 1e-5


def test_shapes_of_the_parameters() -> None:
    """At D = 6, E = 12, N = 3, P = 4: in_proj gives z 12, x 12, B 3, C 3, dt 3; nothing but the convolution and dt has a bias."""
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
    """Three heads, one head or five: no multiple of 8 is asked for, which mamba-ssm 2.2.2 needs."""
    for width, head_width in ((6, 4), (2, 4), (5, 2)):
        mixer = shaken(Mamba2Mixer(SSD4RecConfig(width=width, state_dim=3, head_width=head_width)))
        row = torch.randn(5, width, dtype=torch.float64)
        assert mixer(row, make_layout(boundaries_of([5]))).isfinite().all()
