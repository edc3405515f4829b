"""The search space: settings with intervals or choices, parsed from `training.learning_rate=1e-4:1e-2:log`."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ssd4rec.config import TEACHING, Config, build_config, is_read, value_of
from ssd4rec.config.toml import parse_value
from ssd4rec.errors import ConfigError

Value = bool | int | float | str
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = Mapping[str, Distribution]  # by setting, e.g. "training.learning_rate"

# The ranges include the paper's values (dropout 0.2 to 0.4, mask ratio 0.1 to 0.2, backward weight 0.1) and those that were
# good at small widths: learning rates of 2e-3 and 3e-3, smaller batches, a cosine schedule.
DEFAULT_SPACE = (
    "training.learning_rate=3e-4:1e-2:log",
    "training.mask_ratio=0.0:0.4",
    "training.weight_decay=1e-8:1e-3:log",
    "training.token_budget=512|1024|2048|4096|8192|16384",
    "training.schedule=constant|cosine",
    "training.label_smoothing=0.0|0.1",
    "training.ema_decay=0.0|0.99|0.999",
    "backbone.dropout=0.0:0.6",
    "backbone.layers=1:2",
    "backbone.norm_embedding=true|false",
    "backbone.backward_weight=0.0:1.0",
    "backbone.input_dropout=0.0:0.6",
    "backbone.input_fade=0.0|0.7",
    "backbone.input_skip=true|false",
    "backbone.fade_skip_only=true|false",
    "backbone.norm_first=true|false",
    "backbone.repeat_logits=none|bias|recency|transitions|popularity",
)
HOW = "write GROUP.KEY=LOW:HIGH, GROUP.KEY=LOW:HIGH:log or GROUP.KEY=A|B|C"


def describe_space(space: Space) -> list[str]:
    """Return each searched setting as the text of an option --search."""
    return [
        f"{name}={'|'.join(map(str, values.choices))}"
        if isinstance(values, CategoricalDistribution)
        else f"{name}={values.low}:{values.high}{':log' if values.log else ''}"
        for name, values in space.items()
    ]


def with_values(config: Config, values: Mapping[str, Value], source: str | None = None) -> Config:
    """Return the settings with some of them changed, e.g. {"training.learning_rate": 1e-3}.

    An error message begins with `source`, or with the values.

    Raises:
        ConfigError: an unknown setting, or one out of its range.
    """
    groups = config.model_dump(mode="json", exclude_none=True)
    for name, value in values.items():
        group, _, key = name.partition(".")
        groups.setdefault(group, {})[key] = value
    shown = ", ".join(f"{name}={value}" for name, value in values.items())
    return build_config(groups, source=source or f"with {shown}")


def make_space(config: Config, search: Sequence[str] = (), fixed: Sequence[str] = ()) -> Space:
    """Return the settings of a search around some settings, each with its interval or choices.

    Args:
        config: the settings of every trial that the search does not choose.
        search: added to `DEFAULT_SPACE`, or replacing those of the same name.
        fixed: settings that are not searched, each `group.key`.

    Returns:
        The space, without default settings that have no effect for this backbone or objective.

    Raises:
        ConfigError: an interval that cannot be parsed, or a bound or choice that is not a valid setting.
    """
    requested = dict(_read(each, config) for each in search)
    for name in fixed:
        if name in requested:
            raise ConfigError(f"{name} is both searched and fixed; leave out one of the two")
        if not _exists(name, config):
            raise ConfigError(f"--fix {name}: {config.backbone.name} has no such setting; write GROUP.KEY, e.g. backbone.dropout")
    # a searched setting such as backbone.bidirectional may enable another one
    changed = [with_values(config, {name: value}) for name, values in requested.items() for value in _extremes(values)]
    possible = [config, *changed]
    teaching = {f"training.{name}" for name in TEACHING}
    if teaching & requested.keys() or any(each.training.needs_teachers for each in possible):
        raise ConfigError(
            f"trials train one model each, without teachers; leave out {', '.join(sorted(teaching))}, and train "
            f"with teachers afterwards: ssd4rec train DATA --config BEST --set training.teachers=2"
        )
    for name in requested:
        if not any(is_read(each, name) for each in possible):
            raise ConfigError(f"--search {name}: it has no effect with these settings; leave it out, or change the other setting")
    usual = dict(_read(each, config) for each in DEFAULT_SPACE if _fits(each, possible))
    space = {name: values for name, values in usual.items() if name not in fixed and _possible(name, values, config)} | requested
    if not space:
        raise ConfigError("every setting is fixed, so there is nothing to search; leave out a --fix or a --set")
    return space


def choices(config: Config, candidates: Mapping[str, Sequence[Value]]) -> Space:
    """Return a space of choices: the value that each setting has, then its candidates; without settings that are not read."""
    space = {}
    for name, values in candidates.items():
        if _exists(name, config) and is_read(config, name):
            own: Any = value_of(config, name)
            space[name] = CategoricalDistribution(tuple(dict.fromkeys((own, *values))))
    return space


def own_values(config: Config, space: Space) -> dict[str, Value]:
    """Return the values of the searched settings in `config`: of an interval the nearest number, of choices only one of them."""
    own: dict[str, Any] = {name: value_of(config, name) for name in space if _exists(name, config)}
    nearest: dict[str, Value] = {}
    for name, value in own.items():
        values = space[name]
        if isinstance(values, CategoricalDistribution):
            if value in values.choices:
                nearest[name] = value
        elif isinstance(value, int | float):
            nearest[name] = min(max(value, values.low), values.high)
    return nearest


def _read(text: str, config: Config) -> tuple[str, Distribution]:
    name, equals, ends = text.partition("=")
    name = name.strip()
    if not (equals and ends):
        raise ConfigError(f"cannot read --search {text!r}; {HOW}")
    if name in {"backbone.name", "training.seed"} or name.startswith(("data.", "evaluation.")):
        raise ConfigError(f"--search {name}: trials would not be comparable; search settings of the backbone or of the training")
    if name.startswith("features.") and name != "features.id_dropout":
        raise ConfigError(f"--search {name}: features are read once, before the trials; set it with --set")
    if name.startswith("fusion."):
        raise ConfigError(
            f"--search {name}: it is tuned after training and cannot change the metric of a trial; write --set {name}=tuned"
        )
    if not _exists(name, config):
        with_values(config, {name: 0})  # names the nearest setting
        raise ConfigError(f"--search {name}: no such setting; {HOW}")
    if "|" in ends:
        choices = tuple(_value(choice) for choice in ends.split("|"))
        if len(set(map(repr, choices))) < len(choices):
            raise ConfigError(f"--search {text!r} names a choice twice")
        return name, CategoricalDistribution(choices)
    low_text, *rest = ends.split(":")
    if len(rest) not in {1, 2} or rest[1:] not in ([], ["log"]):
        raise ConfigError(f"cannot read --search {text!r}; {HOW}")
    low, high = _value(low_text), _value(rest[0])
    if isinstance(low, bool | str) or isinstance(high, bool | str):
        raise ConfigError(f"cannot read --search {text!r}: its bounds are not numbers; {HOW}")
    log = rest[1:] == ["log"]
    if low >= high or (log and low <= 0):
        raise ConfigError(f"--search {text!r}: the lower bound must be below the upper one{' and above 0' if log else ''}")
    if isinstance(low, int) and isinstance(high, int) and not isinstance(value_of(config, name), float):
        return name, IntDistribution(low, high, log)
    return name, FloatDistribution(float(low), float(high), log)


def _value(text: str) -> Value:
    value = parse_value(text, text)
    if not isinstance(value, bool | int | float | str):
        raise ConfigError(f"{text!r} is not a single value; {HOW}")
    return value


def _exists(name: str, config: Config) -> bool:
    group, _, key = name.partition(".")
    return key in config.model_dump().get(group, {})


def _extremes(values: Distribution) -> Sequence[Any]:
    """Return all choices, or both bounds."""
    return values.choices if isinstance(values, CategoricalDistribution) else (values.low, values.high)


def _fits(text: str, possible: Sequence[Config]) -> bool:
    name, training = text.partition("=")[0], possible[0].training
    # it is only an upper bound then: nothing to search for
    bound = name == "training.token_budget" and training.objective == "per-prefix" and training.batch_size is not None
    return not bound and any(is_read(each, name) for each in possible)


def _possible(name: str, values: Distribution, config: Config) -> bool:
    try:
        for value in _extremes(values):
            with_values(config, {name: value})
    except ConfigError:
        return False
    return True
