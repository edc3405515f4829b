"""Which runs make up each table and figure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ssd4rec._suggestions import find
from ssd4rec.config import BACKBONES, MAX_SEED, Config, Mamba4RecConfig, SSD4RecConfig, is_read, load_config, presets
from ssd4rec.errors import ConfigError
from ssd4rec.paper.asked import addressed, check_setting, has_setting, objective_is_set
from ssd4rec.paper.budgets import Budget
from ssd4rec.paper.recipes import RECIPES, settings_of

WIRINGS = {"ssd4rec": "top", "ssd4rec-all": "all", "ssd4rec-none": "none"}
TWINS = {"ssd4rec-all": "ssd4rec", "ssd4rec-none": "mamba4rec"}  # with some settings the same network as the other
WIRING = "backbone.bidirectional="
COUNTED = ("popularity", "cooccurrence")  # nothing is learned: one run measures them for all on the same data
MODELS = (*WIRINGS, *(name for name in BACKBONES if name != "ssd4rec"), *COUNTED)
BACKWARDS = ("ssd4rec-all", "sigma")  # each layer reads backwards: with several, one pass cannot train them
COMPARING = ("accuracy", "efficiency")  # studies that compare models
BETAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
RHOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
ONE_PASS_BATCH = 1152  # positions: about as many targets as the 1,024 prefixes of the paper's batch
PATIENCE = 10  # the paper's
SAMPLED_PREFIXES = ('training.objective="per-prefix"', "training.prefixes_per_sequence=8")  # where one pass cannot train
LENGTHS: tuple[int | None, ...] = (10, 20, 50, 100, 200, 400, None)


@dataclass(frozen=True)
class Point:
    """One row of a table, or one point of a figure: the same settings under each seed."""

    label: str
    model: str
    configs: tuple[Config, ...]  # one a seed; none: counted, which the runs of the others measure
    x: float | None = None  # in a figure; None in one: the whole history
    unset: Config | None = None  # what it would be without --set


def points(study: str, known: str | None, budget: Budget, models: Sequence[str], settings: Sequence[str]) -> list[Point]:
    """The rows or points of a study on one data set.

    Raises:
        ConfigError: no such study, or settings that do not fit.
    """
    for setting in settings:
        check_setting(setting, [model for model in MODELS if model not in COUNTED])
    plan = STUDIES[find(study, tuple(STUDIES), "study")].plan
    return plan(_Request(known, budget, tuple(settings)), models)


@dataclass(frozen=True)
class _Request:
    known: str | None
    budget: Budget
    settings: tuple[str, ...]

    def point(self, label: str, model: str, changes: Sequence[str] = (), x: float | None = None) -> Point:
        if model in COUNTED:
            return Point(label, model, ())
        first = self._config(model, changes, self.settings)
        seeds = range(first.training.seed, first.training.seed + self.budget.seeds)
        if seeds[-1] > MAX_SEED:
            raise ConfigError(f"--seeds {len(seeds)} from training.seed={seeds[0]} on goes beyond {MAX_SEED}, the last one")
        configs = tuple(first.model_copy(update={"training": first.training.model_copy(update={"seed": seed})}) for seed in seeds)
        return Point(label, model, configs, x, unset=self._config(model, changes, ()))

    @property
    def main(self) -> str:
        """The wiring that is taken apart: the paper's under its own settings, else the one that one pass can train."""
        papers = self.budget.follows_paper and self.known in presets() and not self.budget.one_pass
        if not papers:
            return "ssd4rec"
        found = _models(self, ("ssd4rec", "ssd4rec-all"))  # one layer: the first, which the table of models has too
        return found[-1].model

    def _config(self, model: str, changes: Sequence[str], settings: Sequence[str]) -> Config:
        name = "ssd4rec" if model in WIRINGS else model
        published = self.known if self.budget.follows_paper and self.known in presets() else None
        preset = published or "quick"
        chosen = self._chosen(model, name, published)
        asked = _for_row(model, name, settings, chosen, changes)
        if published is None and model in BACKWARDS and _has_several_layers([*chosen, *map(_setting, asked)]):
            chosen = [*chosen, *SAMPLED_PREFIXES]
        config = _loaded(model, preset, chosen, asked, changes)
        if published and not objective_is_set(asked):
            chosen = [*chosen, *self._own_objective(config)]
            config = _loaded(model, preset, chosen, asked, changes)
        if config.training.objective == "masked-item":
            # what is masked is what is learned from, not noise: without it only the last item of a history would be
            asked = [(who, setting) for who, setting in asked if who or not setting.startswith("training.mask_ratio=")]
            config = _loaded(model, preset, chosen, asked, changes)
        return config

    def _chosen(self, model: str, name: str, published: str | None) -> list[str]:
        """What the budget, the wiring and our recipe say of a model on top of a preset."""
        chosen = [
            f'backbone.name="{name}"',
            f"backbone.width={self.budget.width}",
            f"training.max_epochs={self.budget.epochs}",
            "fusion.cooccurrence=0.0",
            "fusion.repeat_bias=0.0",
        ]
        if name == "ssd4rec":
            chosen.append(f'{WIRING}"{WIRINGS[model]}"')
        if name != "ssd4rec" or published is None:
            chosen += settings_of(name, self.known)
        if name == "gru4rec":
            chosen.append(f"backbone.hidden={2 * self.budget.width}")  # as 128 is to 64, its recipe's
        return chosen if published else [*chosen, *self._economies(name)]

    def _own_objective(self, config: Config) -> list[str]:
        """Beside the paper's settings: each history read once where that is asked for and can be, and blanks for BERT4Rec."""
        objective = BACKBONES[config.backbone.name].objectives[0]
        once = self.budget.one_pass and objective != "per-prefix" and config.backbone.objection(objective) is None
        if not once and objective != "masked-item":
            return []
        return [f'training.objective="{objective}"', f"training.token_budget={ONE_PASS_BATCH}"]

    def _economies(self, name: str) -> list[str]:
        objectives = BACKBONES[name].objectives
        objective = "all-positions" if "all-positions" in objectives else objectives[0]
        chosen = [*SAMPLED_PREFIXES] if objective == "per-prefix" else [f'training.objective="{objective}"']
        chosen.append(f"training.token_budget={RECIPES[name].token_budget}")
        if not self.budget.follows_paper:
            # the learning rate falls to 0 at the last epoch, so every run goes that far
            chosen += ['training.schedule="cosine"', f"training.patience={self.budget.epochs}"]
        else:
            chosen.append(f"training.patience={PATIENCE}")
        if "state_dim" in BACKBONES[name].model_fields:
            chosen.append(f"backbone.state_dim={min(self.budget.width, 64)}")
        return chosen


