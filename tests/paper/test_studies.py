"""The runs of each study, and the effect of --set on them."""

import pytest
import torch

import worlds
from ssd4rec.config import BACKBONES, DataConfig, load_config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.errors import ConfigError
from ssd4rec.models.next_item import make_model
from ssd4rec.paper.recipes import RECIPES, make_budget
from ssd4rec.paper.studies import distinct_points, make_points, with_equal_steps, with_full_window
from ssd4rec.paper.sweep import plan_sweep
from ssd4rec.pipeline import prepare
from ssd4rec.training.objective import plan_pass


def points(study, known, budget, models=(), settings=(), values=()):
    return make_points(study, known, budget if not isinstance(budget, str) else make_budget(budget), models, settings, values)


def test_each_model_has_its_recipe():
    """SASRec learns at its own rate, on Beauty with the preset's dropout; the paper's settings are for SSD4Rec alone."""
    small = make_budget("small")
    assert set(RECIPES) == set(BACKBONES)
    for name, recipe in RECIPES.items():
        ours, beauty, published = (
            points("accuracy", known, budget, [name])[0].configs[0]
            for known, budget in ((None, small), ("amazon-beauty", small), ("amazon-beauty", "paper"))
        )
        assert (ours.training.learning_rate, ours.backbone.dropout) == (recipe.learning_rate, recipe.dropout)
        assert (beauty.training.learning_rate, beauty.backbone.dropout) == (recipe.learning_rate, 0.4)
        assert (ours.training.schedule, ours.training.patience) == ("cosine", small.epochs)
        assert (published.training.schedule, published.training.patience) == ("constant", 11)
        assert published.training.learning_rate == (1e-3 if name == "ssd4rec" else recipe.learning_rate)


def test_the_papers_settings_with_all_positions_training():
    """Width, rates, dropout and mask of the preset; not where layers below the top read backwards."""
    budget, paper = make_budget("paper-one-pass", epochs=40), make_budget("paper", epochs=40)
    names = ["ssd4rec", "ssd4rec-all", "sasrec", "bert4rec", "sigma"]
    for known in ("amazon-beauty", "ml-1m"):
        one_pass, per_prefix = (points("accuracy", known, each, names) for each in (budget, paper))
        objectives = {point.label: point.configs[0].training.objective for point in one_pass}
        expected = dict.fromkeys(names, "all-positions") | {"bert4rec": "masked-item"}
        if known == "ml-1m":  # two layers
            expected |= {"ssd4rec-all": "per-prefix", "sigma": "per-prefix"}
        else:
            del expected["ssd4rec-all"]  # with one layer the same network as ssd4rec
        assert objectives == expected
        for ours, theirs in zip(one_pass, per_prefix, strict=True):
            same = {"objective": theirs.configs[0].training.objective, "token_budget": theirs.configs[0].training.token_budget}
            training = ours.configs[0].training.model_copy(update=same)
            assert (ours.configs[0].backbone, training) == (theirs.configs[0].backbone, theirs.configs[0].training)
    assert points("ablation", "ml-1m", budget)[0].model == "ssd4rec"
    assert ["all-positions training" in point.origin for point in one_pass] == [True, False, True, True, False]
    for model in ("ssd4rec-all", "sigma"):
        for each in (budget, "medium"):
            (deep,) = points("accuracy", "amazon-beauty", each, [model], ["backbone.layers=2"])
            assert deep.configs[0].training.objective == "per-prefix"


def test_every_model_with_the_settings_of_the_default_preset():
    """As `train --set backbone.name=...` does, without teachers and fusion; BERT4Rec keeps the mask ratio of its recipe."""
    preset = load_config("regularized")
    rows = points("accuracy", "amazon-beauty", "default-preset", BACKBONES)
    assert [(point.label, point.origin) for point in rows] == [(name, "preset regularized") for name in BACKBONES]
    for point in rows:
        assert [config.training.seed for config in point.configs] == [2024, 2025, 2026]
        changes = ["fusion.cooccurrence=0.0", "fusion.repeat_bias=0.0", "training.teachers=0", f"backbone.name={point.model}"]
        changes += {"bert4rec": ["training.mask_ratio=0.2"], "gru4rec": ["backbone.hidden=128"]}.get(point.model, [])
        assert point.configs[0] == load_config("regularized", changes)
        assert point.configs[0].training.max_epochs == preset.training.max_epochs
    (changed,) = points("accuracy", None, "default-preset", ["sasrec"], ["training.learning_rate=1e-3"])
    assert changed.configs[0].training.learning_rate == 1e-3
    assert changed.origin == "changed here (training.learning_rate), the rest preset regularized"


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        ({"name": "small"}, ["--budget", "small"]),
        ({"name": "paper", "seeds": 3}, ["--budget", "paper"]),
        (
            {"name": "medium", "epochs": 8, "seeds": 1, "width": 32},
            ["--budget", "medium", "--epochs", "8", "--seeds", "1", "--width", "32"],
        ),
    ],
)
def test_a_budget_as_options(budget, options):
    """The values that differ from the named budget, so that the command of a report makes it again."""
    assert make_budget(**budget).options() == options


