"""The runs of each table and figure, and the effect of `--set` on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ssd4rec._suggestions import find
from ssd4rec.config import BACKBONES, MAX_SEED, Config, Mamba4RecConfig, SSD4RecConfig, is_read, load_config, presets
from ssd4rec.errors import ConfigError
from ssd4rec.paper.recipes import RECIPES, Budget, recipe_settings
from ssd4rec.paper.results import BASELINES

DIRECTIONS = {"ssd4rec": "top", "ssd4rec-all": "all", "ssd4rec-none": "none"}  # model: which layers read backwards
TWINS = {"ssd4rec-all": "ssd4rec", "ssd4rec-none": "mamba4rec"}  # with some settings the same network as the other
NETWORKS = (*DIRECTIONS, *(name for name in BACKBONES if name != "ssd4rec"))
MODELS = (*NETWORKS, *BASELINES)
BACKWARD_LAYERS = ("ssd4rec-all", "sigma")  # every layer reads backwards: with several, all-positions training is impossible
COMPARING = ("accuracy", "efficiency")  # studies that compare models
BETAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
RHOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
LENGTHS: tuple[int | None, ...] = (10, 20, 50, 100, 200, 400, None)
ONE_PASS_BATCH = 1152  # positions: about as many targets as the 1,024 prefixes of the paper's batch
PATIENCE = 10  # the paper's
SAMPLED_PREFIXES = ('training.objective="per-prefix"', "training.prefixes_per_sequence=8")
ABLATIONS = {
    "SSD4Rec": (),
    "no backward direction": ('backbone.bidirectional="none"',),
    "backward, mirrored back": ("backbone.mirror_back=true",),
    "no mask": ("training.mask_ratio=0.0",),
    "no feed-forward network": ("backbone.feed_forward=false",),
    "truncated to 50": ("data.max_length=50",),
    "truncated to 200": ("data.max_length=200",),
}
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
class Study:
    """One table or figure of the paper."""

    title: str
    plan: Callable[["_Plan", Sequence[str]], list[Point]]
    axis: str | None = None  # label of the axis, of a curve
    varies: str | None = None  # the setting that distinguishes the points


def make_points(study: str, known: str | None, budget: Budget, models: Sequence[str], settings: Sequence[str]) -> list[Point]:
    """Return the rows or points of a study on one data set.

    Args:
        study: A name in `STUDIES`.
        known: Named data set, whose preset the paper's budgets use.
        budget: Width, epochs and seeds.
        models: Names in `MODELS`, for studies that compare models.
        settings: `[MODEL:]GROUP.KEY=VALUE`, from --set.

    Raises:
        ConfigError: A setting does not fit a model or the study.
    """
    parsed = [Setting.parse(text) for text in settings]
    for setting in parsed:
        setting.check(study)
    return STUDIES[study].plan(_Plan(known, budget, parsed), models)


@dataclass(frozen=True)
class Setting:
    """One value of --set."""

    model: str | None  # None: for all models that have the setting
    text: str  # group.key=value

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
        """The paper's preset where the budget follows it and the data have one."""
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
        configs = tuple(_with_training(config, seed=seed) for seed in seeds)
        changed = tuple(dict.fromkeys(each.name for each in applied if each.name != "training.seed"))
        return Point(label, model, configs, x, changed, self.origin(config, changed))

    def main_model(self) -> str:
        """Return the model that ablations and curves use: the paper's under its settings, else the cheapest to train."""
        if self.preset is None or self.budget.one_pass:
            return "ssd4rec"
        return _models(self, ("ssd4rec", "ssd4rec-all"))[-1].model  # with one layer both are one network: the first

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
        if self.preset and not any(each.name == "training.objective" for each in applied):
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
        if network != "ssd4rec" or self.preset is None:
            base += recipe_settings(network, self.known)
        if network == "gru4rec":
            base.append(f"backbone.hidden={2 * self.budget.width}")  # its recipe has 128 at width 64
        return base if self.preset else [*base, *self._without_preset(network)]

    def _without_preset(self, network: str) -> list[str]:
        objectives = BACKBONES[network].objectives
        objective = "all-positions" if "all-positions" in objectives else objectives[0]
        base = [*SAMPLED_PREFIXES] if objective == "per-prefix" else [f'training.objective="{objective}"']
        base.append(f"training.token_budget={RECIPES[network].token_budget}")
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
        return [f'training.objective="{objective}"', f"training.token_budget={ONE_PASS_BATCH}"] if (
            one_pass or objective == "masked-item"
        ) else []  # fmt: skip

    def origin(self, config: Config, changed: Sequence[str]) -> str:
        """Return where the settings of a row come from, and which of them --set has changed."""
        origin = RECIPES[config.backbone.name].source
        if self.preset and isinstance(config.backbone, SSD4RecConfig):
            origin, paper = "preset of the paper", load_config(self.preset).backbone
            same = isinstance(paper, SSD4RecConfig) and config.backbone.bidirectional == paper.bidirectional
            if not same and not (config.backbone.layers == 1 and config.backbone.bidirectional == "top"):
                origin += f', but for backbone.bidirectional = "{config.backbone.bidirectional}"'
        elif self.known in presets() and "backbone.dropout" not in changed:
            origin += ", with the dropout of the preset"
        if self.preset and self.budget.one_pass and config.training.objective != "per-prefix":
            origin += ", all-positions training"
        return f"changed here ({', '.join(changed)}), the rest {origin}" if changed else origin


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


