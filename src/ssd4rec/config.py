"""Settings: frozen, checked when made, read from and written to TOML. An unknown key is an error that names the nearest.

Config(data=DataConfig(...), backbone=BackboneConfig(...), training=TrainingConfig(...), evaluation=...)
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from ssd4rec.errors import ConfigError

Bidirectional = Literal["all", "top", "none"]
Objective = Literal["one-pass", "prefix"]
Seen = Literal["kept", "filtered"]


class Settings(BaseModel):
    """What every group of settings shares: frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class DataConfig(Settings):
    """How a table of interactions becomes histories and examples."""

    user: str | None = None  # column names; None: found by their usual names
    item: str | None = None
    time: str | None = None
    min_interactions: int = Field(5, ge=1)  # k of the iterative k-core, users and items
    split: Literal["leave-last-out", "time"] = "leave-last-out"
    validation_from: str | None = None  # split = "time": ISO date or number; None: when 80 % of the events are over
    test_from: str | None = None  # None: when 90 % of the events are over
    max_length: int | None = Field(None, ge=1)  # only the last events of a history are read; None: all of them


class BackboneConfig(Settings):
    """The SSD4Rec backbone, with the paper's letter beside each size."""

    width: int = Field(64, ge=1)  # D
    state_dim: int = Field(64, ge=1)  # N
    conv_width: int = Field(4, ge=1)  # K
    expand: int = Field(2, ge=1)  # E = expand * D
    head_width: int = Field(16, ge=1)  # P
    layers: int = Field(1, ge=1)
    dropout: float = Field(0.2, ge=0.0, lt=1.0)
    norm_embedding: bool = False
    bidirectional: Bidirectional = "top"  # which layers read both ways; the paper: all
    backward_weight: float = 0.1  # beta
    mirror_back: bool = False  # difference D1: the authors add the backward direction as it comes out

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if (self.expand * self.width) % self.head_width:
            raise ValueError(f"expand * width = {self.expand * self.width} is not a multiple of head_width = {self.head_width}")
        return self

    @property
    def inner_width(self) -> int:
        """E: channels that the scan carries."""
        return self.expand * self.width

    @property
    def heads(self) -> int:
        """H = E / P."""
        return self.inner_width // self.head_width

    @property
    def bidirectional_layers(self) -> tuple[bool, ...]:
        """For each layer, bottom to top, whether it reads both ways."""
        return tuple(
            self.bidirectional == "all" or (self.bidirectional == "top" and layer == self.layers - 1)
            for layer in range(self.layers)
        )

    @property
    def reads_every_prefix(self) -> bool:
        """Whether one pass can give the exact state of every prefix: only the top layer may look backwards."""
        return not any(self.bidirectional_layers[:-1])


class TrainingConfig(Settings):
    """The objective, the optimiser and when to stop."""

    objective: Objective = "one-pass"
    prefixes_per_history: int | None = Field(None, ge=1)  # objective = "prefix": sampled anew each epoch; None: all
    batch_size: int | None = Field(None, ge=1)  # objective = "prefix": examples a batch; None: what token_budget holds
    token_budget: int = Field(8192, ge=1)  # positions a batch
    mask_ratio: float = Field(0.1, ge=0.0, lt=1.0)  # rho
    learning_rate: float = Field(1e-3, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)
    max_epochs: int = Field(300, ge=1)
    patience: int = Field(10, ge=1)  # epochs without a better validation NDCG@10
    seed: int = Field(2024, ge=0)
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"


class EvaluationConfig(Settings):
    """What is reported, and under which protocol."""

    cutoffs: tuple[Annotated[int, Strict()], ...] = Field((10, 20), strict=False)  # TOML knows lists only
    seen: Seen = "kept"
    token_budget: int = Field(32768, ge=1)  # positions read at once; scores are made in blocks of bounded size

    @model_validator(mode="after")
    def _cutoffs_are_ranks(self) -> Self:
        if not self.cutoffs or any(cutoff < 1 for cutoff in self.cutoffs):
            raise ValueError(f"cutoffs must be ranks of 1 or more, e.g. [10, 20], found {list(self.cutoffs)}")
        return self


class Config(Settings):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        if self.training.objective == "one-pass" and not self.backbone.reads_every_prefix:
            raise ValueError(
                f'training.objective = "one-pass" needs layers below the top that read forwards only, found '
                f'backbone.bidirectional = "all" with {self.backbone.layers} layers; '
                f'set backbone.bidirectional = "top" or training.objective = "prefix"'
            )
        return self


def presets() -> list[str]:
    """Names that `load_config` takes instead of a file."""
    folder = resources.files("ssd4rec") / "configs"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read settings from a preset or a TOML file.

    Args:
        name_or_path: a name out of `presets()`, or the path of a TOML file.
        overrides: settings on top, each `group.key=value` with a TOML value, e.g. `training.max_epochs=3`.

    Raises:
        ConfigError: no such preset or file, not TOML, an unknown key, a value out of its range.
    """
    path = Path(name_or_path)
    if str(name_or_path) in presets():
        text = (resources.files("ssd4rec") / "configs" / f"{name_or_path}.toml").read_text(encoding="utf-8")
    elif path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text: {error}; settings are a TOML file") from error
    else:
        raise ConfigError(
            f"no settings named {str(name_or_path)!r}: neither a file nor one of the presets {', '.join(presets())}"
        )
    return parse_config(text, overrides, source=str(name_or_path))


def parse_config(text: str, overrides: Sequence[str] = (), source: str = "settings") -> Config:
    """Read settings from TOML text; see `load_config`."""
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}") from error
    for override in overrides:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_readable(error)}") from error


def dump_config(config: Config) -> str:
    """Write settings as TOML that `parse_config` reads back to an equal value; settings that are None are left out."""
    lines = []
    for group, settings in config.model_dump(mode="json", exclude_none=True).items():
        lines.append(f"[{group}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in settings.items()]
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # TOML's basic strings escape as JSON does, but for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(entry) for entry in value) + "]"
    return repr(value)


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, raw = override.partition("=")
    group, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"cannot read the setting {override!r}: write group.key=value, e.g. training.max_epochs=3")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()  # a bare word is a string: objective=prefix
    entries = values.setdefault(group, {})
    if not isinstance(entries, dict):
        raise ConfigError(f"{group!r} is not a group of settings; groups are {', '.join(Config.model_fields)}")
    if value == "none" and f"{group}.{key}" in _optional_keys():
        entries.pop(key, None)  # TOML has no null
    else:
        entries[key] = value


def _readable(error: ValidationError) -> str:
    return "; ".join(_one_problem(problem["loc"], problem["type"], problem) for problem in error.errors())


def _one_problem(where: tuple[int | str, ...], kind: str, problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in where)
    if kind == "extra_forbidden":
        known = _known_keys() if len(where) > 1 else list(Config.model_fields)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known settings: {', '.join(known)}"
        return f"unknown setting {name!r}; {hint}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{name} = {problem['input']!r}: {message}" if name and kind != "value_error" else message


def _optional_keys() -> set[str]:
    return {name for name, default in _defaults().items() if default is None}


def _known_keys() -> list[str]:
    return list(_defaults())


def _defaults() -> dict[str, object]:
    return {f"{group}.{key}": value for group, settings in Config() for key, value in settings}
