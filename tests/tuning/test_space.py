"""Which settings a search may try."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import worlds
from ssd4rec.config import load_config
from ssd4rec.errors import ConfigError
from ssd4rec.tuning.space import choices, describe_space, make_space, own_values, with_values


def test_the_default_space_holds_what_the_backbone_has():
    """SSD4Rec is searched with its backward weight, SASRec without; both with a learning rate."""
    ours = make_space(load_config("quick")).keys()
    theirs = make_space(load_config("quick", ["backbone.name=sasrec"])).keys()
    assert {"backbone.backward_weight", "training.learning_rate", "backbone.dropout"} <= ours
    assert "training.learning_rate" in theirs
    assert {
        "backbone.input_dropout",
        "backbone.input_fade",
        "backbone.input_skip",
        "backbone.repeat_logits",
    } <= ours & theirs
    assert "backbone.norm_first" in ours - theirs
    assert "backbone.backward_weight" not in theirs


def test_a_batch_of_prefixes_leaves_the_token_budget_out():
    """Where batch_size decides how large a batch is, a token budget would be searched for nothing."""
    assert "training.token_budget" not in make_space(load_config("ml-1m"))


def test_causal_models_have_no_backward_weight_to_search():
    """It would be noise; where the search itself tries another variant, it is tried too."""
    forwards = load_config("quick", ["backbone.bidirectional=none"])
    assert "backbone.backward_weight" not in make_space(forwards)
    both = make_space(forwards, ["backbone.bidirectional=none|top"])
    assert "backbone.backward_weight" in both
    with pytest.raises(ConfigError, match=r"--search backbone\.backward_weight: it has no effect with these settings"):
        make_space(forwards, ["backbone.backward_weight=0.1:0.3"])


def test_an_interval_and_choices_are_read():
    """Whole numbers stay whole unless the setting is not; a requested interval replaces the default one."""
    options = ["training.learning_rate=1e-4:1e-2:log", "backbone.layers=1:3", "backbone.width=32|64", "backbone.dropout=0:0.5"]
    space = make_space(worlds.config(), options)
    assert space["training.learning_rate"] == FloatDistribution(1e-4, 1e-2, log=True)
    assert space["backbone.layers"] == IntDistribution(1, 3)
    assert space["backbone.width"] == CategoricalDistribution((32, 64))
    assert space["backbone.dropout"] == FloatDistribution(0.0, 0.5)
    described = [
        "training.learning_rate=0.0001:0.01:log",
        "backbone.layers=1:3",
        "backbone.width=32|64",
        "backbone.dropout=0.0:0.5",
    ]
    assert set(described) < set(describe_space(space))  # searches of earlier versions are identified by this text


def test_fixed_settings_are_not_searched():
    """--fix takes a dimension out."""
    assert "backbone.dropout" not in make_space(worlds.config(), (), ["backbone.dropout"])


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("training.learning_rate", "write GROUP.KEY=LOW:HIGH"),
        ("training.learning_rate=1e-2", "write GROUP.KEY=LOW:HIGH"),
        ("training.learning_rate=1e-2:1e-4", "the lower bound must be below the upper one"),
        ("training.learning_rate=0:1:log", "above 0"),
        ("training.learning_rate=1e-4:1e-2:lin", "cannot read"),
        ("training.learning_rate=low:high", "not numbers"),
        ("training.learing_rate=1e-4:1e-2", "did you mean"),
        ("backbone.dropout=0.5:1.5", "backbone.dropout"),
        ("backbone.width=7|64", "not a multiple"),
        ("backbone.width=64|64", "twice"),
        ("data.min_interactions=1:5", "not be comparable"),
        ("fusion.cooccurrence=0.0:4.0", r"tuned after training.*--set fusion\.cooccurrence=tuned"),
        ("fusion.repeat_bias=-4|0", "tuned after training"),
        ("features.min_items=1|2", "features are read once, before the trials"),
    ],
)
def test_a_bad_search_says_what_is_wrong(search, message):
    """Before anything is learned."""
    with pytest.raises(ConfigError, match=message):
        make_space(worlds.config(), [search])


def test_a_bad_fix_says_what_is_wrong():
    """An unknown setting, one that is searched too, and a space in which nothing is left."""
    with pytest.raises(ConfigError, match="no such setting"):
        make_space(worlds.config(), (), ["backbone.depth"])
    with pytest.raises(ConfigError, match="both searched and fixed"):
        make_space(worlds.config(), ["backbone.dropout=0.1:0.2"], ["backbone.dropout"])
    with pytest.raises(ConfigError, match="nothing to search"):
        make_space(worlds.config(), (), list(make_space(worlds.config())))


def test_values_that_are_no_settings_are_named():
    """The message says which values were tried."""
    with pytest.raises(ConfigError, match=r"with backbone\.dropout=2\.0"):
        with_values(worlds.config(), {"backbone.dropout": 2.0})


def test_choices_begin_with_the_value_of_the_settings():
    """Once, also where it is a candidate; settings that a model does not have or read are left out."""
    config = load_config("regularized", ["backbone.name=sasrec", "training.learning_rate=1e-3"])
    candidates = {
        "training.learning_rate": (5e-4, 1e-3),
        "backbone.input_dropout": (0.1,),
        "backbone.backward_weight": (0.5,),
        "training.teacher_weight": (0.5,),
    }
    space = choices(config.replaced("training", teachers=0), candidates)
    assert describe_space(space) == ["training.learning_rate=0.001|0.0005", "backbone.input_dropout=auto|0.1"]


def test_own_values_are_those_of_the_settings_or_the_nearest():
    """Of an interval the nearest number, but "auto" has none; of choices one of them or none."""
    config = load_config("regularized")
    space = make_space(config, ["training.learning_rate=2e-3:1e-2", "training.patience=4:5", "backbone.width=16|32"])
    own = own_values(config, space)
    assert own["training.learning_rate"] == 2e-3
    assert own["training.ema_decay"] == 0.999
    assert own["backbone.repeat_logits"] == "popularity"
    assert own["training.patience"] == 4
    assert {"backbone.width", "backbone.input_dropout"} & own.keys() == set()
    assert {"backbone.width", "backbone.input_dropout"} <= space.keys()
