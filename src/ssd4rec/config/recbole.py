"""Read a RecBole configuration (YAML) as settings. An unknown key is an error; a key without effect here is named."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ssd4rec._suggestions import nearest
from ssd4rec.config.recbole_keys import (
    DEFAULT_LENGTH,
    DEFAULT_VALID_METRIC,
    EVALUATION,
    FIELDS,
    FIXED,
    INERT,
    MAMBAS,
    MASKS,
    METRICS,
    MODELS,
    READ,
    REFUSED,
    SSD4RECS,
    TRAINING,
    TRANSFORMS,
)
from ssd4rec.config.settings import Config
from ssd4rec.config.toml import build_config
from ssd4rec.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """A safe loader that reads 1e-3 as a number, as RecBole does; YAML 1.1 requires 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class RecBoleRun:
    """The settings of a RecBole file."""

    config: Config
    dataset: str | None  # its name
    file: Path | None  # where RecBole would read it
    notes: tuple[str, ...]  # warnings: guesses, and keys that have no effect


def read_recbole(path: str | Path, overrides: Sequence[str] = ()) -> RecBoleRun:
    """Read a RecBole configuration as settings; missing keys have RecBole's defaults.

    Args:
        path: a YAML file; without the key `model`, which SSD4Rec's and Mamba4Rec's authors write elsewhere, it is the one of
            the two that its other keys are of.
        overrides: settings on top, each `group.key=value`, as `load_config` takes them.

    Returns:
        The settings, the data set, and notes.

    Raises:
        ConfigError: no such file, not YAML, a key that is unknown, or a value that is not supported.
    """
    values, repeated = _load(Path(path))
    stray = [key for key, value in values.items() if value is None and " " in str(key)]  # "ml-1m setting:", a title
    settings = {str(key): value for key, value in values.items() if key not in stray}
    model, guessed = _which_model(settings, str(path))
    name, sizes = MODELS[model]
    own = _keys_of(model)
    _check_known(settings, own, str(path))
    _check_protocol(settings, model)
    whole = "var_len" in own and _is_on(settings, "var_len")
    length = None if whole else _value(settings, "MAX_ITEM_LIST_LENGTH", DEFAULT_LENGTH)

    backbone: dict[str, Any] = {"name": name} | _translate(settings, sizes)
    if name == "ssd4rec":
        backbone["bidirectional"] = "all"
    if name in {"sasrec", "bert4rec", "gru4rec"} and length is not None:
        backbone["max_length"] = length
    if name == "caser":
        backbone["window"] = length
    training: dict[str, Any] = _translate(settings, TRAINING)
    training |= {"objective": "masked-item" if name == "bert4rec" else "per-prefix", "token_budget": 1_000_000, "softmax": "full"}
    training["mask_ratio"] = _value(settings, *MASKS[model]) if model in MASKS else 0.0
    data: dict[str, Any] = {"min_interactions": _min_interactions(settings), "split": "leave-last-out"}
    data |= {role: settings[key] for role, key in FIELDS.items() if settings.get(key) is not None}
    if length is not None:
        data["max_length"] = length
    topk = _value(settings, "topk", [10])
    evaluation = {"cutoffs": topk if isinstance(topk, list) else [topk], "exclude_seen": False}

    notes = [guessed] if guessed else []
    if inert := [*_inert(settings, own, whole=whole), *stray]:
        notes.append(f"ignored, no effect here: {', '.join(inert)}")
    if fixed := [key for key, value in settings.items() if key in FIXED and value is not None]:
        notes.append(f"fixed here, so metrics may differ: {', '.join(fixed)}")
    training["patience"], slower = _patience(settings, training["patience"])
    notes += slower
    notes += _other_metrics(settings, name)
    if (watched := str(_value(settings, "valid_metric", DEFAULT_VALID_METRIC))).lower() != "ndcg@10":
        whose = "" if settings.get("valid_metric") else " (RecBole's default)"
        notes.append(f"the best epoch is chosen by NDCG@10, not by valid_metric = {watched}{whose}")
    notes += [f"given more than once, the last value is used: {', '.join(repeated)}"] if repeated else []
    groups = {"data": data, "backbone": backbone, "training": training, "evaluation": evaluation}
    dataset = None if settings.get("dataset") is None else str(settings["dataset"])
    folder = Path(str(_value(settings, "data_path", "dataset")))
    file = None if dataset is None else folder / dataset / f"{dataset}.inter"
    try:
        config = build_config(groups, overrides, str(path))
    except ConfigError as error:
        set_here = {override.partition("=")[0].strip() for override in overrides}
        theirs = {ours: key for ours, key in _whence(model).items() if ours not in set_here}
        raise ConfigError(_in_their_words(str(error), theirs)) from error
    return RecBoleRun(config, dataset, file, tuple(notes))


