"""LayerNorm and dropout on the branches."""

import pytest
import torch
from torch.nn import functional as F

from packed import cu_seqlens_of, randomized
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.models.mamba4rec import Mamba4Rec, Mamba4RecConfig
from ssd4rec.models.ssd4rec import SSD4Rec, SSD4RecConfig
from ssd4rec.ops.segments import make_layout

SIZES = {"width": 16, "state_dim": 8, "head_width": 8, "dropout": 0.0, "backward_weight": 0.7, "norm_first": True}
LENGTHS = [4, 1, 70]


def backbone(**settings: object) -> SSD4Rec:
    torch.manual_seed(0)
    return randomized(SSD4Rec(SSD4RecConfig(**(SIZES | settings)))).double().eval()


def row() -> torch.Tensor:
    return torch.randn(sum(LENGTHS), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_layer_is_its_definition() -> None:
    """H1 = H + mixer(LayerNorm(H)), H2 = H1 + W2 GELU(W1 LayerNorm(H1) + b1) + b2."""
    layer = randomized(BiSSDLayer(SSD4RecConfig(**SIZES), bidirectional=True)).double().eval()
    hidden, layout = row(), make_layout(cu_seqlens_of(LENGTHS))
    between = hidden + layer.mixer.forward_prefixes(layer.norm(hidden), layout)
    ffn = layer.feed_forward
    expected = between + ffn.narrow(F.gelu(ffn.widen(ffn.norm(between))))
    torch.testing.assert_close(layer.forward_prefixes(hidden, layout), expected)


def test_a_fresh_network_is_the_layer_norm_of_its_input() -> None:
    """Every branch starts at zero, however many layers there are."""
    model = SSD4Rec(SSD4RecConfig(**(SIZES | {"layers": 2}))).double().eval()
    expected = F.layer_norm(row(), (16,), eps=1e-12)
    torch.testing.assert_close(model.encode_prefixes(row(), cu_seqlens_of(LENGTHS)), expected)


def test_dropout_is_on_the_branches() -> None:
    """With branches of zero, dropout of 0.9 changes nothing of what a fresh network gives in training."""
    model = SSD4Rec(SSD4RecConfig(**(SIZES | {"dropout": 0.9}))).double().train()
    expected = F.layer_norm(row(), (16,), eps=1e-12)
    torch.testing.assert_close(model.encode_prefixes(row(), cu_seqlens_of(LENGTHS)), expected)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", ["none", "top"])
def test_one_pass_and_steps_are_every_prefix_alone(layers: int, bidirectional: str) -> None:
    """The states of one pass, of reading event by event, and after `prefill`, are those of each prefix."""
    model, hidden, length = backbone(layers=layers, bidirectional=bidirectional), row(), 6
    rows = model.encode_prefixes(hidden[:length], cu_seqlens_of([length]))
    cache = model.new_cache(1)
    _, prefilled = model.prefill(hidden[:length], cu_seqlens_of([length]))
    for end in range(1, length + 1):
        expected = model.encode(hidden[:end], cu_seqlens_of([end]))
        torch.testing.assert_close(rows[end - 1 : end], expected)
        cache, states = model.step(cache, hidden[end - 1 : end])
        torch.testing.assert_close(states, expected)
    torch.testing.assert_close(prefilled, expected)


def test_mamba4rec_has_the_same_wiring() -> None:
    """Mamba4Rec with the option is SSD4Rec that normalizes item vectors and reads forwards only."""
    sizes = {key: value for key, value in SIZES.items() if key != "backward_weight"}
    ours = randomized(Mamba4Rec(Mamba4RecConfig(**sizes))).double().eval()
    other = backbone(bidirectional="none", norm_embedding=True)
    other.load_state_dict(ours.state_dict())
    torch.testing.assert_close(*(each.encode(row(), cu_seqlens_of(LENGTHS)) for each in (ours, other)))
