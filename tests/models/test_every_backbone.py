"""What every backbone keeps to, whichever it is."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

import worlds
from rows import all_prefixes, boundaries_of, one_by_one, relative_error, shaken
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
# Small networks; dropout, so that a test which forgets to switch it off is red.
SMALL = {
    "ssd4rec": {"state_dim": 4, "head_width": 4, "layers": 2},
    "sasrec": {"layers": 2, "max_length": 20},
    "gru4rec": {"hidden": 6, "layers": 2},
    "bert4rec": {"layers": 2, "max_length": 20},
    "caser": {"window": 4, "horizontal": 3, "vertical": 2},
    "sigma": {"state_dim": 4, "head_width": 4, "kept": 5},
    "mamba4rec": {"state_dim": 4, "head_width": 4, "layers": 2},
}
# BERT4Rec must find out by itself where a position lies: it takes more users, smaller steps, and is not done in seconds.
LEARNT = {"bert4rec": 0.5}
EVERY = pytest.mark.parametrize("name", list(BACKBONES))
ONE_PASS = pytest.mark.parametrize("name", [name for name, kind in BACKBONES.items() if "all-positions" in kind.objectives])


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    settings = {"name": name, "width": 8, "dropout": 0.3, **SMALL[name]}
    return shaken(make_backbone(Config.model_validate({"backbone": settings, "training": {"objective": "per-prefix"}}).backbone))


def random_row(length: int = sum(LENGTHS)) -> Tensor:
    return torch.randn(length, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@EVERY
def test_packed_histories_are_read_as_they_are_one_at_a_time(name: str) -> None:
    """Who else is in the row does not matter."""
    backbone, row, cu_seqlens = small(name), random_row(), boundaries_of(LENGTHS)
    found = backbone.encode(row, cu_seqlens).detach()
    assert found.shape == (5, 8)
    assert relative_error(found, one_by_one(backbone.encode, row, cu_seqlens)) < 1e-11
    assert float(found.std(dim=0).min()) > 1e-6


@EVERY
def test_a_neighbour_changes_nothing(name: str) -> None:
    """Other events of the second history change its state and no other; whole histories in another order give the same."""
    backbone, row, cu_seqlens = small(name), random_row(), boundaries_of(LENGTHS)
    other = row.clone()
    other[1:6] += random_row(5)
    with torch.no_grad():
        states, changed = backbone.encode(row, cu_seqlens), backbone.encode(other, cu_seqlens)
    moved = (states - changed).abs().amax(dim=1)
    assert float(moved[1]) > 1e-3
    assert float(moved[[0, 2, 3, 4]].max()) < 1e-11
    backwards = torch.cat(list(reversed(row.split(LENGTHS))))
    assert relative_error(backbone.encode(backwards, boundaries_of(LENGTHS[::-1])).flip(0), states) < 1e-11


@EVERY
def test_the_whole_of_a_short_history_is_heard(name: str) -> None:
    """The state at the end depends on each of four events, and on their order."""
    backbone, row = small(name), random_row(4).requires_grad_()
    state = backbone.encode(row, boundaries_of([4]))
    (gradient,) = torch.autograd.grad(state.square().sum(), row)
    assert (gradient.abs().sum(1) > 1e-9).all()
    swapped = backbone.encode(row[[1, 0, 2, 3]], boundaries_of([4]))
    assert float((swapped - state).detach().abs().max()) > 1e-6


@ONE_PASS
def test_one_pass_is_every_prefix_alone(name: str) -> None:
    """Row t of one pass is `encode` of the history cut after t, values and gradients."""
    backbone, cu_seqlens = small(name), boundaries_of(LENGTHS)
    row = random_row().requires_grad_()
    once, alone = backbone.encode_prefixes(row, cu_seqlens), all_prefixes(backbone.encode, row, cu_seqlens)
    assert relative_error(once, alone) < 1e-11
    weights = random_row().flip(0)
    named = {"row": row, **dict(backbone.named_parameters())}
    found = torch.autograd.grad(once, list(named.values()), weights, allow_unused=True)
    expected = torch.autograd.grad(alone, list(named.values()), weights, allow_unused=True)
    for each, ours, theirs in zip(named, found, expected, strict=True):
        assert (ours is None) == (theirs is None), each
        if ours is not None and float(theirs.abs().max()) > 1e-9:
            assert relative_error(ours, theirs) < 1e-9, each


@ONE_PASS
def test_no_state_of_one_pass_hears_what_follows(name: str) -> None:
    """Later events, the target first of all, change no earlier state; and the gradient does not reach them."""
    backbone, row = small(name), random_row(9).requires_grad_()
    states = backbone.encode_prefixes(row, boundaries_of([9]))
    (gradient,) = torch.autograd.grad(states[4].square().sum(), row)
    assert float(gradient[:5].abs().sum()) > 0
    assert not gradient[5:].any()


@EVERY
def test_an_empty_history_is_refused(name: str) -> None:
    """An empty history has nothing to read out."""
    with pytest.raises(ShapeError, match=r"cu_seqlens must be \[0, …\] and rise by 1 or more"):
        small(name).encode(random_row(5), torch.tensor([0, 2, 2, 5]))


@EVERY
def test_reading_waits_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With cu_seqlens on the CPU every number that `encode` asks for is there: the meta device, which has none, will do."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for the meta device
    with dispatch.using("torch"), Watched("meta") as watched:
        states = small(name).to("meta").encode(random_row().to("meta"), boundaries_of(LENGTHS))
    assert states.shape == (5, 8)
    assert watched.seen > 10
    assert watched.waited == []


@EVERY
def test_a_cycle_is_learnt_and_what_was_learnt_is_saved(name: str, tmp_path) -> None:
    """Through the real training loop each backbone names the next item of the cycle, and scores the same after a reload."""
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