def test_with_two_layers_a_model_with_backward_layers_is_trained_per_prefix():
    for layers, objective in ((1, "all-positions"), (2, "per-prefix")):
        rows = points("accuracy", None, "small", ["ssd4rec-all", "sasrec"], [f"backbone.layers={layers}"])
        assert [point.configs[0].training.objective for point in rows] == [objective, "all-positions"]


def test_the_papers_budget_without_a_preset():
    """Its patience, and a GRU of twice the width, as at width 64."""
    (point,) = points("accuracy", None, "paper", ["gru4rec"])
    assert (point.configs[0].training.patience, point.configs[0].backbone.hidden) == (10, 512)


def test_per_prefix_training_under_paper_one_pass_is_that_of_the_paper():
    (set_back,) = points("accuracy", "amazon-beauty", "paper-one-pass", ["ssd4rec"], ["training.objective=per-prefix"])
    (paper,) = points("accuracy", "amazon-beauty", "paper", ["ssd4rec"])
    assert set_back.configs == paper.configs


def test_mistakes_in_a_budget_are_explained():
    with pytest.raises(ConfigError, match=r"unknown budget 'tiny'\. Choose from small, medium, default-preset, paper"):
        make_budget("tiny")


def test_seeds_beyond_the_largest_are_refused():
    last = ["training.seed=4294967295"]
    assert points("accuracy", None, "small", ["gru4rec"], last)[0].configs[0].training.seed == 2**32 - 1
    with pytest.raises(ConfigError, match=r"--seeds 2 from training\.seed=4294967295 exceeds the largest seed, 4294967295"):
        points("accuracy", None, make_budget("small", seeds=2), ["gru4rec"], last)


