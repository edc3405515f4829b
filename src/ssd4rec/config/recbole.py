"""Read a RecBole configuration (YAML) as settings. An unknown key is an error; a key without effect here is named."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ssd4rec._suggestions import nearest
from ssd4rec.config.settings import Config
from ssd4rec.config.toml import build_config
from ssd4rec.errors import ConfigError

# The keys of RecBole 1.2.1: {key: (our setting, RecBole's default)}; null stands for the default. SSD4Rec, Mamba4Rec and SIGMA
# are not part of RecBole: their keys and defaults are those of the authors' own configuration files, except where SSD4Rec has a
# file for each data set.
Keys = dict[str, tuple[str, Any]]
MAMBA: Keys = {
    "hidden_size": ("backbone.width", 64),
    "num_layers": ("backbone.layers", 1),
    "dropout_prob": ("backbone.dropout", 0.2),
    "d_state": ("backbone.state_dim", 32),
    "d_conv": ("backbone.conv_width", 4),
    "expand": ("backbone.expand", 2),
    "headdim": ("backbone.head_width", 16),  # only SSD4Rec has it: the Mamba layers of the other two have no heads
}
SSD4REC: Keys = {
    **MAMBA,
    "hidden_size": ("backbone.width", 256),
    "d_state": ("backbone.state_dim", 64),
    "norm_embedding": ("backbone.norm_embedding", False),
    "beta": ("backbone.backward_weight", 0.1),
    "maskratio": ("training.mask_ratio", 0.1),
}
SASREC: Keys = {
    "hidden_size": ("backbone.width", 64),
    "n_layers": ("backbone.layers", 2),
    "n_heads": ("backbone.heads", 2),
    "hidden_dropout_prob": ("backbone.dropout", 0.5),
}
GRU4REC: Keys = {
    "embedding_size": ("backbone.width", 64),
    "hidden_size": ("backbone.hidden", 128),
    "num_layers": ("backbone.layers", 1),
    "dropout_prob": ("backbone.dropout", 0.3),
}
BERT4REC: Keys = {
    **SASREC,
    "hidden_dropout_prob": ("backbone.dropout", 0.2),
    "mask_ratio": ("training.mask_ratio", 0.2),
}
CASER: Keys = {
    "embedding_size": ("backbone.width", 64),
    "nh": ("backbone.horizontal", 8),
    "nv": ("backbone.vertical", 4),
    "dropout_prob": ("backbone.dropout", 0.4),
}
MODELS: dict[str, tuple[str, Keys]] = {
    "SSD4Rec": ("ssd4rec", SSD4REC),
    "Mamba4Rec": ("mamba4rec", MAMBA),
    "SIGMA": ("sigma", MAMBA),
    "SASRec": ("sasrec", SASREC),
    "BERT4Rec": ("bert4rec", BERT4REC),
    "GRU4Rec": ("gru4rec", GRU4REC),
    "Caser": ("caser", CASER),
}
# A file without `model:` is for SSD4Rec if it has one of SSD4RECS, else for Mamba4Rec if it has one of MAMBAS.
MAMBAS, SSD4RECS = {"d_state", "d_conv", "expand"}, {"beta", "maskratio", "headdim", "norm_embedding", "var_len"}

COMMON: Keys = {  # of all models
    "USER_ID_FIELD": ("data.user", None),
    "ITEM_ID_FIELD": ("data.item", None),
    "TIME_FIELD": ("data.time", None),
    "train_batch_size": ("training.batch_size", 2048),
    "epochs": ("training.max_epochs", 300),
    "stopping_step": ("training.patience", 10),
    "learning_rate": ("training.learning_rate", 1e-3),
    "weight_decay": ("training.weight_decay", 0.0),
    "seed": ("training.seed", 2020),
    "topk": ("evaluation.cutoffs", [10]),
}
TRANSFORMS = {"BERT4Rec": "mask_itemseq"}  # turns on the mask that the model has anyway
DEFAULT_LENGTH = 50
DEFAULT_VALID_METRIC = "MRR@10"
EVALUATION = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
METRICS = {"hit", "ndcg", "mrr", "recall"}  # recall is the hit rate where one item is held out

READ = {
    *("model", "dataset", "data_path", "load_col", "MAX_ITEM_LIST_LENGTH", "user_inter_num_interval", "item_inter_num_interval"),
    *("eval_args", "metrics", "valid_metric", "eval_step", "loss_type", "learner", "train_neg_sample_args", "neg_sampling"),
    *("transform", "metric_decimal_place"),
}
# Keys without a counterpart here that change the data or the training: an error whatever their value.
REFUSED = {"benchmark_filename", "clip_grad_norm", "rm_dup_inter", "threshold", "val_interval"}
# Parts of the design that are fixed here; the docstring of the backbone gives the value of each.
FIXED = {"inner_size", "hidden_act", "layer_norm_eps", "initializer_range", "attn_dropout_prob", "ft_ratio", "reg_weight"}
INERT = {  # no effect on data, training or metrics: ignored
    # how RecBole runs, and what it prints and saves
    *("gpu_id", "use_gpu", "device", "worker", "state", "show_progress", "reproducibility", "config_files", "encoding"),
    *("log_wandb", "wandb_project", "tensorboard", "checkpoint_dir", "save_dataset", "dataset_save_path"),
    *("save_dataloaders", "dataloaders_save_path", "enable_amp", "enable_scaler", "shuffle", "MODEL_TYPE"),
    *("loss_decimal_place", "valid_metric_bigger", "eval_batch_size", "eval_type"),
    # seen items stay among the candidates, as always in RecBole's sequential evaluation
    "repeatable",
    # the form of files, and the names of columns that RecBole derives
    *("field_separator", "seq_separator", "seq_len", "RATING_FIELD", "LABEL_FIELD", "NEG_PREFIX"),
    *("ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "POSITION_FIELD"),
    # columns and files that these models do not read; normalizing times keeps their order
    *("unload_col", "unused_col", "additional_feat_suffix", "filter_inter_by_user_or_item", "numerical_features"),
    *("alias_of_user_id", "alias_of_item_id", "preload_weight", "normalize_field", "normalize_all", "discretization"),
    # knowledge graphs, and losses of other kinds of models
    *("HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "ENTITY_ID_FIELD", "kg_reverse_r"),
    *("entity_kg_num_interval", "relation_kg_num_interval", "alias_of_entity_id", "alias_of_relation_id", "require_pow"),
}


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
    keys = [str(key) for key in values if key not in stray]
    settings = {str(key): value for key, value in values.items() if value is not None}  # null stands for RecBole's default
    model, notes = _which_model(settings, set(keys), str(path))
    name, sizes = MODELS[model]
    own = _keys_of(model)
    _check_known(keys, own, str(path))
    _check_protocol(settings, model)
    whole = "var_len" in own and _is_on(settings, "var_len")
    length = None if whole else settings.get("MAX_ITEM_LIST_LENGTH", DEFAULT_LENGTH)

    groups: dict[str, dict[str, Any]] = {
        "data": {"min_interactions": _min_interactions(settings), "split": "leave-last-out", "max_length": length},
        "backbone": {"name": name},
        "training": {
            "objective": "masked-item" if name == "bert4rec" else "per-prefix",
            "token_budget": 1_000_000,
            "softmax": "full",
            "mask_ratio": 0.0,
        },
        "evaluation": {"exclude_seen": False},
    }
    translated = sizes | COMMON
    for key, (ours, default) in translated.items():
        group, _, setting = ours.partition(".")
        groups[group][setting] = settings.get(key, default)
    if name == "ssd4rec":
        groups["backbone"]["bidirectional"] = "all"
    if name in {"sasrec", "bert4rec", "gru4rec"} and length is not None:
        groups["backbone"]["max_length"] = length
    if name == "caser":
        groups["backbone"]["window"] = length
    if not isinstance(cutoffs := groups["evaluation"]["cutoffs"], list):
        groups["evaluation"]["cutoffs"] = [cutoffs]

    if inert := [*_inert(settings, own, whole=whole), *stray]:
        notes.append(f"ignored, no effect here: {', '.join(inert)}")
    if fixed := [key for key in settings if key in FIXED]:
        notes.append(f"fixed here, so metrics may differ: {', '.join(fixed)}")
    groups["training"]["patience"], slower = _patience(settings, groups["training"]["patience"])
    notes += slower
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
    if (watched := str(settings.get("valid_metric", DEFAULT_VALID_METRIC))).lower() != "ndcg@10":
        whose = "" if settings.get("valid_metric") else " (RecBole's default)"
        notes.append(f"the best epoch is chosen by NDCG@10, not by valid_metric = {watched}{whose}")
    if repeated:
        notes.append(f"given more than once, the last value is used: {', '.join(repeated)}")
    dataset = str(settings["dataset"]) if "dataset" in settings else None
    folder = Path(str(settings.get("data_path", "dataset")))
    file = None if dataset is None else folder / dataset / f"{dataset}.inter"
    try:
        config = build_config(groups, overrides, str(path))
    except ConfigError as error:
        set_here = {override.partition("=")[0].strip() for override in overrides}
        theirs = dict.fromkeys(("data.max_length", "backbone.max_length", "backbone.window"), "MAX_ITEM_LIST_LENGTH")
        theirs |= {ours: key for key, (ours, _) in translated.items()}
        message = _in_their_words(str(error), {ours: key for ours, key in theirs.items() if ours not in set_here})
        raise ConfigError(message) from error
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
    """Return the keys of these models: their settings, and SSD4Rec's switch for sequences of any length."""
    return {key for model in models for key in MODELS[model][1]} | ({"var_len"} if "SSD4Rec" in models else set())