def _for_row(
    model: str, name: str, settings: Sequence[str], chosen: Sequence[str], changes: Sequence[str]
) -> list[tuple[str | None, str]]:
    """Those of --set that are for a row, with whom they were addressed to.

    What is for it alone comes last. A row that reads nothing backwards goes without the weight that all were given; who set it
    for that row alone is told so.
    """
    wired = load_config("quick", [each for each in (*chosen, *changes) if each.startswith(("backbone.name=", WIRING))])
    found = [
        (who, setting)
        for who, setting in map(addressed, settings)
        if (who == model or (who is None and has_setting(name, setting)))
        and ((who is not None and not changes) or not _cut_off(setting, wired))
    ]
    return sorted(found, key=lambda each: each[0] is not None)


def _loaded(
    model: str, preset: str, chosen: Sequence[str], asked: Sequence[tuple[str | None, str]], changes: Sequence[str]
) -> Config:
    try:
        return load_config(preset, [*chosen, *map(_setting, asked), *changes])
    except ConfigError as error:
        raise ConfigError(f"{model}: {error}") from error


def _setting(asked: tuple[str | None, str]) -> str:
    return asked[1]


def _has_several_layers(settings: Sequence[str]) -> bool:
    """However it is trained: with several, reading backwards in all, not every objective can be loaded."""
    backbone = load_config("quick", [*settings, 'training.objective="per-prefix"']).backbone
    return getattr(backbone, "layers", 1) > 1


def refuse_its_own(study: str, settings: Sequence[str]) -> None:
    """What a study varies cannot be set beside it.

    Raises:
        ConfigError: a setting is that one.
    """
    own = STUDIES[study].varies
    for setting in settings:
        if addressed(setting)[1].partition("=")[0] == own:
            raise ConfigError(f"{study} varies {own} itself; leave out --set {setting}, or give it with another study")


def _models(request: _Request, models: Sequence[str]) -> list[Point]:
    found = {model: request.point(model, model) for model in models}
    for twin, model in TWINS.items():
        if model in found and twin in found and _one_network(found[model].configs[0], found[twin].configs[0]):
            del found[twin]
    return list(found.values())


def _one_network(one: Config, twin: Config) -> bool:
    """Whether both learn the same from the same values: the same network twice would say nothing."""
    return _learnt(one) == _learnt(twin)


