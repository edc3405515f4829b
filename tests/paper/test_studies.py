"""Which runs a study is made of, and what --set changes of them."""

import pytest

import worlds
from ssd4rec._suggestions import find
from ssd4rec.config import BACKBONES, DataConfig
from ssd4rec.data.interactions import read_interactions
from ssd4rec.errors import ConfigError
from ssd4rec.paper.budgets import as_options, make_budget
from ssd4rec.paper.origins import recipe_of
from ssd4rec.paper.recipes import RECIPES
from ssd4rec.paper.studies import changing, points, with_equal_steps
from ssd4rec.paper.sweep import plan
from ssd4rec.pipeline import prepare
from ssd4rec.training.objective import plan_pass


def test_each_model_has_its_recipe():
    """SASRec learns at its own rate, on Beauty with the dropout of its preset; the paper's settings rule SSD4Rec alone."""
    small, paper = make_budget("small"), make_budget("paper")
    assert set(RECIPES) == set(BACKBONES)
    for name, recipe in RECIPES.items():
        ours, beauty, published = (
            points("accuracy", known, budget, [name], ())[0].configs[0]
            for known, budget in ((None, small), ("amazon-beauty", small), ("amazon-beauty", paper))
        )
        assert (ours.training.learning_rate, ours.backbone.dropout) == (recipe.learning_rate, recipe.dropout)
        assert (beauty.training.learning_rate, beauty.backbone.dropout) == (recipe.learning_rate, 0.4)
        assert (ours.training.schedule, ours.training.patience) == ("cosine", small.epochs)
        assert (published.training.schedule, published.training.patience) == ("constant", 10)
        assert published.training.learning_rate == (1e-3 if name == "ssd4rec" else recipe.learning_rate)


def test_the_papers_settings_can_be_had_with_each_history_read_once():
    """Width, rates, dropout and mask of the preset; not where layers below the top read backwards."""
    budget, paper = make_budget("paper-one-pass", epochs=40), make_budget("paper", epochs=40)
    names = ["ssd4rec", "ssd4rec-all", "sasrec", "bert4rec", "sigma"]
    for known in ("amazon-beauty", "ml-1m"):
        once, every = (points("accuracy", known, each, names, ()) for each in (budget, paper))
        read = {point.label: point.configs[0].training.objective for point in once}
        expected = {"ssd4rec": "all-positions", "sasrec": "all-positions", "bert4rec": "masked-item", "sigma": "all-positions"}
        assert read == expected | ({"ssd4rec-all": "per-prefix", "sigma": "per-prefix"} if known == "ml-1m" else {})
        for ours, theirs in zip(once, every, strict=True):
            same = {"objective": theirs.configs[0].training.objective, "token_budget": theirs.configs[0].training.token_budget}
            training = ours.configs[0].training.model_copy(update=same)
            assert (ours.configs[0].backbone, training) == (theirs.configs[0].backbone, theirs.configs[0].training)
    (whole, *_) = points("ablation", "ml-1m", budget, (), ())
    assert whole.model == "ssd4rec"
    said = [str(recipe_of(point, "ml-1m", budget)) for point in once]
    assert ["each history read once" in each for each in said] == [True, False, True, True, False]
    deeper = points("accuracy", "amazon-beauty", budget, ["ssd4rec-all", "ssd4rec"], ["ssd4rec:backbone.layers=2"])
    assert [point.configs[0].training.objective for point in deeper] == ["all-positions", "all-positions"]
    for model in ("ssd4rec-all", "sigma"):
        for each in (budget, make_budget("medium")):
            (every,) = points("accuracy", "amazon-beauty", each, [model], ["backbone.layers=2"])
            assert every.configs[0].training.objective == "per-prefix"


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"name": "small"}, ["--budget", "small"]),
        ({"name": "paper", "seeds": 3}, ["--budget", "paper"]),
        (
            {"name": "medium", "epochs": 8, "seeds": 1, "width": 32},
            ["--budget", "medium", "--epochs", "8", "--seeds", "1", "--width", "32"],
        ),
    ],
)
def test_a_budget_as_options(asked, options):
    """What differs from the named budget, so that the command of a report makes it again."""
    assert as_options(make_budget(**asked)) == options


def test_every_model_can_have_two_layers():
    """ssd4rec-all, which no single pass can train then, is trained every prefix apart; with one layer it is read once."""
    for layers, objective in ((1, "all-positions"), (2, "per-prefix")):
        rows = points("accuracy", None, make_budget("small"), ["ssd4rec-all", "sasrec"], [f"backbone.layers={layers}"])
        assert [point.configs[0].training.objective for point in rows] == [objective, "all-positions"]


def test_the_papers_budget_without_a_preset():
    """Its patience, and a GRU of twice the width, as at D = 64."""
    (point,) = points("accuracy", None, make_budget("paper"), ["gru4rec"], ())
    assert (point.configs[0].training.patience, point.configs[0].backbone.hidden) == (10, 512)