def _load(path: Path) -> tuple[dict[Any, Any], list[str]]:
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        values = {} if node is None else loader.construct_document(node)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; --recbole takes a RecBole YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or what looks like a date and is none
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} contains {values!r}; a RecBole configuration is a table of `key: value`")
    keys = [] if node is None else [key.value for key, _ in node.value]
    return values, sorted({str(key) for key in keys if keys.count(key) > 1})


def _keys_of(*models: str) -> set[str]:
    """Return the keys of these models: sizes, mask ratio, and SSD4Rec's switch for sequences of any length."""
    sizes = {key for model in models for key in MODELS[model][1]}
    return sizes | {MASKS[model][0] for model in models if model in MASKS} | ({"var_len"} if "SSD4Rec" in models else set())


def _which_model(settings: Mapping[str, Any], source: str) -> tuple[str, str | None]:
    """Return the model, and a note if it is a guess."""
    if settings.get("model") is not None:
        return _one_of(settings, "model", "", list(MODELS)), None
    keys = set(settings)
    others = keys & (_keys_of(*MODELS) - _keys_of("SSD4Rec"))
    for model, own in (("SSD4Rec", SSD4RECS), ("Mamba4Rec", MAMBAS)):
        if keys & own and not others:
            matching = ", ".join(sorted(keys & own))
            return model, f"names no model; read as {model}, because it has {matching}; add `model:` if it is another one"
    raise ConfigError(f"{source} names no model, and its keys do not identify one; add `model:` with one of {', '.join(MODELS)}")


def _check_known(settings: Mapping[str, Any], own: set[str], source: str) -> None:
    all_keys = READ | INERT | FIXED | REFUSED | set(TRAINING) | _keys_of(*MODELS)
    for key in settings:
        if key not in all_keys:
            near = nearest(key, sorted(all_keys))
            hint = f"did you mean {near!r}?" if near else f"this model's own are {', '.join(sorted(own))}"
            raise ConfigError(f"{source}: unknown RecBole key {key!r}; {hint}")


def _inert(settings: Mapping[str, Any], own: set[str], *, whole: bool) -> list[str]:
    """Return the keys that have no effect here, on training or on metrics; null is ignored."""
    inert = [key for key, value in settings.items() if key in INERT | _keys_of(*MODELS) - own and value is not None]
    inert += ["MAX_ITEM_LIST_LENGTH (var_len is on)"] if whole and settings.get("MAX_ITEM_LIST_LENGTH") is not None else []
    inert += [f"load_col {table} (only the .inter is read)" for table in _value(settings, "load_col", {}) if table != "inter"]
    metrics = _value(settings, "metrics", [])
    names = [str(each) for each in (metrics if isinstance(metrics, list) else [metrics])]
    return inert + [f"metrics {each}" for each in names if each.lower() not in METRICS]


def _patience(values: Mapping[str, Any], stopping_step: Any) -> tuple[Any, list[str]]:
    """Return the patience in epochs, and notes.

    RecBole stops when more than `stopping_step` validations in a row bring no better metric, so patience is one more. It
    validates every `eval_step` epochs.
    """
    step = _value(values, "eval_step", 1)
    if not isinstance(stopping_step, int) or isinstance(stopping_step, bool) or stopping_step < 0:
        return stopping_step, []  # refused by the settings
    patience = stopping_step + 1
    if step == 1:
        return patience, []
    note = f"validation is after every epoch here, and eval_step is {step}"
    if isinstance(step, int) and step > 1:
        return step * patience, [f"{note}, so patience is {step * patience} epochs: metrics may differ"]
    return patience, [f"{note}; it decides when to stop and which epoch is best, so metrics may differ"]


def _other_metrics(settings: Mapping[str, Any], name: str) -> list[str]:
    """Return notes on differences from RecBole that no key can change."""
    notes = []
    if (places := settings.get("metric_decimal_place")) is not None:
        notes.append(
            f"validation metrics are not rounded here, and the first of equal epochs wins; RecBole compares them rounded to "
            f"{places} decimals (metric_decimal_place), and the last of equal epochs wins"
        )
    if name == "sasrec":
        notes.append(
            "SASRec here normalizes in front of each layer, scales the embeddings and ends with a LayerNorm; RecBole's "
            "normalizes the input and behind each layer: another network, whose metrics may differ"
        )
    return notes


