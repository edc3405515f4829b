"""Properties that every model has."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

import worlds
from packed import cu_seqlens_of, encode_each, encode_each_prefix, randomized, relative_error
from ssd4rec.artifact import load_artifact, save_artifact
from ssd4rec.config import BACKBONES, Config, parse_config
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ShapeError
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.models.next_item import make_model
from ssd4rec.models.registry import make_backbone
from ssd4rec.ops import dispatch
from ssd4rec.training.loop import fit
from watched import Watched

LENGTHS = [1, 5, 2, 13, 6]
# Small models, with dropout, so that a test fails if it forgets evaluation mode.
SMALL = {
    "ssd4rec": {"state_dim": 4, "head_width": 4, "layers": 2},
    "sasrec": {"layers": 2, "max_length": 20},
    "gru4rec": {"hidden": 6, "layers": 2},
    "bert4rec": {"layers": 2, "max_length": 20},
    "caser": {"window": 4, "horizontal": 3, "vertical": 2},
    "sigma": {"state_dim": 4, "head_width": 4, "kept": 5},
    "mamba4rec": {"state_dim": 4, "head_width": 4, "layers": 2},
}
# BERT4Rec has to learn its positions: it needs more users, smaller steps and more time than a test should take.
LEARNT = {"bert4rec": 0.5}
EVERY = pytest.mark.parametrize("name", list(BACKBONES))
ONE_PASS = pytest.mark.parametrize("name", [name for name, kind in BACKBONES.items() if "all-positions" in kind.objectives])


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    settings = {"name": name, "width": 8, "dropout": 0.3, **SMALL[name]}
    return randomized(
        make_backbone(Config.model_validate({"backbone": settings, "training": {"objective": "per-prefix"}}).backbone)
    )


def random_row(length: int = sum(LENGTHS)) -> Tensor:
    return torch.randn(length, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@EVERY
def test_packed_batch_equals_separate_sequences(name: str) -> None:
    """The result does not depend on the other sequences of the packed batch."""
    backbone, row, cu_seqlens = small(name), random_row(), cu_seqlens_of(LENGTHS)
    actual = backbone.encode(row, cu_seqlens).detach()
    assert actual.shape == (5, 8)
    assert relative_error(actual, encode_each(backbone.encode, row, cu_seqlens)) < 1e-11
    assert float(actual.std(dim=0).min()) > 1e-6


@EVERY
def test_sequences_are_independent(name: str) -> None:
    """Changing one sequence changes only its result; another order of sequences gives the same results."""
    backbone, row, cu_seqlens = small(name), random_row(), cu_seqlens_of(LENGTHS)
    other = row.clone()
    other[1:6] += random_row(5)
    with torch.no_grad():
        states, changed = backbone.encode(row, cu_seqlens), backbone.encode(other, cu_seqlens)
    change = (states - changed).abs().amax(dim=1)
    assert float(change[1]) > 1e-3
    assert float(change[[0, 2, 3, 4]].max()) < 1e-11
    backwards = torch.cat(list(reversed(row.split(LENGTHS))))
    assert relative_error(backbone.encode(backwards, cu_seqlens_of(LENGTHS[::-1])).flip(0), states) < 1e-11


@EVERY
def test_every_item_of_a_short_sequence_matters(name: str) -> None:
    """The result depends on each of four items, and on their order."""
    backbone, row = small(name), random_row(4).requires_grad_()
    state = backbone.encode(row, cu_seqlens_of([4]))
    (gradient,) = torch.autograd.grad(state.square().sum(), row)
    assert (gradient.abs().sum(1) > 1e-9).all()
    swapped = backbone.encode(row[[1, 0, 2, 3]], cu_seqlens_of([4]))
    assert float((swapped - state).detach().abs().max()) > 1e-6


@pytest.mark.thorough
@ONE_PASS
def test_all_positions_equal_each_prefix_alone(name: str) -> None:
    """Row t of one pass equals `encode` of the sequence truncated after t: values and gradients."""
    backbone, cu_seqlens = small(name), cu_seqlens_of(LENGTHS)
    row = random_row().requires_grad_()
    one_pass, separate = backbone.encode_prefixes(row, cu_seqlens), encode_each_prefix(backbone.encode, row, cu_seqlens)
    assert relative_error(one_pass, separate) < 1e-11
    weights = random_row().flip(0)
    inputs = {"row": row, **dict(backbone.named_parameters())}
    actual = torch.autograd.grad(one_pass, list(inputs.values()), weights, allow_unused=True)
    expected = torch.autograd.grad(separate, list(inputs.values()), weights, allow_unused=True)
    for each, ours, theirs in zip(inputs, actual, expected, strict=True):
        assert (ours is None) == (theirs is None), each
        if ours is not None and float(theirs.abs().max()) > 1e-9:
            assert relative_error(ours, theirs) < 1e-9, each


@ONE_PASS
def test_all_positions_are_causal(name: str) -> None:
    """The gradient of an output does not reach later items, such as its target."""
    backbone, row = small(name), random_row(9).requires_grad_()
    states = backbone.encode_prefixes(row, cu_seqlens_of([9]))
    (gradient,) = torch.autograd.grad(states[4].square().sum(), row)
    assert float(gradient[:5].abs().sum()) > 0
    assert not gradient[5:].any()


@EVERY
def test_empty_sequence(name: str) -> None:
    """An empty sequence is an error, because it has no last position."""
    with pytest.raises(ShapeError, match=r"cu_seqlens must start at 0 and increase by at least 1"):
        small(name).encode(random_row(5), torch.tensor([0, 2, 2, 5]))


@EVERY
def test_encode_does_not_synchronize(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With cu_seqlens on the CPU, `encode` reads no value from the device, so it works on the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the meta device does not support it
    with dispatch.use_backend("torch"), Watched("meta") as watched:
        states = small(name).to("meta").encode(random_row().to("meta"), cu_seqlens_of(LENGTHS))
    assert states.shape == (5, 8)
    assert watched.seen > 10
    assert watched.waited == []


@pytest.mark.thorough
@EVERY
def test_model_learns_a_cycle_and_can_be_saved(name: str, tmp_path) -> None:
    """After training, each model predicts the next item of the cycle, and a loaded artifact gives the same scores."""
    settings = parse_config(
        "\n".join(
            [
                f'[data]\nmin_interactions = 1\n[backbone]\nname = "{name}"\nwidth = 32\ndropout = 0.0',
                f"[training]\nlearning_rate = {3e-3 if name in LEARNT else 1e-2}\nmax_epochs = 15",
                "token_budget = 256\nmask_ratio = 0.0\nseed = 7",
            ]
        )
    )
    world = worlds.world(worlds.cycle(users=400 if name in LEARNT else 60), settings)
    model = make_model(settings, len(world.catalog))
    fit(model, world.histories, world.split, settings.training)
    ranking = evaluate(model, world.histories, world.split.test, cutoffs=(1,))
    assert ranking.hit_rate[1] >= LEARNT.get(name, 0.95)

    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    save_artifact(tmp_path / "model", model, world.catalog, settings, {}, counts)
    loaded = load_artifact(tmp_path / "model")
    assert loaded.config == settings
    items, cu_seqlens = torch.tensor([3, 4, 5, 9, 1]), torch.tensor([0, 3, 5])
    with torch.inference_mode():
        assert torch.equal(loaded.model.encode(items, cu_seqlens), model.eval().encode(items, cu_seqlens))