def test_every_prefix_is_drawn_as_the_paper_draws_it_where_it_is_asked_for():
    """Under paper-one-pass with the objective set back: 1,024 examples, not as many as one pass has positions."""
    (point,) = points("accuracy", "amazon-beauty", make_budget("paper-one-pass"), ["ssd4rec"], ["training.objective=per-prefix"])
    (paper,) = points("accuracy", "amazon-beauty", make_budget("paper"), ["ssd4rec"], ())
    assert point.configs == paper.configs


def test_unknown_names_are_told_the_nearest():
    """A misspelt study names the one that was meant."""
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        find("acuracy", ("accuracy", "beta"), "study")
    with pytest.raises(ConfigError, match=r"no budget named 'tiny'\. There are small, medium, paper"):
        make_budget("tiny")
    with pytest.raises(ConfigError, match="--seeds must be 1 or more"):
        make_budget("small", seeds=0)


def test_seeds_beyond_the_last_are_refused():
    """Before anything is trained; the last one itself is one."""
    last = ["training.seed=4294967295"]
    assert points("accuracy", None, make_budget("small", seeds=1), ["gru4rec"], last)[0].configs[0].training.seed == 2**32 - 1
    with pytest.raises(ConfigError, match=r"--seeds 2 from training\.seed=4294967295 on goes beyond 4294967295, the last one"):
        points("accuracy", None, make_budget("small", seeds=2), ["gru4rec"], last)


def test_a_setting_is_for_all_models_or_for_one():
    """`sasrec:` sets it for SASRec alone, after what is set for all; a mask for all is none for BERT4Rec, which needs it."""
    budget, names = make_budget("small"), ["ssd4rec", "sasrec", "bert4rec"]
    given = (
        "sasrec:training.learning_rate=5e-4",
        "training.learning_rate=2e-3",
        "training.mask_ratio=0.0",
        "data.user=a:b",
    )
    found = {point.label: point.configs[0] for point in points("accuracy", None, budget, names, given)}
    assert [found[name].training.learning_rate for name in names] == [2e-3, 5e-4, 2e-3]
    assert [found[name].training.mask_ratio for name in names] == [0.0, 0.0, RECIPES["bert4rec"].mask_ratio]
    assert [found[name].data.user for name in names] == ["a:b"] * 3
    (alone,) = points("accuracy", None, budget, ["bert4rec"], ["bert4rec:training.mask_ratio=0.5"])
    assert alone.configs[0].training.mask_ratio == 0.5
    with pytest.raises(ConfigError, match="did you mean 'sasrec'"):
        points("accuracy", None, budget, names, ["sasrek:training.learning_rate=1"])
    with pytest.raises(ConfigError, match="with a fusion anyway"):
        points("accuracy", None, budget, names, ["sasrec:fusion.repeat_bias=1"])
    with pytest.raises(ConfigError, match="the same data and the same protocol"):
        points("accuracy", None, budget, names, ["sasrec: data.min_interactions=2"])
    for setting, option in (("backbone.width=8", "--width"), ("ssd4rec:backbone.bidirectional=none", "--models")):
        with pytest.raises(ConfigError, match=f"is what {option} says"):
            points("accuracy", None, budget, names, [setting])
    prefix = ["training.mask_ratio=0.0", "training.objective=per-prefix"]
    (next_item,) = points("accuracy", "ml-1m", make_budget("paper"), ["bert4rec"], prefix)
    assert (next_item.configs[0].training.objective, next_item.configs[0].training.mask_ratio) == ("per-prefix", 0.0)


def test_a_row_that_reads_forwards_goes_without_the_backward_weight():
    """Set for all models, or taken away by the study itself; set for that row alone it is a mistake."""
    budget, weight = make_budget("small"), "backbone.backward_weight=0.7"
    top, none, other = points("accuracy", None, budget, ["ssd4rec", "ssd4rec-none", "sasrec"], [weight])
    assert top.configs[0].backbone.backward_weight == 0.7
    assert (none.configs, other.configs) == ((none.unset,), (other.unset,))
    for setting in (weight, f"ssd4rec:{weight}"):
        whole, forwards, *_ = points("ablation", None, budget, (), [setting])
        assert whole.configs[0].backbone.backward_weight == 0.7
        assert forwards.configs == (forwards.unset,)
    with pytest.raises(
        ConfigError, match=r"^ssd4rec-none: .*backward_weight has no effect with backbone\.bidirectional = 'none'"
    ):
        points("accuracy", None, budget, ["ssd4rec-none"], [f"ssd4rec-none:{weight}"])


