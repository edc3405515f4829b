"""Settings: checked when made, read from and written to TOML."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ssd4rec.config import (
    BACKBONES,
    Config,
    DataConfig,
    EvaluationConfig,
    SSD4RecConfig,
    TrainingConfig,
    dump_config,
    is_read,
    load_config,
    load_data_config,
    parse_config,
    presets,
)
from ssd4rec.data.timestamps import Clock, moment
from ssd4rec.errors import ConfigError

PAPER = ["amazon-beauty", "amazon-video-games", "kuairand-pure", "ml-1m"]
words = st.text(st.characters(codec="utf-8"), max_size=12)

# dictionaries, not st.builds: the type checks of the backbone's settings draw random numbers, which strategies must not
settings_groups = st.fixed_dictionaries(
    {
        "data": st.builds(
            DataConfig,
            user=st.none() | words,
            item=st.none() | words,
            validation_from=st.none() | words | st.dates() | st.datetimes() | st.integers() | st.floats(-1e300, 1e300),
            min_interactions=st.integers(1, 20),
            split=st.sampled_from(["leave-last-out", "time"]),
            max_length=st.none() | st.integers(1, 500),
        ),
        "backbone": st.fixed_dictionaries(
            {
                "width": st.sampled_from([16, 64, 256]),
                "layers": st.integers(1, 3),
                "dropout": st.floats(0, 1, exclude_max=True),
                "norm_embedding": st.booleans(),
                "bidirectional": st.sampled_from(["top", "none"]),
                "backward_weight": st.floats(-1e20, 1e20),
                "mirror_back": st.booleans(),
            }
        ),
        "training": st.builds(
            TrainingConfig, learning_rate=st.floats(1e-12, 1.0), prefixes_per_sequence=st.none() | st.integers(1, 9)
        ),
        "evaluation": st.builds(EvaluationConfig, cutoffs=st.lists(st.integers(1, 100), min_size=1, max_size=4).map(tuple)),
    }
)


@given(groups=settings_groups)
def test_dumped_settings_are_read_back(groups: dict[str, Any]) -> None:
    """Any settings, written as TOML and read again, are equal."""
    config = Config(**groups)
    assert parse_config(dump_config(config)) == config


def test_written_settings_by_hand() -> None:
    """A group a heading, a setting a line, TOML's own words; settings that are None are left out."""
    written = dump_config(Config(data=DataConfig(user='a "b"'), backbone=SSD4RecConfig(norm_embedding=True)))
    lines = written.splitlines()
    assert lines[:2] == ["[data]", 'user = "a \\"b\\""']
    assert "min_interactions = 5" in lines
    assert "norm_embedding = true" in lines
    assert "cutoffs = [10, 20]" in lines
    assert not [line for line in lines if line.startswith("item =") or "None" in line]


def test_no_settings_are_the_defaults() -> None:
    """An empty file is a whole configuration."""
    assert parse_config("") == Config()


def test_settings_do_not_change() -> None:
    """Settings are frozen at birth."""
    with pytest.raises(ValidationError, match="frozen"):
        Config().backbone.width = 3


def test_presets() -> None:
    """One preset a row of the paper's table, a quick one, the default, a wider one, and several networks of it."""
    assert presets() == sorted([*PAPER, "ensemble", "quick", "regularized", "wide"])


@pytest.mark.parametrize("name", PAPER)
def test_presets_share_the_papers_sizes(name: str) -> None:
    """The authors': D / N / conv / expand / P = 256 / 64 / 4 / 2 / 16, beta 0.1, both ways in every layer, D1 official."""
    backbone = load_config(name).backbone
    sizes = (backbone.width, backbone.state_dim, backbone.conv_width, backbone.expand, backbone.head_width)
    assert sizes == (256, 64, 4, 2, 16)
    assert (backbone.backward_weight, backbone.bidirectional, backbone.mirror_back) == (0.1, "all", False)