def _which_model(settings: Mapping[str, Any], keys: set[str], source: str) -> tuple[str, list[str]]:
    """Return the model, and a note if it is a guess from the keys, those that are null too."""
    if "model" in settings:
        return _one_of(settings, "model", "", list(MODELS)), []
    others = keys & (_keys_of(*MODELS) - _keys_of("SSD4Rec"))
    for model, own in (("SSD4Rec", SSD4RECS), ("Mamba4Rec", MAMBAS)):
        if keys & own and not others:
            matching = ", ".join(sorted(keys & own))
            return model, [f"names no model; read as {model}, because it has {matching}; add `model:` if it is another one"]
    raise ConfigError(f"{source} names no model, and its keys do not identify one; add `model:` with one of {', '.join(MODELS)}")


def _check_known(keys: Iterable[str], own: set[str], source: str) -> None:
    all_keys = READ | INERT | FIXED | REFUSED | set(COMMON) | _keys_of(*MODELS)
    for key in keys:
        if key not in all_keys:
            near = nearest(key, sorted(all_keys))
            hint = f"did you mean {near!r}?" if near else f"this model's own are {', '.join(sorted(own))}"
            raise ConfigError(f"{source}: unknown RecBole key {key!r}; {hint}")


def _inert(settings: Mapping[str, Any], own: set[str], *, whole: bool) -> list[str]:
    """Return the keys that have no effect here, on training or on metrics."""
    inert = [key for key in settings if key in INERT | _keys_of(*MODELS) - own]
    inert += ["MAX_ITEM_LIST_LENGTH (var_len is on)"] if whole and "MAX_ITEM_LIST_LENGTH" in settings else []
    inert += [f"load_col {table} (only the .inter is read)" for table in settings.get("load_col", {}) if table != "inter"]
    metrics = settings.get("metrics", [])
    names = [str(each) for each in (metrics if isinstance(metrics, list) else [metrics])]
    return inert + [f"metrics {each}" for each in names if each.lower() not in METRICS]


