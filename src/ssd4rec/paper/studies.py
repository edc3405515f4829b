"""The runs of each table and figure, and the effect of `--set` on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic import TypeAdapter

from ssd4rec._suggestions import find
from ssd4rec.config import BACKBONES, MAX_SEED, Config, Mamba4RecConfig, SSD4RecConfig, is_read, load_config, presets
from ssd4rec.config.backbones import MAX_WINDOW
from ssd4rec.configs import DEFAULT_PRESET
from ssd4rec.errors import ConfigError
from ssd4rec.paper.recipes import RECIPES, TABLES, Budget, recipe_settings
from ssd4rec.paper.results import BASELINES

DIRECTIONS = {"ssd4rec": "top", "ssd4rec-all": "all", "ssd4rec-none": "none"}  # model: which layers read backwards
TWINS = {"ssd4rec-all": "ssd4rec", "ssd4rec-none": "mamba4rec"}  # with some settings the same network as the other
NETWORKS = (*DIRECTIONS, *(name for name in BACKBONES if name != "ssd4rec"))
MODELS = (*NETWORKS, *BASELINES)
BACKWARD_LAYERS = ("ssd4rec-all", "sigma")  # every layer reads backwards: with several, all-positions training is impossible
RECIPE_BATCH = 2048  # positions
ONE_PASS_BATCH = 1152  # positions: about as many targets as the 1,024 prefixes of the paper's batch
PATIENCE = 10  # the paper's
STEP_TRIALS = 8  # sizes of batches that are tried for a length
SAMPLED_PREFIXES = ('training.objective="per-prefix"', "training.prefixes_per_sequence=8")
OPTION_OF = {  # settings that an option of the command decides
    "backbone.name": "--models",
    "backbone.bidirectional": "--models",
    "backbone.width": "--width",
    "training.max_epochs": "--epochs",
}


@dataclass(frozen=True)
class Point:
    """One row of a table, or one point of a curve: the same settings under each seed."""

    label: str
    model: str
    configs: tuple[Config, ...]  # one a seed; a single one for a baseline
    x: float | None = None  # position on the axis of a curve; None there: whole sequences
    changed: tuple[str, ...] = ()  # names of the settings from --set
    origin: str | None = None  # where the settings come from; None for a baseline


@dataclass(frozen=True)
class StudyRow:
    """A row of a study, or a point of a curve."""

    label: str
    settings: tuple[str, ...] = ()  # `group.key=value`
    x: float | None = None  # position on the axis of a curve; None there: whole sequences


@dataclass(frozen=True)
class Study:
    """One table or figure of the paper. Without rows and values, it compares models."""

    title: str
    axis: str | None = None  # label of the axis, of a curve
    varies: str | None = None  # the setting that distinguishes the points
    label: str = ""  # of a point of a curve, with {x} for its value
    values: tuple[int | float, ...] = ()  # of the setting that a curve varies
    rows: tuple[StudyRow, ...] = ()

    def select(self, values: Sequence[str] = ()) -> list[StudyRow]:
        """Return the points of the curve and the rows, or those of the given values, in the order of the axis.

        Args:
            values: Numbers, also others than those of the study, and labels of rows, such as "whole"; none: all of the study.

        Raises:
            ConfigError: A value is neither a label nor a number of the right kind.
        """
        labels = [row.label for row in self.rows]
        numbers = sorted({self._number(text) for text in values if text not in labels}) if values else self.values
        points = (StudyRow(self.label.format(x=x), (f"{self.varies}={x}",), x) for x in numbers)
        return [*points, *(row for row in self.rows if not values or row.label in values)]

    def _number(self, text: str) -> int | float:
        kind = type(self.values[0])
        try:
            return kind(text)
        except ValueError:
            names = "".join(f", or {row.label}" for row in self.rows)
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"--values {text!r}: expected {what} for {self.varies}, e.g. {self.values[0]}{names}") from None


STUDIES = TypeAdapter(dict[str, Study]).validate_python(TABLES["studies"])
COMPARING = tuple(name for name, study in STUDIES.items() if not study.select())  # studies that compare models
CURVES = tuple(name for name, study in STUDIES.items() if study.axis)


def make_points(
    study: str,
    known: str | None,
    budget: Budget,
    models: Sequence[str],
    settings: Sequence[str],
    values: Sequence[str] = (),
    found: Sequence[str] = (),
) -> list[Point]:
    """Return the rows or points of a study on one data set.

    The paper's budgets use the preset of `known`, a named data set. Without models, studies that compare models have all, the
    others SSD4Rec. The settings are those of --set, `[MODEL:]GROUP.KEY=VALUE`, and the values those of a curve, from --values;
    `found` are settings of single models that a search has found (`recipe_search`).

    Raises:
        ConfigError: A setting, model or value does not fit the study.
    """
    parsed = [Setting.parse(text) for text in settings]
    for setting in parsed:
        setting.check(study)
    plan = _Plan(known, budget, [*parsed, *(replace(Setting.parse(text), found=True) for text in found)])
    if study in COMPARING:
        return _models(plan, models or MODELS)
    lines = [point.model for point in _models(plan, models)] or [plan.main_model()]
    for model in lines:
        plan.check_line(study, model)
    return [plan.point(row.label, model, row.settings, row.x) for model in lines for row in STUDIES[study].select(values)]


@dataclass(frozen=True)
class Setting:
    """One value of --set."""

    model: str | None  # None: for all models that have the setting
    text: str  # group.key=value
    found: bool = False  # by a search, not set by hand

    @property
    def name(self) -> str:
        """`group.key`."""
        return self.text.partition("=")[0]

    @property
    def of_data(self) -> bool:
        """Whether it is about data or protocol, which all models share."""
        return self.name.startswith(("data.", "evaluation."))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[MODEL:]GROUP.KEY=VALUE`."""
        head, equals, value = text.partition("=")
        model, colon, name = head.rpartition(":")
        return cls(model.strip() if colon else None, f"{name.strip()}{equals}{value}")

    def check(self, study: str) -> None:
        """Refuse a setting that another option or the study itself decides."""
        if self.model is not None:
            find(self.model, NETWORKS, "network")
        option, varies = OPTION_OF.get(self.name), STUDIES[study].varies
        if self.name == varies:
            raise ConfigError(f"{study} varies {varies} itself; leave out --set {self.text}, or use it with another study")
        if self.name.startswith("fusion."):
            raise ConfigError(f"each model is measured with and without score fusion; leave out --set {self.text}")
        if self.model is not None and self.of_data:
            raise ConfigError(f"data and protocol are the same for all models; use --set {self.text} without {self.model}:")
        if option is not None and (self.model is None or option == "--models"):
            raise ConfigError(f"{self.name} is set by {option}; leave out --set {self.text}")

    def applies_to(self, model: str, network: str, fixed: Config, *, varied: bool) -> bool:
        """Whether a row gets the setting: it is for the row alone, or for all networks that have and read it.

        Args:
            model: The row's model.
            network: Name of its network.
            fixed: The settings that the row cannot change: a row without a backward direction has no backward weight.
            varied: Whether the study changes the row, so that a setting may lose its effect.
        """
        group, _, key = self.name.partition(".")
        if group != "backbone":
            return self.model in (None, model)
        has_key = key in BACKBONES[network].model_fields
        unread = has_key and not is_read(fixed, self.name)
        if self.model is not None:
            return self.model == model and not (varied and unread)
        unknown = all(key not in each.model_fields for each in BACKBONES.values())  # the configuration names the nearest
        return unknown or (has_key and not unread)