@pytest.mark.parametrize(
    ("name", "layers", "dropout", "norm_embedding", "mask_ratio"),
    [
        ("ml-1m", 2, 0.2, True, 0.1),
        ("amazon-beauty", 1, 0.4, False, 0.2),
        ("amazon-video-games", 1, 0.4, False, 0.1),
        ("kuairand-pure", 2, 0.2, True, 0.2),
    ],
)
def test_presets_differ_as_the_paper_says(
    name: str, layers: int, dropout: float, norm_embedding: bool, mask_ratio: float
) -> None:
    """The authors' configuration: layers, dropout, norm_embedding and rho of each data set."""
    config = load_config(name)
    values = (config.backbone.layers, config.backbone.dropout, config.backbone.norm_embedding, config.training.mask_ratio)
    assert values == (layers, dropout, norm_embedding, mask_ratio)


@pytest.mark.parametrize("name", PAPER)
def test_presets_train_as_the_authors_do(name: str) -> None:
    """Adam 1e-3, fp32, 1,024 prefixes a batch, at most 300 epochs, stopping_step 10, seed 2024; 5-core, leave-last-out."""
    config = load_config(name)
    training = config.training
    assert (training.objective, training.batch_size, training.prefixes_per_sequence) == ("per-prefix", 1024, None)
    assert (training.learning_rate, training.weight_decay, training.precision) == (1e-3, 0.0, "32-true")
    assert (training.max_epochs, training.patience, training.seed) == (300, 11, 2024)
    assert (config.data.min_interactions, config.data.split, config.data.max_length) == (5, "leave-last-out", None)
    assert (config.evaluation.cutoffs, config.evaluation.exclude_seen) == ((10, 20), False)


def test_quick_trains_in_one_pass() -> None:
    """The default preset is small and reads every prefix in one pass."""
    config = load_config("quick")
    assert config.training.objective == "all-positions"
    assert config.backbone.supports_all_positions
    assert config.backbone.width == 64


def test_a_file(tmp_path: Path) -> None:
    """A path is read as TOML."""
    file = tmp_path / "mine.toml"
    file.write_text("[backbone]\nwidth = 32\n")
    assert load_config(file) == load_config(str(file)) == Config(backbone=SSD4RecConfig(width=32))


def test_overrides_come_on_top() -> None:
    """IntArray, words with and without quotes, lists: each as TOML would read it, a bare word as a string."""
    config = load_config(
        "quick",
        [
            "training.max_epochs=3",
            "training.objective=per-prefix",
            'data.user="who"',
            "evaluation.cutoffs=[1, 5]",
            "backbone.dropout = 0.0",
        ],
    )
    assert (config.training.max_epochs, config.training.objective) == (3, "per-prefix")
    assert (config.data.user, config.evaluation.cutoffs, config.backbone.dropout) == ("who", (1, 5), 0.0)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("1998-01-01", "1998-01-01"),
        ('"1998-01-01"', "1998-01-01"),
        ("1998-01-01T12:30:00Z", "1998-01-01T12:30:00+00:00"),
        ("1998-01-01 12:30:00.5", "1998-01-01T12:30:00.500000"),
        ("884000000", "884000000"),
        ("-5", "-5"),
        ("884000000.25", "884000000.25"),
        ("1e18", "1000000000000000000"),
    ],
)
@pytest.mark.parametrize("key", ["validation_from", "test_from"])
def test_a_moment_may_be_a_date_or_a_number_of_toml(key: str, written: str, text: str) -> None:
    """On the command line and in a file; it is kept as text that a split reads, and that is read back."""
    config = load_config("quick", ["data.split=time", f"data.{key}={written}"])
    assert getattr(config.data, key) == text
    assert parse_config(f'[data]\nsplit = "time"\n{key} = {written}').data == config.data
    assert parse_config(dump_config(config)) == config
    moment(Clock("seconds", 100), text)


@pytest.mark.parametrize("value", ["true", "nan", "inf", "12:30:00", "[1]"])
def test_invalid_moments_are_refused(value: str) -> None:
    """The message says what is expected."""
    with pytest.raises(
        ConfigError, match=r"data\.test_from must be a moment: an ISO date such as 2016-01-31, or a number .* found "
    ):
        load_config("quick", [f"data.test_from={value}"])