def _learnt(config: Config) -> dict[str, Any]:
    """All settings that are read, as one network has them: "all" of one layer is "top", Mamba4Rec is "none"."""
    if isinstance(config.backbone, Mamba4RecConfig):
        config = config.model_copy(update={"backbone": config.backbone.as_ssd4rec})
    found = {
        group: {key: value for key, value in settings.items() if is_read(config, f"{group}.{key}")}
        for group, settings in config.model_dump().items()
    }
    if isinstance(config.backbone, SSD4RecConfig) and config.backbone.layers == 1 and config.backbone.bidirectional == "all":
        found["backbone"]["bidirectional"] = "top"
    return found


def _cut_off(setting: str, wired: Config) -> bool:
    """Whether the wiring of a row leaves nothing that reads a setting of its backbone."""
    name = setting.partition("=")[0]
    group, _, key = name.partition(".")
    return group == "backbone" and key in type(wired.backbone).model_fields and not is_read(wired, name)


def _ablation(request: _Request, _models: Sequence[str]) -> list[Point]:
    rows = {
        "SSD4Rec": (),
        "no backward direction": ('backbone.bidirectional="none"',),
        "backward, mirrored back": ("backbone.mirror_back=true",),
        "no mask": ("training.mask_ratio=0.0",),
        "no feed-forward network": ("backbone.feed_forward=false",),
        "truncated to 50": ("data.max_length=50",),
        "truncated to 200": ("data.max_length=200",),
    }
    return [request.point(label, request.main, changes) for label, changes in rows.items()]


def changing(planned: Sequence[Point], longest: int) -> tuple[list[Point], list[str]]:
    """The points of a study that differ on data whose longest history has so many events, and the labels of the others.

    Of several that are the same, the one that reads whole histories stays, else the first.
    """

    def whole(point: Point) -> bool:
        return bool(point.configs) and point.configs[0].data.max_length is None

    def effect(point: Point) -> tuple[Config, ...]:
        return tuple(
            config.model_copy(update={"data": config.data.model_copy(update={"max_length": None})})
            if (config.data.max_length or 0) >= longest
            else config
            for config in point.configs
        )

    first: dict[tuple[Config, ...], Point] = {}
    for point in sorted(planned, key=whole, reverse=True):
        first.setdefault(effect(point), point)
    kept = [point for point in planned if first[effect(point)] is point]
    return kept, [point.label for point in planned if first[effect(point)] is not point]


def with_equal_steps(point: Point, overlap: Mapping[int, float]) -> Point:
    """A point whose batches hold as many more events as its windows overlap: a pass then has as many steps at any length.

    Args:
        point: any; without `data.max_length`, or with every prefix apart, it stays as it is.
        overlap: of a window's length, how often one pass reads an event.
    """
    first = point.configs[0]
    length = first.data.max_length
    if length is None or first.training.objective == "per-prefix":
        return point

    def scaled(config: Config) -> Config:
        budget = round(config.training.token_budget * overlap.get(length, 1.0))
        return config.model_copy(update={"training": config.training.model_copy(update={"token_budget": budget})})

    unset = scaled(point.unset) if point.unset is not None else None
    return replace(point, configs=tuple(map(scaled, point.configs)), unset=unset)


def _beta(request: _Request, _models: Sequence[str]) -> list[Point]:
    return [request.point(f"beta {beta}", request.main, [f"backbone.backward_weight={beta}"], beta) for beta in BETAS]


def _rho(request: _Request, _models: Sequence[str]) -> list[Point]:
    return [request.point(f"rho {rho}", request.main, [f"training.mask_ratio={rho}"], rho) for rho in RHOS]


def _length(request: _Request, _models: Sequence[str]) -> list[Point]:
    return [
        request.point(
            f"last {length}" if length else "whole", request.main, [f"data.max_length={length}"] if length else [], length
        )
        for length in LENGTHS
    ]


@dataclass(frozen=True)
class Study:
    """One table or figure."""

    title: str
    about: str
    plan: Callable[[_Request, Sequence[str]], list[Point]]
    axis: str | None = None  # of its figure
    varies: str | None = None  # the setting that is its own


STUDIES: Mapping[str, Study] = {
    "accuracy": Study("Accuracy", "data sets x models, mean and standard deviation over seeds", _models),
    "efficiency": Study("Efficiency", "seconds an epoch, to the best epoch and of inference; peak memory", _models),
    "ablation": Study("Ablation", "what each part is worth", _ablation, varies="data.max_length"),
    "beta": Study("Backward weight (Figure 3)", "beta from 0 to 1", _beta, "beta", "backbone.backward_weight"),
    "rho": Study("Mask ratio (Figure 4)", "rho from 0 to 0.6", _rho, "rho", "training.mask_ratio"),
    "length": Study("Maximum length (Figure 5)", "10 events to whole histories", _length, "last events read", "data.max_length"),
}