@dataclass(frozen=True)
class _Plan:
    known: str | None
    budget: Budget
    settings: Sequence[Setting]

    @property
    def preset(self) -> str | None:
        """The paper's preset where the budget follows it and the data have one, the default preset where that is the budget."""
        if self.budget.follows_default:
            return DEFAULT_PRESET
        return self.known if self.budget.follows_paper and self.known in presets() else None

    def point(self, label: str, model: str, changes: Sequence[str] = (), x: float | None = None) -> Point:
        if model in BASELINES:
            applied = [each for each in self.settings if each.of_data]
            config = load_config("quick", [each.text for each in applied])
            return Point(label, model, (config,), changed=tuple(each.name for each in applied))
        config, applied = self.config(model, changes)
        seeds = range(config.training.seed, config.training.seed + self.budget.seeds)
        if seeds[-1] > MAX_SEED:
            raise ConfigError(f"--seeds {len(seeds)} from training.seed={seeds[0]} exceeds the largest seed, {MAX_SEED}")
        configs = tuple(config.replaced("training", seed=seed) for seed in seeds)
        changed = tuple(dict.fromkeys(each.name for each in applied if each.name != "training.seed"))
        found = tuple(each.name for each in applied if each.found)
        return Point(label, model, configs, x, changed, self.origin(config, changed, found))

    def main_model(self) -> str:
        """Return the model of ablations and of a single curve: the paper's under its settings, else the cheapest to train."""
        if self.preset is None or self.budget.one_pass:
            return "ssd4rec"
        return _models(self, ("ssd4rec", "ssd4rec-all"))[-1].model  # with one layer both are one network: the first

    def check_line(self, study: str, model: str) -> None:
        """Refuse a model without a line among the curves of a study."""

        def reads(name: str, varies: str = STUDIES[study].varies or "") -> bool:
            return name in NETWORKS and is_read(self.config(name, ())[0], varies)

        if not reads(model):
            raise ConfigError(
                f"{study} trains networks that read {STUDIES[study].varies}, and {model} is not one of them; "
                f"choose --models from {', '.join(filter(reads, NETWORKS))}"
            )

    def config(self, model: str, changes: Sequence[str]) -> tuple[Config, list[Setting]]:
        """Return a row's configuration, and the values of --set in it, those for the row alone last."""
        network = "ssd4rec" if model in DIRECTIONS else model
        base = self._base_settings(model, network)
        fixed = load_config(
            "quick", [each for each in (*base, *changes) if each.startswith(("backbone.name=", "backbone.bidir"))]
        )
        applied = [each for each in self.settings if each.applies_to(model, network, fixed, varied=bool(changes))]
        applied.sort(key=lambda setting: setting.model is not None)

        def load() -> Config:
            try:
                return load_config(self.preset or "quick", [*base, *(each.text for each in applied), *changes])
            except ConfigError as error:
                raise ConfigError(f"{model}: {error}") from error

        if self.preset is None and model in BACKWARD_LAYERS:
            deep = load_config("quick", [*base, *(each.text for each in applied), *SAMPLED_PREFIXES]).backbone
            base += SAMPLED_PREFIXES if getattr(deep, "layers", 1) > 1 else ()
        config = load()
        if self.preset and not self.budget.follows_default and not any(each.name == "training.objective" for each in applied):
            base += self._objective_beside_preset(config)
            config = load()
        if config.training.objective == "masked-item":  # the masked items are the targets: a general mask ratio does not apply
            applied = [each for each in applied if each.model or each.name != "training.mask_ratio"]
            config = load()
        return config, applied

    def _base_settings(self, model: str, network: str) -> list[str]:
        base = [
            f'backbone.name="{network}"',
            f"backbone.width={self.budget.width}",
            f"training.max_epochs={self.budget.epochs}",
            "fusion.cooccurrence=0.0",
            "fusion.repeat_bias=0.0",
        ]
        if network == "ssd4rec":
            base.append(f'backbone.bidirectional="{DIRECTIONS[model]}"')
        if self.budget.follows_default:
            base.append("training.teachers=0")  # one network each; --set training.teachers=2 gives teachers to all of them
            if network == "bert4rec":  # the preset masks nothing, and masked items are all that this model learns from
                base.append(f"training.mask_ratio={RECIPES[network].mask_ratio}")
        elif network != "ssd4rec" or self.preset is None:
            base += recipe_settings(network, self.known)
        if network == "gru4rec":
            base.append(f"backbone.hidden={2 * self.budget.width}")  # its recipe has 128 at width 64
        return base if self.preset else [*base, *self._without_preset(network)]

    def _without_preset(self, network: str) -> list[str]:
        objectives = BACKBONES[network].objectives
        objective = "all-positions" if "all-positions" in objectives else objectives[0]
        base = [*SAMPLED_PREFIXES] if objective == "per-prefix" else [f'training.objective="{objective}"']
        base.append(f"training.token_budget={RECIPE_BATCH}")
        if self.budget.follows_paper:
            base.append(f"training.patience={PATIENCE}")
        else:  # the learning rate falls to 0 at the last epoch, so every run goes that far
            base += ['training.schedule="cosine"', f"training.patience={self.budget.epochs}"]
        if "state_dim" in BACKBONES[network].model_fields:
            base.append(f"backbone.state_dim={min(self.budget.width, 64)}")
        return base

    def _objective_beside_preset(self, config: Config) -> list[str]:
        """Return all-positions training where the budget asks for it and the model can, and masked items for BERT4Rec."""
        objective = BACKBONES[config.backbone.name].objectives[0]
        one_pass = self.budget.one_pass and objective != "per-prefix" and config.backbone.objection(objective) is None
        if one_pass or objective == "masked-item":
            return [f'training.objective="{objective}"', f"training.token_budget={ONE_PASS_BATCH}"]
        return []

    def origin(self, config: Config, changed: Sequence[str], found: Sequence[str]) -> str:
        """Return where the settings of a row come from, and which of them --set has changed or a search has found."""
        origin = RECIPES[config.backbone.name].source
        if self.budget.follows_default:
            origin = f"preset {DEFAULT_PRESET}"
        elif self.preset and isinstance(config.backbone, SSD4RecConfig):
            origin, paper = "preset of the paper", load_config(self.preset).backbone
            same = isinstance(paper, SSD4RecConfig) and config.backbone.bidirectional == paper.bidirectional
            if not same and not (config.backbone.layers == 1 and config.backbone.bidirectional == "top"):
                origin += f', but for backbone.bidirectional = "{config.backbone.bidirectional}"'
        elif self.known in presets() and "backbone.dropout" not in changed:
            origin += ", with the dropout of the preset"
        if self.budget.one_pass and self.preset and config.training.objective != "per-prefix":
            origin += ", all-positions training"
        parts = []
        if by_hand := [name for name in changed if name not in found]:
            parts.append(f"changed here ({', '.join(by_hand)})")
        if found:
            parts.append(f"best of {self.budget.trials} trials ({', '.join(found)})")
        return ", ".join([*parts, f"the rest {origin}"]) if parts else origin