def _patience(values: Mapping[str, Any], stopping_step: Any) -> tuple[Any, list[str]]:
    """Return the patience in epochs, and notes.

    RecBole stops when more than `stopping_step` validations in a row bring no better metric, so patience is one more. It
    validates every `eval_step` epochs.
    """
    step = values.get("eval_step", 1)
    if not isinstance(stopping_step, int) or isinstance(stopping_step, bool) or stopping_step < 0:
        return stopping_step, []  # refused by the settings
    patience = stopping_step + 1
    if step == 1:
        return patience, []
    note = f"validation is after every epoch here, and eval_step is {step}"
    if isinstance(step, int) and step > 1:
        return step * patience, [f"{note}, so patience is {step * patience} epochs: metrics may differ"]
    return patience, [f"{note}; it decides when to stop and which epoch is best, so metrics may differ"]


def _in_their_words(message: str, theirs: Mapping[str, str]) -> str:
    """Name RecBole's keys in a message: `backbone.width = 6 …` -> `hidden_size (backbone.width) = 6 …`."""
    for ours, key in theirs.items():
        group, _, name = ours.partition(".")
        message = re.sub(rf"(?<![\w.(])(?:{group}\.)?{name}(?= = | must be |\.\d)", f"{key} ({ours})", message)
    return message


def _one_of(settings: Mapping[str, Any], key: str, default: str, allowed: list[str]) -> str:
    value = str(settings.get(key, default))
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
        if key in settings:
            raise ConfigError(f"{key}: {settings[key]} is not supported here and would change the metrics; write `{key}: ~`")
    if settings.get("transform") not in (None, TRANSFORMS.get(model)):
        raise ConfigError(f"transform: {settings['transform']} is not supported for {model}; write `transform: ~`")
    _check_evaluation(settings.get("eval_args", EVALUATION))
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
    if "load_col" not in settings:
        return
    loaded = settings["load_col"]
    if not isinstance(loaded, dict) or not isinstance(loaded.get("inter"), list):
        raise ConfigError(f"load_col: {loaded!r} has no list `inter`; write {{inter: [user_id, item_id, timestamp]}}")
    for key, default in (("USER_ID_FIELD", "user_id"), ("ITEM_ID_FIELD", "item_id"), ("TIME_FIELD", "timestamp")):
        if (name := settings.get(key, default)) not in loaded["inter"]:
            raise ConfigError(f"load_col: inter has {loaded['inter']}, without {name!r} ({key}); user, item and time are needed")


def _min_interactions(settings: Mapping[str, Any]) -> int:
    user, item = (_lowest(settings, f"{role}_inter_num_interval") for role in ("user", "item"))
    if user != item:
        raise ConfigError(
            f"user_inter_num_interval begins at {user}, item_inter_num_interval at {item}; here both are one k-core"
        )
    return user


def _lowest(settings: Mapping[str, Any], key: str) -> int:
    value = settings.get(key, "[1,inf)")
    match = re.fullmatch(r"\s*([\[(])\s*(\d+)\s*,\s*inf\s*[\])]\s*", str(value))
    if match is None:
        raise ConfigError(f'{key}: {value!r} is not supported; write "[5,inf)": at least 5, without an upper end')
    return max(int(match[2]) + (match[1] == "("), 1)