def test_a_column_may_be_called_123() -> None:
    """What TOML takes for a number is the name of a column; a truth is not."""
    data = load_config("quick", ["data.user=123", "data.item=7", "data.time=0"]).data
    assert (data.user, data.item, data.time) == ("123", "7", "0")
    with pytest.raises(ConfigError, match=r"data\.user = True: Input should be a valid string"):
        load_config("quick", ["data.user=true"])


def test_an_override_can_take_a_setting_away() -> None:
    """`none` gives an optional setting its default, None."""
    assert load_config("ml-1m", ["training.batch_size=none"]).training.batch_size is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            ["data.test_from=1500"],
            r"test_from has no effect with data\.split = 'leave-last-out'; .* data\.split=time$",
        ),
        (
            ["training.batch_size=7"],
            r"training\.batch_size has no effect with training\.objective = 'all-positions'; leave it out, or ",
        ),
        (["training.prefixes_per_sequence=7"], r"prefixes_per_sequence has no effect with training\.objective = 'all-positions'"),
        (
            ["training.softmax=full", "training.negatives=7"],
            r"negatives has no effect with training\.softmax = 'full'; .*=sampled$",
        ),
        (
            ["backbone.bidirectional=none", "backbone.backward_weight=0.7"],
            r"^--set: backbone\.backward_weight has no effect with backbone\.bidirectional = 'none'; .*=top$",
        ),
        (["backbone.bidirectional=none", "backbone.mirror_back=true"], r"mirror_back has no effect"),
    ],
)
def test_settings_without_effect_are_refused(asked: list[str], message: str) -> None:
    """Where the other setting makes it read, in whichever order, it is taken."""
    with pytest.raises(ConfigError, match=message):
        load_config("quick", asked)
    others = ["data.split=time", "training.objective=per-prefix", "training.softmax=sampled", "backbone.bidirectional=all"]
    load_config("quick", [*asked, *others])


def test_a_wrong_override_is_not_laid_to_the_preset() -> None:
    """Nobody who writes --set need know of "quick"; what is wrong in a file is said with its name, also where both are."""
    for asked in ("training.seed=hello", "backbone.width=0", "training.sed=1"):
        with pytest.raises(ConfigError, match=r"^--set: "):
            load_config("quick", [asked])
    with pytest.raises(ConfigError, match=r"^mine: .*width = 0.*seed = 'hello'"):
        parse_config("[backbone]\nwidth = 0", ["training.seed=hello"], "mine")


def test_settings_that_have_an_effect() -> None:
    """Not what its backbone lacks, nor what another setting switches off; a property of a group is not a setting."""
    top, none = load_config("quick"), load_config("quick", ["backbone.bidirectional=none"])
    sasrec = load_config("quick", ["backbone.name=sasrec"])
    assert [is_read(config, "backbone.backward_weight") for config in (top, none, sasrec)] == [True, False, False]
    assert [is_read(config, "backbone.heads") for config in (top, none, sasrec)] == [False, False, True]
    assert is_read(top, "training.seed")
    assert not any(is_read(top, name) for name in ("training.batch_size", "bakbone.width", "width"))