def _models(plan: _Plan, models: Sequence[str]) -> list[Point]:
    points = {model: plan.point(model, model) for model in models}
    for twin, model in TWINS.items():
        if model in points and twin in points and _effective(points[model].configs[0]) == _effective(points[twin].configs[0]):
            del points[twin]
    return list(points.values())


def _effective(config: Config) -> dict[str, Any]:
    """Return all settings that are read, in one form for equal networks: "all" of one layer is "top", Mamba4Rec is "none"."""
    if isinstance(config.backbone, Mamba4RecConfig):
        config = config.model_copy(update={"backbone": config.backbone.as_ssd4rec})
    settings = {
        f"{group}.{key}": value
        for group, values in config.model_dump().items()
        for key, value in values.items()
        if is_read(config, f"{group}.{key}")
    }
    if settings.get("backbone.layers") == 1 and settings.get("backbone.bidirectional") == "all":
        settings["backbone.bidirectional"] = "top"
    return settings


def distinct_points(points: Sequence[Point], longest: int) -> tuple[list[Point], list[str]]:
    """Return the points that differ on data whose longest sequence has `longest` interactions, and the other labels.

    Of equal points the one that reads whole sequences stays, else the first.
    """
    first: dict[tuple[Config, ...], Point] = {}
    for point in sorted(points, key=lambda point: point.configs[0].data.max_length is None, reverse=True):
        limit = point.configs[0].data.max_length
        whole = limit is None or limit >= longest
        effect = tuple(config.replaced("data", max_length=None) if whole else config for config in point.configs)
        first.setdefault(effect, point)
    distinct = [point for point in points if any(point is each for each in first.values())]
    return distinct, [point.label for point in points if point not in distinct]