def _value(settings: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return a value of the file, or the default if it is missing or null."""
    return default if settings.get(key) is None else settings[key]


def _translate(settings: Mapping[str, Any], table: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    return {ours: _value(settings, key, default) for key, (ours, default) in table.items()}


def _whence(model: str) -> dict[str, str]:
    """Return the RecBole key of each of our settings."""
    length = dict.fromkeys(("data.max_length", "backbone.max_length", "backbone.window"), "MAX_ITEM_LIST_LENGTH")
    sizes = {f"backbone.{ours}": key for key, (ours, _) in MODELS[model][1].items()}
    training = {f"training.{ours}": key for key, (ours, _) in TRAINING.items()}
    mask = {"training.mask_ratio": MASKS[model][0]} if model in MASKS else {}
    return (
        length | sizes | training | mask | {f"data.{role}": key for role, key in FIELDS.items()} | {"evaluation.cutoffs": "topk"}
    )


def _in_their_words(message: str, theirs: Mapping[str, str]) -> str:
    """Name RecBole's keys in a message: `backbone.width = 6 …` -> `hidden_size (backbone.width) = 6 …`."""
    for ours, key in theirs.items():
        group, _, name = ours.partition(".")
        message = re.sub(rf"(?<![\w.(])(?:{group}\.)?{name}(?= = | must be |\.\d)", f"{key} ({ours})", message)
    return message


def _one_of(settings: Mapping[str, Any], key: str, default: str, allowed: list[str]) -> str:
    value = str(_value(settings, key, default))
    for each in allowed:
        if value.lower() == each.lower():
            return each
    raise ConfigError(f"{key}: {value} is not supported here; supported: {', '.join(allowed)}")


def _is_on(settings: Mapping[str, Any], key: str) -> bool:
    """Return a switch, which RecBole's files may write as text; False if it is missing."""
    value = str(settings.get(key)).lower()
    if value not in {"true", "false", "none"}:
        raise ConfigError(f"{key}: {settings[key]!r} is neither True nor False; write one of them")
    return value == "true"


def _check_protocol(settings: Mapping[str, Any], model: str) -> None:
    """Refuse settings with which the metrics would differ."""
    _one_of(settings, "loss_type", "CE", ["CE"])
    _one_of(settings, "learner", "adam", ["adam"])
    for key in ("train_neg_sample_args", "neg_sampling"):
        sampled = settings.get(key)
        if sampled and not (isinstance(sampled, dict) and str(sampled.get("distribution")).lower() == "none"):
            raise ConfigError(f"{key}: {sampled} is not supported: the loss is a softmax over the catalog; write `{key}: ~`")
    for key in sorted(REFUSED):
        if settings.get(key) is not None:
            raise ConfigError(f"{key}: {settings[key]} is not supported here and would change the metrics; write `{key}: ~`")
    if settings.get("transform") not in (None, TRANSFORMS.get(model)):
        raise ConfigError(f"transform: {settings['transform']} is not supported for {model}; write `transform: ~`")
    _check_evaluation(_value(settings, "eval_args", EVALUATION))
    _check_columns(settings)


def _check_evaluation(arguments: Any) -> None:
    supported = f"supported is {EVALUATION}: leave-last-out, the whole catalog ranked"
    if not isinstance(arguments, dict):
        raise ConfigError(f"eval_args: {arguments!r} is not a table; {supported}")
    for key, value in arguments.items():
        accepted = [EVALUATION.get(key), None] + ([{"valid": "full", "test": "full"}] if key == "mode" else [])
        if key not in EVALUATION or value not in accepted:
            raise ConfigError(f"eval_args: {key} {value!r} is not supported; {supported}")
    if left_out := [key for key in ("split", "order") if key not in arguments]:
        raise ConfigError(f"eval_args: {' and '.join(left_out)} is missing, for which RecBole's default is random; {supported}")


def _check_columns(settings: Mapping[str, Any]) -> None:
    loaded = settings.get("load_col")
    if loaded is None:
        return
    if not isinstance(loaded, dict) or not isinstance(loaded.get("inter"), list):
        raise ConfigError(f"load_col: {loaded!r} has no list `inter`; write {{inter: [user_id, item_id, timestamp]}}")
    for key, default in (("USER_ID_FIELD", "user_id"), ("ITEM_ID_FIELD", "item_id"), ("TIME_FIELD", "timestamp")):
        if (name := _value(settings, key, default)) not in loaded["inter"]:
            raise ConfigError(f"load_col: inter has {loaded['inter']}, without {name!r} ({key}); user, item and time are needed")


def _min_interactions(settings: Mapping[str, Any]) -> int:
    user, item = (_lowest(settings, f"{role}_inter_num_interval") for role in ("user", "item"))
    if user != item:
        raise ConfigError(
            f"user_inter_num_interval begins at {user}, item_inter_num_interval at {item}; here both are one k-core"
        )
    return user


def _lowest(settings: Mapping[str, Any], key: str) -> int:
    if (value := settings.get(key)) is None:
        return 1
    match = re.fullmatch(r"\s*([\[(])\s*(\d+)\s*,\s*inf\s*[\])]\s*", str(value))
    if match is None:
        raise ConfigError(f'{key}: {value!r} is not supported; write "[5,inf)": at least 5, without an upper end')
    return max(int(match[2]) + (match[1] == "("), 1)