def test_settings_of_a_preset_may_have_no_effect(tmp_path) -> None:
    """A batch of prefixes is the preset's, not the asker's; a file that names a moment must split by it."""
    assert load_config("ml-1m", ["training.objective=all-positions", "backbone.bidirectional=top"]).training.batch_size == 1024
    file = tmp_path / "mine.toml"
    file.write_text('[data]\ntest_from = "2016-01-31"\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: data\.test_from has no effect with data\.split = 'leave-last-out'"):
        load_config(file)
    assert load_config(file, ["data.split=time"]).data.test_from == "2016-01-31"


def test_settings_of_a_file_must_have_an_effect(tmp_path) -> None:
    """Or refused, unless it is the default, as in the file of a finished model, or --set has put it out of use."""
    file = tmp_path / "mine.toml"
    file.write_text('[training]\nobjective = "per-prefix"\nprefixes_per_sequence = 3\nnegatives = 7\n')
    assert load_config(file).training.prefixes_per_sequence == 3
    assert load_config(file, ["training.objective=all-positions"]).training.objective == "all-positions"
    assert load_config(file, ["backbone.name=sasrec"]).training.negatives == 7
    file.write_text('[training]\nsoftmax = "full"\nnegatives = 7\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: training\.negatives has no effect with training\.softmax = 'full'"):
        load_config(file)
    for variant in ("none", "top"):
        file.write_text(dump_config(load_config("quick", [f"backbone.bidirectional={variant}", "training.softmax=full"])))
        assert load_config(file).backbone == load_config("quick", [f"backbone.bidirectional={variant}"]).backbone


def test_an_override_is_one_line_and_is_named() -> None:
    """A second line would be lost; an unknown name of a backbone is the override's, not the preset's."""
    with pytest.raises(ConfigError, match="it has more than one line; use one --set for each"):
        load_config("quick", ["training.max_epochs=3\ntraining.seed=4"])
    with pytest.raises(ConfigError, match=r"^--set: unknown backbone 'foo'"):
        load_config("quick", ["backbone.name=foo"])


def test_overrides_may_depend_on_each_other() -> None:
    """Settings are checked once all are in: width 15 fits heads of 5 only."""
    assert load_config("quick", ["backbone.width=15", "backbone.head_width=5"]).backbone.heads == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[backbone]\nwidht = 3", r"settings: unknown setting 'backbone\.widht'; did you mean 'backbone\.width'\?"),
        ("[training]\nmax_epoch = 3", r"unknown setting 'training\.max_epoch'; did you mean 'training\.max_epochs'\?"),
        ("[zzz]\nq = 3", r"unknown setting 'zzz'; known settings: data"),
        ("[backbone]\nwidth = 0", r"backbone\.width = 0: Input should be greater than or equal to 1"),
        ('[backbone]\nwidth = "wide"', r"backbone\.width = 'wide': Input should be a valid integer"),
        ("[backbone]\ndropout = 1.0", r"backbone\.dropout = 1\.0: Input should be less than 1"),
        ('[backbone]\nbidirectional = "both"', r"backbone\.bidirectional = 'both': Input should be 'all', 'top' or 'none'"),
        ("[backbone]\nbackward_weight = nan", r"backbone\.backward_weight = nan: Input should be a finite number"),
        ("[backbone]\nwidth = 5", r"expand \* width = 10 is not a multiple of head_width = 16"),
        ("[training]\nmask_ratio = 1.0", r"training\.mask_ratio = 1\.0: Input should be less than 1"),
        ("[training]\nlearning_rate = 0.0", r"training\.learning_rate = 0\.0: Input should be greater than 0"),
        ("[evaluation]\ncutoffs = []", r"cutoffs must be ranks of 1 or more, e\.g\. \[10, 20\], found \[\]"),
        ("[evaluation]\ncutoffs = [10, 0]", r"cutoffs must be ranks of 1 or more, e\.g\. \[10, 20\], found \[10, 0\]"),
        ("[evaluation]\ncutoffs = 10", r"evaluation\.cutoffs = 10: Input should be a list of numbers such as \[10, 20\]$"),
        ("data = 3", r"data = 3: Input should be a table \[data\] with a setting a line$"),
        ("training = 3", r"training = 3: Input should be a table \[training\] with a setting a line$"),
        ("[backbone]\nwidth = 0\nlayers = 0", r"backbone\.width = 0: .*; backbone\.layers = 0: "),
        ("width", r"settings is not valid TOML: Expected '=' after a key"),
        (
            '[backbone]\nbidirectional = "all"\nlayers = 2',
            r'training\.objective = "all-positions" needs causal layers below the top, found '
            r'backbone\.bidirectional = "all" with 2 layers; '
            r'set backbone\.bidirectional = "top" or training\.objective = "per-prefix"',
        ),
        ("[training]\nnegatives = 0", r"training\.negatives = 0: Input should be greater than or equal to 1"),
        ("[training]\nnegative_power = 1.5", r"training\.negative_power = 1\.5: Input should be less than or equal to 1"),
        ("[training]\nseed = 99999999999", r"training\.seed = 99999999999: Input should be less than or equal to 4294967295"),
        ('[training]\nsoftmax = "some"', r"training\.softmax = 'some': Input should be 'auto', 'full' or 'sampled'"),
        (
            '[training]\nupdated_rows = "touched"',
            r'training\.updated_rows = "touched" needs training\.softmax = "sampled", found "auto": the full softmax',
        ),
        (
            '[training]\nsoftmax = "sampled"\nupdated_rows = "touched"\nweight_decay = 0.1',
            r'training\.updated_rows = "touched" updates only .* but training\.weight_decay = 0\.1 changes every row; set',
        ),
        (
            '[training]\nsoftmax = "sampled"\nupdated_rows = "touched"\nlabel_smoothing = 0.1',
            r'training\.updated_rows = "touched" updates only .* but training\.label_smoothing = 0\.1 changes every row; set',
        ),
    ],
)
def test_settings_that_cannot_be(text: str, message: str) -> None:
    """The error names the setting, the value, what was expected, and what to do."""
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.max_epochs",
            r"cannot read the setting 'training\.max_epochs': write .*, e\.g\. training\.max_epochs=3",
        ),
        ("max_epochs=3", r"cannot read the setting 'max_epochs=3': write group\.key=value"),
        ("training.=3", r"cannot read the setting 'training\.=3': write group\.key=value"),
        ("training.max_epoch=3", r"--set: unknown setting 'training\.max_epoch'; did you mean 'training\.max_epochs'\?"),
        ("training.max_epochs=many", r"training\.max_epochs = 'many': Input should be a valid integer"),
        ("training.max_epochs=none", r"training\.max_epochs = 'none': Input should be a valid integer"),
    ],
)
def test_overrides_that_cannot_be(override: str, message: str) -> None:
    """A wrong override is named as it was written."""
    with pytest.raises(ConfigError, match=message):
        load_config("quick", [override])


