"""Read, override and write settings as TOML, with errors that say what to do."""

import copy
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ssd4rec._suggestions import nearest
from ssd4rec.config.backbones import Settings
from ssd4rec.config.settings import READ_WITH, Config, DataConfig, is_read, value_of
from ssd4rec.errors import ConfigError
from ssd4rec.models.registry import BACKBONES, DEFAULT_MODEL, MODELS

MAX_SHOWN = 200  # characters of a wrong value in a message
MAX_PROBLEMS, MAX_MESSAGE = 5, 1500  # in one message
MOMENTS = ("data.validation_from", "data.test_from")


def presets() -> list[str]:
    """Return the names of the presets."""
    folder = resources.files("ssd4rec") / "configs"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read settings from a preset or a TOML file.

    If an override selects another backbone than that of a preset (`backbone.name=sasrec`), the preset's settings of its own
    backbone are dropped. In a file, a setting that does not fit the backbone is an error.

    Args:
        name_or_path: a name out of `presets()`, or the path of a TOML file.
        overrides: changes to settings, each `group.key=value` with a TOML value, e.g. `training.max_epochs=3`.

    Raises:
        ConfigError: no such preset or file, not TOML, an unknown key, a value out of its range, an override without effect, or a
            value of a file without effect that is not the default.
    """
    text, preset = _read(name_or_path)
    config = parse_config(text, overrides, source=str(name_or_path), preset=preset)
    changed = {override.partition("=")[0].strip() for override in overrides}
    for name, (other, _) in READ_WITH.items():
        # Moments belong to the protocol: nothing may seem to split by time. Otherwise --set may disable settings of a file.
        if name in MOMENTS or not (preset or other in changed):
            _check_read(config, name, str(name_or_path))
    return config


def load_data_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> DataConfig:
    """Read the group `data` alone, as `load_config` does: the settings of models are next to them, and import PyTorch.

    Raises:
        ConfigError: see `load_config`; an override of another group.
    """
    values = _parse(_read(name_or_path)[0], str(name_or_path))
    written = {_override(values, override) for override in overrides}
    if other := sorted(f"{group}.{key}" for group, key in written if group != "data"):
        raise ConfigError(f"--set: {', '.join(other)} has no effect here; only settings of the group data have, leave it out")
    try:
        return _DataOnly.model_validate({"data": values.get("data", {})}).data
    except ValidationError as error:
        raise ConfigError(f"{'--set' if written else name_or_path}: {_readable(error, DEFAULT_MODEL)}") from error


class _DataOnly(Settings):
    """Puts `data` in front of the names in messages."""

    data: DataConfig


def _read(name_or_path: str | Path) -> tuple[str, bool]:
    """Return the text of a preset or file, and whether it is a preset."""
    if str(name_or_path) in presets():
        preset = resources.files("ssd4rec") / "configs" / f"{name_or_path}.toml"
        return preset.read_text(encoding="utf-8"), True
    path = Path(name_or_path)
    try:
        return path.read_text(encoding="utf-8"), False
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}; settings are a TOML file") from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError) as error:  # ValueError: no file has such a name
        raise ConfigError(
            f"no settings named {str(path)!r}: neither a file nor one of the presets {', '.join(presets())}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}; give another file, or a preset") from error


def parse_config(text: str, overrides: Sequence[str] = (), source: str = "settings", *, preset: bool = False) -> Config:
    """Read settings from TOML text; see `load_config`.

    A missing objective is the first of those that can train the backbone.
    """
    return build_config(_parse(text, source), overrides, source, preset=preset)


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of integers with thousands of digits, and of deep nesting
        raise ConfigError(f"{source} is not valid TOML: {str(error)[:MAX_SHOWN]}") from error


def build_config(
    values: dict[str, Any], overrides: Sequence[str] = (), source: str = "settings", *, preset: bool = False
) -> Config:
    """Build settings from groups of them, e.g. {"training": {"max_epochs": 3}}; see `load_config`."""
    inherited = copy.deepcopy(values) if preset else {}
    values = copy.deepcopy(values)
    written = {_override(values, override) for override in overrides}
    _fit_to_backbone(values, {(group, key) for group, keys in inherited.items() for key in keys} - written)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        overridden = all(problem["loc"][:2] in written or _is_name(problem, written) for problem in error.errors())
        raise ConfigError(f"{'--set' if overridden else source}: {_readable(error, _backbone_name(values))}") from error
    for group, key in sorted(written):
        if key in values.get(group, {}):
            _check_read(config, f"{group}.{key}", "--set", default=False)
    return config


def _check_read(config: Config, name: str, source: str, *, default: bool = True) -> None:
    """Refuse a setting without effect; with `default`, a default value and one that is chosen automatically are accepted."""
    group, _, key = name.partition(".")
    fields = type(getattr(config, group)).model_fields
    if key not in fields or (default and value_of(config, name) in (fields[key].default, "auto", "tuned")):
        return
    if not is_read(config, name):
        other, values = READ_WITH[name]
        raise ConfigError(
            f"{source}: {name} has no effect with {other} = {value_of(config, other)!r}; leave it out, or set {other}={values[0]}"
        )


def dump_config(config: Config) -> str:
    """Return settings as TOML that `parse_config` reads back to an equal value; settings that are None are omitted."""
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


def _override(values: dict[str, Any], override: str) -> tuple[str, str]:
    """Apply an override to `values`; return the group and key."""
    name, equals, raw = override.partition("=")
    group, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"cannot read the setting {_shown(override)}: write group.key=value, e.g. training.max_epochs=3")
    value = parse_value(raw, override)
    entries = values.setdefault(group, {})
    if not isinstance(entries, dict):
        raise ConfigError(f"{group!r} is not a group of settings; groups are {', '.join(Config.model_fields)}")
    if value == "none" and f"{group}.{key}" in _optional_keys():
        entries.pop(key, None)  # TOML has no null
    else:
        entries[key] = value
    return group, key


def parse_value(raw: str, override: str) -> object:
    """Parse the TOML value of an override; a bare word is a string: objective=per-prefix.

    Raises:
        ConfigError: it has several lines, or is nested too deeply; the message shows the override.
    """
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except RecursionError as error:
        raise ConfigError(f"cannot read the setting {_shown(override)}: it is nested too deeply") from error
    except ValueError:
        return raw.strip()
    if len(parsed) > 1:
        raise ConfigError(f"cannot read the setting {_shown(override)}: it has more than one line; use one --set for each")
    return parsed["value"]


def _fit_to_backbone(values: dict[str, Any], inherited: set[tuple[str, str]]) -> None:
    """Drop settings of a preset that do not fit the backbone; choose the objective if it is missing."""
    backbone, training = values.get("backbone", {}), values.setdefault("training", {})
    if not isinstance(backbone, dict) or not isinstance(training, dict):
        return
    name = _backbone_name(values)
    if name not in BACKBONES:
        return
    kind = BACKBONES[name]
    for key in [key for key in backbone if ("backbone", key) in inherited and key not in kind.model_fields]:
        del backbone[key]
    own = "objective" in training and ("training", "objective") not in inherited
    if not own and training.get("objective") not in kind.objectives:
        training["objective"] = kind.objectives[0]


def _backbone_name(values: Mapping[str, Any]) -> str:
    backbone = values.get("backbone", {})
    return str(backbone.get("name", DEFAULT_MODEL)) if isinstance(backbone, dict) else DEFAULT_MODEL


def _is_name(problem: Mapping[str, Any], written: set[tuple[str, str]]) -> bool:
    """Return whether an override names an unknown backbone, which is reported for the whole group."""
    return problem["type"] == "unknown_backbone" and ("backbone", "name") in written


def _readable(error: ValidationError, backbone: str) -> str:
    problems = error.errors()
    shown = [_one_problem(problem, backbone) for problem in problems[:MAX_PROBLEMS]]
    return "; ".join(shown)[:MAX_MESSAGE] + (f"; and {len(problems) - len(shown)} more" if len(problems) > len(shown) else "")


def _one_problem(problem: Mapping[str, Any], backbone: str) -> str:
    known_backbone = backbone if backbone in BACKBONES else DEFAULT_MODEL
    name, kind = _shorten(".".join(str(part) for part in problem["loc"])), problem["type"]
    if kind == "extra_forbidden":
        choices = list(Config.model_fields) if len(problem["loc"]) == 1 else _known_keys(known_backbone)
        return _unknown(name, known_backbone, choices)
    if kind == "unknown_backbone":
        return f"unknown backbone {_shown(backbone)}; {_nearest(backbone, list(MODELS), 'backbones')}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind in {"model_type", "model_attributes_type"}:
        message = f"Input should be a table [{name}] with a setting a line"
    if kind == "tuple_type":
        message = "Input should be a list of numbers such as [10, 20]"
    return f"{name} = {_shown(problem['input'])}: {message}" if name and kind != "value_error" else message


def _unknown(name: str, backbone: str, known: list[str]) -> str:
    own, key = [each for each in _known_keys(backbone) if each.startswith("backbone.")], name.rpartition(".")[2]
    others = [each for each in BACKBONES if key in BACKBONES[each].model_fields]
    if not others or f"backbone.{key}" in own:
        return f"unknown setting {name!r}; {_nearest(name, known, 'settings')}"
    same = next((each for each in known if each.endswith(f".{key}")), None)
    instead = f"; did you mean {same!r}?" if same else f", whose settings are {', '.join(own)}"
    return f"backbone.{key} is a setting of {', '.join(others)}, not of {backbone}{instead}"


def _shown(value: object) -> str:
    """Return the representation of a wrong value, shortened."""
    return _shorten(repr(value))


def _shorten(text: str) -> str:
    """Cut long text in a message."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _nearest(name: str, known: list[str], what: str) -> str:
    # by the last part, whose group may be the wrong one; of equal ones that in the same group
    group, _, key = name.rpartition(".")
    last = {each.rpartition(".")[2]: each for each in sorted(known, key=lambda each: each.startswith(f"{group}."))}
    near = nearest(key, last)
    return f"did you mean {last[near]!r}?" if near else f"known {what}: {', '.join(known)}"


def _optional_keys() -> set[str]:
    return {f"{group}.{key}" for group, settings in Config() for key, value in settings if value is None}


def _known_keys(backbone: str) -> list[str]:
    groups = {**{group: type(settings) for group, settings in Config()}, "backbone": BACKBONES[backbone]}
    return [f"{group}.{key}" for group, settings in groups.items() for key in settings.model_fields]