def with_full_window(point: Point, longest: int) -> Point:
    """Raise the number of positions that a network reads at once to the length under study, unless --set has chosen it.

    SASRec, BERT4Rec and GRU4Rec have such a number, `backbone.max_length`. BERT4Rec reads the mask in addition. The last
    interaction of the longest sequence is only predicted.
    """

    def raised(config: Config) -> Config:
        backbone = config.backbone
        needed = min(config.data.max_length or longest, longest - 1) + ("masked-item" in backbone.objectives)
        if needed <= getattr(backbone, "max_length", needed):
            return config
        return config.replaced("backbone", max_length=min(needed, MAX_WINDOW))

    return point if "backbone.max_length" in point.changed else replace(point, configs=tuple(map(raised, point.configs)))


def with_equal_steps(config: Config, steps: Callable[[int | None, int], int]) -> Config:
    """Scale the batches of truncated sequences, whose windows overlap: an epoch has as many steps at any length.

    Args:
        config: Unchanged without `data.max_length`, or with per-prefix training.
        steps: Number of batches of an epoch, by `data.max_length` and `training.token_budget`.
    """
    length, budget = config.data.max_length, config.training.token_budget
    if length is None or config.training.objective == "per-prefix":
        return config
    counts: dict[int, int] = {}
    expected = steps(None, budget)
    while budget not in counts and len(counts) < STEP_TRIALS:  # the number falls about as the budget rises, in jumps
        counts[budget] = steps(length, budget)
        budget = max(1, round(budget * counts[budget] / expected))
    return config.replaced("training", token_budget=min(counts, key=lambda each: abs(counts[each] - expected)))