def test_an_override_of_what_is_no_group() -> None:
    """A file that gives a number where a group belongs cannot be overridden inside it."""
    with pytest.raises(
        ConfigError, match="'data' is not a group of settings; groups are data, backbone, training, fusion, features, evaluation"
    ):
        parse_config("data = 3", ["data.user=me"])


@pytest.mark.parametrize("name", ["quikc", "no/such/file.toml"])
def test_no_such_preset_or_file(name: str) -> None:
    """The message lists what there is."""
    message = rf"no settings named '{name}': neither a file nor one of the presets amazon-beauty, .*, quick"
    with pytest.raises(ConfigError, match=message):
        load_config(name)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A folder is refused as a file that is not there."""
    with pytest.raises(ConfigError, match="neither a file nor one of the presets"):
        load_config(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what the system says."""
    file = tmp_path / "mine.toml"
    file.write_text("[backbone]\nwidth = 32\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"mine\.toml cannot be read: Permission denied; give another file, or a preset"):
        load_config(file)


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    """Too long for a file system, below a file, or with a zero in it."""
    with pytest.raises(ConfigError, match=r"aaa cannot be read: File name too long; give another file, or a preset"):
        load_config("a" * 300)
    (tmp_path / "file").write_text("x")
    for name in (tmp_path / "file" / "mine.toml", "a\0b"):
        with pytest.raises(ConfigError, match="neither a file nor one of the presets"):
            load_config(name)


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    """The message names the file and the line."""
    file = tmp_path / "broken.toml"
    file.write_text("[backbone]\nwidth = \n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML: .*line 2"):
        load_config(file)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    """The message names the file."""
    file = tmp_path / "latin.toml"
    file.write_bytes(b'[data]\nuser = "caf\xe9"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml is not UTF-8 text: .*; settings are a TOML file"):
        load_config(file)


def test_derived_sizes() -> None:
    """D = 256, expand 2, P = 16: E = 512 and H = 32."""
    backbone = SSD4RecConfig(width=256, expand=2, head_width=16)
    assert (backbone.inner_width, backbone.heads) == (512, 32)


@pytest.mark.parametrize(
    ("bidirectional", "expected"), [("all", (True, True, True)), ("top", (False, False, True)), ("none", (False, False, False))]
)
def test_which_layers_read_both_ways(bidirectional: str, expected: tuple[bool, ...]) -> None:
    """Of three layers, bottom to top."""
    assert SSD4RecConfig(layers=3, bidirectional=bidirectional).bidirectional_layers == expected


@pytest.mark.parametrize(
    ("bidirectional", "layers", "expected"),
    [("all", 1, True), ("all", 2, False), ("top", 1, True), ("top", 3, True), ("none", 3, True)],
)
def test_which_wirings_one_pass_can_read(bidirectional: str, layers: int, expected: bool) -> None:
    """All but several layers that read both ways."""
    assert SSD4RecConfig(layers=layers, bidirectional=bidirectional).supports_all_positions is expected


def test_a_misspelt_group() -> None:
    """A group that does not exist is answered with the nearest group."""
    with pytest.raises(ConfigError, match="did you mean 'training'"):
        parse_config("[trainin]\nmax_epochs = 3")


@pytest.mark.parametrize("text", ["[backbone]\nlayers = true", '[backbone]\nwidth = "64"', "[backbone]\nnorm_embedding = 1"])
def test_settings_of_another_type(text: str) -> None:
    """Neither a Boolean nor a word is a number."""
    with pytest.raises(ConfigError, match="Input should be"):
        parse_config(text)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_backbone_is_a_class_of_settings(name: str) -> None:
    """Its name chooses it, its defaults are a whole configuration, and what is written is read back."""
    config = parse_config(f'[backbone]\nname = "{name}"')
    assert type(config.backbone) is BACKBONES[name]
    assert config.backbone.name == name
    assert config.training.objective == config.backbone.objectives[0]
    assert parse_config(dump_config(config)) == config


@pytest.mark.parametrize("name", list(BACKBONES))
@pytest.mark.parametrize("preset", presets())
def test_another_backbone_on_top_of_a_preset(preset: str, name: str) -> None:
    """Settings of the preset that the backbone has are kept, the others are ignored; likewise the objective."""
    config, of_preset = load_config(preset, [f"backbone.name={name}"]), load_config(preset)
    shared = BACKBONES[name].model_fields.keys() & type(of_preset.backbone).model_fields.keys() - {"name"}
    assert {"width", "dropout"} <= shared
    assert all(getattr(config.backbone, key) == getattr(of_preset.backbone, key) for key in shared)
    assert config.training.objective in config.backbone.objectives
    assert config.training.model_dump(exclude={"objective"}) == of_preset.training.model_dump(exclude={"objective"})


def test_settings_of_another_backbone_are_refused(tmp_path: Path) -> None:
    """A key of another backbone is an error on the command line and in a file; the message says whose it is."""
    message = r"backbone\.bidirectional is a setting of ssd4rec, not of mamba4rec, whose settings are backbone\.name, "
    with pytest.raises(ConfigError, match=message):
        load_config("quick", ["backbone.name=mamba4rec", "backbone.bidirectional=top"])
    file = tmp_path / "mine.toml"
    file.write_text('[backbone]\nbidirectional = "top"\n')
    with pytest.raises(ConfigError, match=message):
        load_config(file, ["backbone.name=mamba4rec"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nheads = 4", r"backbone\.heads is a setting of sasrec, bert4rec, not of ssd4rec, whose settings are .*_dim"),
        ("[backbone]\nmax_length = 4", r"max_length is a setting of .*, not of ssd4rec; did you mean 'data\.max_length'\?$"),
        ("[training]\nmask = 0.1", r"unknown setting 'training\.mask'; did you mean 'training\.mask_ratio'\?$"),
        ("[training]\nwidth = 4", r"unknown setting 'training\.width'; did you mean 'backbone\.width'\?$"),
        ('[backbone]\nname = "mamba5rec"', r"unknown backbone 'mamba5rec'; did you mean 'mamba4rec'\?"),
        ('[backbone]\nname = "zzz"', r"unknown backbone 'zzz'; known backbones: ssd4rec, sasrec, .*mamba4rec"),
        ('[backbone]\nname = "mamba4rec"\nwidht = 3', r"unknown setting 'backbone\.widht'; did you mean 'backbone\.width'\?$"),
        ("[backbone]\nlearning_rate = 3", r"'backbone\.learning_rate'; did you mean 'training\.learning_rate'\?"),
        ("[backbone]\nzzz = 3", r"unknown setting 'backbone\.zzz'; known settings: data\.user, "),
        ('[backbone]\nname = "mamba4rec"\nwidth = 0', r"backbone\.width = 0: Input should be greater than or equal to 1"),
        ("backbone = 3", r"backbone = 3: Input should be a table \[backbone\] with a setting a line$"),
    ],
)
def test_backbones_that_cannot_be(text: str, message: str) -> None:
    """A wrong name, a wrong key and a wrong value are named without pydantic's own words for the choice."""
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


def test_settings_without_a_name_are_ssd4recs() -> None:
    """A file of before there was a choice means what it meant."""
    assert parse_config("[backbone]\nwidth = 32").backbone == SSD4RecConfig(width=32)
    assert Config.model_validate({"backbone": {"width": 32}}).backbone == SSD4RecConfig(width=32)


def test_the_catalogue_is_sampled_above_fifty_thousand_items() -> None:
    """auto: 50,000 items are all scored, one more are sampled; "full" and "sampled" do as they say."""
    auto, full, sampled = (TrainingConfig(softmax=choice) for choice in ("auto", "full", "sampled"))
    assert [auto.samples(items) for items in (50_000, 50_001)] == [False, True]
    assert not full.samples(1_000_000)
    assert sampled.samples(10)


@pytest.mark.parametrize("value", ["abc", "-1", "true", "nan", "inf"])
def test_fusion_settings_are_a_number_or_tuned(value: str) -> None:
    """One line with the expected and the actual value."""
    with pytest.raises(ConfigError, match=r"fusion\.cooccurrence") as caught:
        load_config("quick", [f"fusion.cooccurrence={value}"])
    assert "constrained" not in str(caught.value)
    assert load_config("quick", ["fusion.cooccurrence=2"]).fusion.cooccurrence == 2.0
    assert load_config("quick").fusion.cooccurrence == "tuned"


@pytest.mark.parametrize("value", ["abc", "-0.1", "1", "true", "nan"])
def test_input_dropout_is_a_probability_or_auto(value: str) -> None:
    with pytest.raises(ConfigError, match=r'backbone\.input_dropout must be at least 0 and below 1, or "auto"'):
        load_config("quick", [f"backbone.input_dropout={value}"])
    assert load_config("quick", ["backbone.input_dropout=0"]).backbone.input_dropout == 0.0
    assert load_config("regularized").backbone.input_dropout == "auto"


@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "true", "nan", "65"])
def test_teachers_are_a_number_or_auto(value: str) -> None:
    with pytest.raises(ConfigError, match=r'training\.teachers must be a number from 0 to \d+, or "auto" \(by the data\); found'):
        load_config("quick", [f"training.teachers={value}"])
    assert load_config("quick").training.teachers == 0
    assert load_config("regularized").training.teachers == "auto"