def test_an_epoch_has_as_many_steps_at_any_length(tmp_path):
    """Batches grow with the overlap of the windows: as many of them, a few left over apart, whatever is read of a history."""
    worlds.frame(worlds.cycle(users=2000)).write_csv(tmp_path / "cycle.csv")
    asked = ["training.token_budget=640", "data.min_interactions=1"]
    planned = plan("length", [str(tmp_path / "cycle.csv")], make_budget("small"), tmp_path, tmp_path, models=(), settings=asked)
    (part,) = planned.parts
    steps, budgets = {}, {}
    for point in part.points:
        (config,) = point.configs
        data = prepare(read_interactions(tmp_path / "cycle.csv"), None, config)
        steps[point.label] = len(plan_pass(data.split.train, config.training, 0).batches)
        budgets[point.label] = config.training.token_budget
        assert recipe_of(point, None, planned.budget) == recipe_of(part.points[-1], None, planned.budget)
    assert budgets["last 10"] > budgets["whole"] == 640
    assert max(steps.values()) <= 1.1 * min(steps.values())
    by_prefix = points("length", None, make_budget("small"), (), ["training.objective=per-prefix"])
    assert [with_equal_steps(point, {10: 2.0}) for point in by_prefix] == by_prefix


def test_what_changes_nothing_on_these_data_is_left_out():
    """No window longer than the longest history; no second row for a mask that is not there."""
    budget = make_budget("small")
    kept, without = changing(points("length", None, budget, (), ()), 60)
    assert [point.label for point in kept] == ["last 10", "last 20", "last 50", "whole"]
    assert without == ["last 100", "last 200", "last 400"]
    kept, without = changing(points("ablation", None, budget, (), ["training.mask_ratio=0.0"]), 100)
    assert without == ["no mask", "truncated to 200"]
    assert [point.label for point in kept][:2] == ["SSD4Rec", "no backward direction"]


def test_studies_are_the_papers():
    """Beta runs from 0 to 1, rho to 0.6, and lengths to whole histories; each seed is a run."""
    budget = make_budget("small", seeds=2)
    betas, rhos, lengths = (points(name, None, budget, (), ()) for name in ("beta", "rho", "length"))
    assert [point.x for point in betas][:: len(betas) - 1] == [0.0, 1.0]
    assert [point.configs[0].training.mask_ratio for point in rhos] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert [point.configs[1].data for point in lengths][-1] == DataConfig()
    assert [config.training.seed for config in betas[0].configs] == [2024, 2025]
    without = points("ablation", None, budget, (), ())[4]
    assert without.label == "no feed-forward network"
    assert without.configs[0].backbone.feed_forward is False


@pytest.mark.parametrize("study", ["ablation", "beta", "rho", "length"])
def test_models_are_refused_where_there_is_one(study, tmp_path):
    """Such a study takes ssd4rec apart; before the data are read."""
    with pytest.raises(ConfigError, match=f"--models is for accuracy, efficiency and all; {study} is about ssd4rec alone"):
        plan(study, ["no file"], make_budget("small"), tmp_path, tmp_path, models=("caser",), settings=())


def test_one_network_is_one_row():
    """Forwards only is Mamba4Rec with our recipes, not with the paper's settings of Beauty; "all" of one layer is "top"."""
    names = ["ssd4rec", "ssd4rec-all", "ssd4rec-none", "mamba4rec"]

    def rows(budget, known, settings=()):
        return [point.label for point in points("accuracy", known, make_budget(budget), names, settings)]

    assert rows("medium", None) == ["ssd4rec", "mamba4rec"]
    assert rows("medium", None, ["mamba4rec:backbone.dropout=0.4"]) == ["ssd4rec", "ssd4rec-none", "mamba4rec"]
    assert rows("paper", "amazon-beauty") == ["ssd4rec", "ssd4rec-none", "mamba4rec"]
    assert rows("paper", "ml-1m") == names
    for known, main in (("amazon-beauty", "ssd4rec"), ("ml-1m", "ssd4rec-all")):
        assert {point.model for point in points("beta", known, make_budget("paper"), (), ())} == {main}


@pytest.mark.parametrize(
    ("study", "setting"),
    [
        ("length", "data.max_length=50"),
        ("ablation", "data.max_length=50"),
        ("beta", "backbone.backward_weight=0.5"),
        ("rho", "ssd4rec:training.mask_ratio=0.3"),
    ],
)
def test_what_a_study_varies_cannot_be_set(study, setting, tmp_path):
    """It would be set over in silence, or the whole history would not be whole."""
    for asked in (study, "all"):
        with pytest.raises(ConfigError, match=f"varies .* itself; leave out --set {setting}, or give it with another study"):
            plan(asked, ["no file"], make_budget("small"), tmp_path, tmp_path, models=(), settings=[setting])


def test_a_setting_that_cannot_be_names_the_model():
    """Of seven models, which one it does not fit."""
    with pytest.raises(ConfigError, match=r"^sasrec: .*heads = 7"):
        points("accuracy", None, make_budget("small"), ["ssd4rec", "sasrec"], ["sasrec:backbone.heads=7"])