def _curve(setting: str, name: str, values: Sequence[float]) -> Callable[[_Plan, Sequence[str]], list[Point]]:
    return lambda plan, _: [plan.point(f"{name} {x}", plan.main_model(), [f"{setting}={x}"], x) for x in values]


def _length(plan: _Plan, _: Sequence[str]) -> list[Point]:
    main = plan.main_model()
    truncated = [plan.point(f"last {x}", main, [f"data.max_length={x}"], x) for x in LENGTHS if x is not None]
    return [*truncated, plan.point("whole", main)]


def _ablation(plan: _Plan, _: Sequence[str]) -> list[Point]:
    return [plan.point(label, plan.main_model(), changes) for label, changes in ABLATIONS.items()]


BETA, RHO = "backbone.backward_weight", "training.mask_ratio"
STUDIES: Mapping[str, Study] = {
    "accuracy": Study("Accuracy", _models),
    "efficiency": Study("Efficiency", _models),
    "ablation": Study("Ablation", _ablation, varies="data.max_length"),
    "beta": Study("Backward weight (Figure 3)", _curve(BETA, "beta", BETAS), "beta", BETA),
    "rho": Study("Mask ratio (Figure 4)", _curve(RHO, "rho", RHOS), "rho", RHO),
    "length": Study("Maximum length (Figure 5)", _length, "last interactions read", "data.max_length"),
}


def distinct_points(points: Sequence[Point], longest: int) -> tuple[list[Point], list[str]]:
    """Return the points that differ on data whose longest sequence has `longest` interactions, and the other labels.

    Of equal points the one that reads whole sequences stays, else the first.
    """
    first: dict[tuple[Config, ...], Point] = {}
    for point in sorted(points, key=lambda point: point.configs[0].data.max_length is None, reverse=True):
        limit = point.configs[0].data.max_length
        effect = tuple(_with_length(config, None) if (limit or 0) >= longest else config for config in point.configs)
        first.setdefault(effect, point)
    distinct = [point for point in points if any(point is each for each in first.values())]
    return distinct, [point.label for point in points if point not in distinct]


def with_equal_steps(config: Config, overlap: Mapping[int, float]) -> Config:
    """Scale the batches of truncated sequences by the overlap of their windows: an epoch has as many steps at any length.

    Args:
        config: Unchanged without `data.max_length`, or with per-prefix training.
        overlap: By window length, how often one epoch reads an interaction.
    """
    length = config.data.max_length
    if length is None or config.training.objective == "per-prefix":
        return config
    return _with_training(config, token_budget=round(config.training.token_budget * overlap.get(length, 1.0)))


def _with_training(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def _with_length(config: Config, length: int | None) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"max_length": length})})