@pytest.mark.parametrize("value", ["abc", "-0.1", "true", "nan", "inf"])
@pytest.mark.parametrize("name", ["training.teacher_cooccurrence", "fusion.cooccurrence"])
def test_weights_of_cooccurrence_scores_are_a_number_or_tuned(name: str, value: str) -> None:
    with pytest.raises(
        ConfigError, match=rf'{re.escape(name)} must be a weight of 0 or more, or "tuned" \(on the validation set\)'
    ):
        load_config("quick", [f"{name}={value}"])
    assert load_config("regularized").training.teacher_cooccurrence == "tuned"


def test_the_regularized_preset_is_the_measured_recipe() -> None:
    """Preset regularized is preset quick with just these changes; `benchmarks/results/presets` has what it is worth."""
    changes = [
        "backbone.norm_embedding=true",
        "backbone.norm_first=true",
        "backbone.dropout=0.0",
        "backbone.input_fade=0.7",
        "backbone.input_skip=true",
        "backbone.fade_skip_only=true",
        "backbone.input_dropout=auto",
        "backbone.repeat_logits=popularity",
        "training.token_budget=512",
        "training.mask_ratio=0.0",
        "training.schedule=constant",
        "training.learning_rate=2e-3",
        "training.ema_decay=0.999",
        "training.label_smoothing=0.1",
        "training.teachers=auto",
        "training.teacher_cooccurrence=tuned",
        "fusion.cooccurrence_model=auto",
        "training.max_epochs=40",
        "training.patience=3",
    ]
    assert load_config("regularized") == load_config("quick", changes)