def test_a_setting_is_for_all_models_or_for_one():
    """`sasrec:` sets it for SASRec alone, after the settings for all; a general mask ratio is not for BERT4Rec."""
    names = ["ssd4rec", "sasrec", "bert4rec"]
    settings = (
        "sasrec:training.learning_rate=5e-4",
        "training.learning_rate=2e-3",
        "training.mask_ratio=0.0",
        "data.user=a:b",
    )
    rows = {point.label: point for point in points("accuracy", None, "small", names, settings)}
    configs = {name: point.configs[0] for name, point in rows.items()}
    assert [configs[name].training.learning_rate for name in names] == [2e-3, 5e-4, 2e-3]
    assert [configs[name].training.mask_ratio for name in names] == [0.0, 0.0, RECIPES["bert4rec"].mask_ratio]
    assert [configs[name].data.user for name in names] == ["a:b"] * 3
    changed = "changed here (training.learning_rate, training.mask_ratio, data.user), the rest searched"
    assert rows["ssd4rec"].origin.startswith(changed)
    (alone,) = points("accuracy", None, "small", ["bert4rec"], ["bert4rec:training.mask_ratio=0.5"])
    assert alone.configs[0].training.mask_ratio == 0.5
    prefix = ["training.mask_ratio=0.0", "training.objective=per-prefix"]
    (next_item,) = points("accuracy", "ml-1m", "paper", ["bert4rec"], prefix)
    assert (next_item.configs[0].training.objective, next_item.configs[0].training.mask_ratio) == ("per-prefix", 0.0)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("sasrek:training.learning_rate=1", "did you mean 'sasrec'"),
        ("sasrec:fusion.repeat_bias=1", "with and without score fusion"),
        ("sasrec: data.min_interactions=2", "the same for all models"),
        ("backbone.width=8", "is set by --width"),
        ("ssd4rec:backbone.bidirectional=none", "is set by --models"),
        ("sasrec:backbone.heads=7", "^sasrec: .*heads = 7"),
        ("ssd4rec-none:backbone.backward_weight=0.7", "^ssd4rec-none: .*has no effect with backbone.bidirectional = 'none'"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(setting, reason):
    with pytest.raises(ConfigError, match=reason):
        points("accuracy", None, "small", ["ssd4rec", "ssd4rec-none", "sasrec"], [setting])


def test_a_row_without_a_backward_direction_ignores_the_backward_weight():
    """Set for all models, or removed by the study itself."""
    weight = "backbone.backward_weight=0.7"
    plain = points("accuracy", None, "small", ["ssd4rec", "ssd4rec-none", "sasrec"])
    weighted = points("accuracy", None, "small", ["ssd4rec", "ssd4rec-none", "sasrec"], [weight])
    assert weighted[0].configs[0].backbone.backward_weight == 0.7
    assert [point.configs for point in weighted[1:]] == [point.configs for point in plain[1:]]
    for setting in (weight, f"ssd4rec:{weight}"):
        whole, forwards, *_ = points("ablation", None, "small", (), [setting])
        assert whole.configs[0].backbone.backward_weight == 0.7
        assert forwards.configs == points("ablation", None, "small")[1].configs


@pytest.mark.parametrize("token_budget", [640, 16])
def test_an_epoch_has_as_many_steps_at_any_length(tmp_path, token_budget):
    """Batches grow with the overlap of the windows, also where a long sequence is a batch of its own."""
    worlds.frame(worlds.cycle(users=2000)).write_csv(tmp_path / "cycle.csv")
    settings = [f"training.token_budget={token_budget}", "data.min_interactions=1"]
    sweep = plan_sweep(
        "length", [str(tmp_path / "cycle.csv")], make_budget("small"), tmp_path, tmp_path, models=(), settings=settings
    )
    steps, budgets = {}, {}
    for run in sweep.jobs.values():
        config = worlds.config().model_validate(run.settings)
        data = prepare(read_interactions(tmp_path / "cycle.csv"), None, config)
        label = run.title.split(", ")[1]
        steps[label] = len(plan_pass(data.split.train, config.training, 0).batches)
        budgets[label] = config.training.token_budget
    assert budgets["last 10"] > budgets["whole"] == token_budget
    assert max(steps.values()) <= 1.1 * min(steps.values())
    for point in points("length", None, "small", (), ["training.objective=per-prefix"]):
        assert with_equal_steps(point.configs[0], lambda *_: 2) == point.configs[0]


def test_rows_that_change_nothing_on_these_data_are_omitted():
    """No window longer than the longest sequence; no second row without a mask."""
    distinct, omitted = distinct_points(points("length", None, "small"), 60)
    assert [point.label for point in distinct] == ["last 10", "last 20", "last 50", "whole"]
    assert omitted == ["last 100", "last 200", "last 400", "last 1000"]
    distinct, omitted = distinct_points(points("ablation", None, "small", (), ["training.mask_ratio=0.0"]), 100)
    assert omitted == ["no mask", "truncated to 200"]
    assert [point.label for point in distinct][:2] == ["SSD4Rec", "no backward direction"]


def test_studies_are_those_of_the_paper():
    """Beta runs from 0 to 1, rho to 0.6, and lengths to whole sequences; each seed is a run."""
    budget = make_budget("small", seeds=2)
    betas, rhos, lengths = (points(name, None, budget) for name in ("beta", "rho", "length"))
    assert [point.x for point in betas][:: len(betas) - 1] == [0.0, 1.0]
    assert [point.configs[0].training.mask_ratio for point in rhos] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert [point.configs[1].data for point in lengths][-1] == DataConfig()
    assert [config.training.seed for config in betas[0].configs] == [2024, 2025]
    without = points("ablation", None, budget)[4]
    assert (without.label, without.configs[0].backbone.feed_forward) == ("no feed-forward network", False)


@pytest.mark.parametrize("budget", ["small", "default-preset"])
def test_curves_of_several_models(budget):
    """Each model has every point; equal networks are one curve."""
    rows = points("length", None, budget, ["gru4rec", "ssd4rec-all", "ssd4rec"], values=["50", "whole", "10"])
    expected = [("last 10", 10), ("last 50", 50), ("whole", None)]
    assert [(row.label, row.x) for row in rows] == expected * 2
    assert [row.model for row in rows] == ["gru4rec"] * 3 + ["ssd4rec"] * 3
    assert [row.configs[0].data.max_length for row in rows] == [10, 50, None] * 2
    assert points("length", None, budget, ["ssd4rec"]) == points("length", None, budget)
    assert [row.model for row in points("rho", None, budget, ["bert4rec"], values=["0.25"])] == ["bert4rec"]


@pytest.mark.parametrize(
    ("study", "model", "reason"),
    [
        ("beta", "sasrec", "beta trains networks that read backbone.backward_weight, .* from ssd4rec, ssd4rec-all$"),
        ("beta", "ssd4rec-none", "and ssd4rec-none is not one of them"),
        ("length", "popularity", "length trains networks .* from ssd4rec, ssd4rec-all, ssd4rec-none, sasrec, "),
    ],
)
def test_a_model_without_the_setting_of_a_curve_is_refused(study, model, reason):
    with pytest.raises(ConfigError, match=reason):
        points(study, None, "small", ["ssd4rec", model])


@pytest.mark.parametrize(
    ("study", "value", "reason"),
    [
        ("length", "fifty", "--values 'fifty': expected a whole number for data.max_length, e.g. 10, or whole"),
        ("length", "5.5", "--values '5.5': expected a whole number"),
        ("length", "0", "data.max_length = 0"),
        ("rho", "whole", "--values 'whole': expected a number for training.mask_ratio, e.g. 0.0$"),
        ("rho", "1.5", "training.mask_ratio = 1.5"),
        ("rho", "nan", "training.mask_ratio = nan"),
    ],
)
def test_a_value_that_a_curve_cannot_have_is_refused(study, value, reason):
    with pytest.raises(ConfigError, match=reason):
        points(study, None, "small", values=[value])


def test_a_network_reads_as_many_interactions_as_the_curve_says():
    """Of the longest sequence, 500, the last one is only predicted. BERT4Rec also reads the mask; --set stays."""

    def limits(model, *settings):
        rows = points("length", None, "small", [model], settings, ["50", "200", "400", "whole"])
        return [getattr(with_full_window(row, 500).configs[0].backbone, "max_length", None) for row in rows]

    assert limits("sasrec") == limits("gru4rec") == [200, 200, 400, 499]
    assert limits("bert4rec") == [200, 201, 401, 500]
    assert limits("sasrec", "sasrec:backbone.max_length=100") == [100] * 4
    assert limits("ssd4rec") == limits("caser") == [None] * 4


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_the_first_interaction_of_a_long_sequence_is_read(model):
    (whole,) = points("length", None, make_budget("small", width=8), [model], values=["whole"])
    items, cu_seqlens = torch.arange(300) % 20 + 1, torch.tensor([0, 300])
    for longest, read in ((200, False), (301, True)):
        network = make_model(with_full_window(whole, longest).configs[0], 20).eval()
        with torch.inference_mode():
            states = [network.encode(items.index_fill(0, torch.tensor([0]), first), cu_seqlens) for first in (1, 9)]
        assert torch.equal(*states) != read


def test_equal_networks_are_one_row():
    """Forwards only is Mamba4Rec with our recipes, not with the paper's settings of Beauty; "all" of one layer is "top"."""
    names = ["ssd4rec", "ssd4rec-all", "ssd4rec-none", "mamba4rec"]

    def rows(budget, known, settings=()):
        return [point.label for point in points("accuracy", known, budget, names, settings)]

    assert rows("medium", None) == ["ssd4rec", "mamba4rec"]
    assert rows("medium", None, ["mamba4rec:backbone.dropout=0.4"]) == ["ssd4rec", "ssd4rec-none", "mamba4rec"]
    assert rows("paper", "amazon-beauty") == ["ssd4rec", "ssd4rec-none", "mamba4rec"]
    assert rows("paper", "ml-1m") == names
    for known, main in (("amazon-beauty", "ssd4rec"), ("ml-1m", "ssd4rec-all")):
        assert {point.model for point in points("beta", known, "paper")} == {main}


def test_a_model_of_the_paper_with_another_direction_says_so():
    """With two layers the paper's all read backwards; with one layer "top" is the same network."""
    origins = {
        (known, model): points("accuracy", known, "paper", [model])[0].origin
        for known in ("ml-1m", "amazon-beauty")
        for model in ("ssd4rec-all", "ssd4rec", "ssd4rec-none")
    }
    paper, other = "preset of the paper", 'preset of the paper, but for backbone.bidirectional = "{}"'.format
    assert (
        origins["ml-1m", "ssd4rec-all"] == origins["amazon-beauty", "ssd4rec-all"] == origins["amazon-beauty", "ssd4rec"] == paper
    )
    assert origins["ml-1m", "ssd4rec"] == other("top")
    assert origins["ml-1m", "ssd4rec-none"] == origins["amazon-beauty", "ssd4rec-none"] == other("none")


@pytest.mark.parametrize(
    ("study", "setting"),
    [
        ("length", "data.max_length=50"),
        ("ablation", "data.max_length=50"),
        ("beta", "backbone.backward_weight=0.5"),
        ("rho", "ssd4rec:training.mask_ratio=0.3"),
    ],
)
def test_the_setting_that_a_study_varies_is_refused_before_the_data_are_read(study, setting, tmp_path):
    for name in (study, "all"):
        with pytest.raises(ConfigError, match=r"varies .* itself; leave out --set"):
            plan_sweep(name, ["no file"], make_budget("small"), tmp_path, tmp_path, models=(), settings=[setting])