def test_the_ensemble_preset_is_the_default_with_four_members() -> None:
    assert load_config("ensemble") == load_config("regularized", ["backbone.members=4"])


def test_the_wide_preset_is_the_default_at_twice_the_width() -> None:
    assert load_config("wide") == load_config("regularized", ["backbone.width=128"])


@pytest.mark.parametrize(
    "override",
    ["backbone.input_skip=false", "backbone.input_fade=0.0", "backbone.fade_skip_only=false", "training.teachers=0"],
)
def test_parts_of_the_default_preset_can_be_switched_off(override: str, tmp_path: Path) -> None:
    """The settings that a model or a search saves are read again."""
    config = load_config("regularized", [override])
    (tmp_path / "best.toml").write_text(dump_config(config))
    assert load_config(tmp_path / "best.toml") == config


@pytest.mark.parametrize(
    "override",
    [
        "backbone.width=1000000",
        "backbone.layers=1000000",
        "data.max_length=9223372036854775807",
        "training.token_budget=99999999999",
        "training.max_epochs=" + "9" * 5000,
        "training.max_epochs=" + "[" * 5000,
        "data.min_interactions=99999999999",
        "evaluation.cutoffs=" + "[" * 5000 + "]" * 5000,
    ],
    ids=lambda override: override[:40],
)
def test_absurd_values_are_refused_in_a_short_message(override: str) -> None:
    """Sizes that would take gigabytes or hours, thousands of digits, deep nesting."""
    with pytest.raises(ConfigError) as caught:
        load_config("quick", [override])
    assert len(str(caught.value)) < 800


def test_absurd_files_are_refused(tmp_path: Path) -> None:
    for text in ("[training]\nmax_epochs = " + "9" * 5000, "a = " + "[" * 5000):
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(ConfigError, match="is not valid TOML"):
            load_config(tmp_path / "mine.toml")


@pytest.mark.parametrize("preset", presets())
def test_settings_of_the_data_are_read_alone(preset):
    """They equal the group of all settings."""
    overrides = ["data.min_interactions=3", "data.user=who"]
    assert load_data_config(preset, overrides) == load_config(preset, overrides).data


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.seed=1", r"--set: training\.seed has no effect here; only settings of the group data have"),
        ("data.min_interactions=0", r"--set: data\.min_interactions = 0: Input should be greater than or equal to 1"),
        ("data.min_interaction=5", r"unknown setting 'data\.min_interaction'; did you mean 'data\.min_interactions'\?"),
    ],
)
def test_mistakes_in_settings_of_the_data(override, message):
    with pytest.raises(ConfigError, match=message):
        load_data_config("quick", [override])
