"""RecBole's configurations, read as ours."""

import json

import pytest
import yaml
from typer.testing import CliRunner

import worlds
from ssd4rec import cli
from ssd4rec.config import Mamba4RecConfig, load_config
from ssd4rec.config.recbole import read_recbole
from ssd4rec.errors import ConfigError

COMMON = """
gpu_id: '0'
log_wandb: False
seed: 2024
hidden_size: 256
loss_type: 'CE'
d_state: 64
d_conv: 4
expand: 2
headdim: 16
beta: 0.1
var_len: True
load_col:
  inter: [user_id, item_id, timestamp]
user_inter_num_interval: "[5,inf)"
item_inter_num_interval: "[5,inf)"
epochs: 300
train_batch_size: 1024
learning_rate: 1e-3
eval_batch_size: 2048
stopping_step: 10
train_neg_sample_args: ~
eval_args: {split: {LS: valid_and_test}, order: TO, group_by: user, mode: full}
metrics: [Hit, NDCG, MRR]
topk: [10, 20]
valid_metric: NDCG@10
show_progress: True
"""
AUTHORS = {
    "ml-1m": "num_layers: 2\ndropout_prob: 0.2\nnorm_embedding: True\nmaskratio: 0.1",
    "amazon-beauty": "num_layers: 1\ndropout_prob: 0.4\nnorm_embedding: False\nmaskratio: 0.2",
    "amazon-video-games": "num_layers: 1\ndropout_prob: 0.4\nnorm_embedding: False\nmaskratio: 0.1",
    "kuairand-pure": "num_layers: 2\ndropout_prob: 0.2\nnorm_embedding: True\nmaskratio: 0.2",
}


MONITORED_METRIC = "valid_metric: NDCG@10"  # the one that needs no word


def written(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_configuration_is_the_preset_of_that_data_set(tmp_path, name):
    """Their YAML, with the stray title and 1e-3 as they write it, gives the settings of our preset."""
    path = written(tmp_path, f"{COMMON}\n{name} setting:\ndataset: {name}\nMAX_ITEM_LIST_LENGTH: 200\n{AUTHORS[name]}\n")
    run = read_recbole(path)
    assert run.config == load_config(name, ["training.softmax=full"])  # the catalogs are small: "auto" is full too
    assert run.dataset == name
    guessed, note = notes(run)
    assert guessed.startswith("names no model; read as SSD4Rec")
    assert f"{name} setting" in note
    assert "MAX_ITEM_LIST_LENGTH" in note
    assert "gpu_id" in note


def test_without_var_len_histories_are_cut(tmp_path):
    """MAX_ITEM_LIST_LENGTH is data.max_length; left out, it is RecBole's 50."""
    assert read_recbole(written(tmp_path, "model: SSD4Rec\nMAX_ITEM_LIST_LENGTH: 70")).config.data.max_length == 70
    assert read_recbole(written(tmp_path, "model: SSD4Rec\nseed: 1")).config.data.max_length == 50


def test_a_model_is_chosen_by_its_name(tmp_path):
    """SASRec's and GRU4Rec's keys become their settings; what is not given has RecBole's default."""
    sasrec = read_recbole(written(tmp_path, "model: SASRec\nn_layers: 3\nn_heads: 4\nattn_dropout_prob: 0.1")).config
    assert (sasrec.backbone.name, sasrec.backbone.layers, sasrec.backbone.heads) == ("sasrec", 3, 4)
    assert (sasrec.backbone.dropout, sasrec.backbone.max_length) == (0.5, 50)
    gru = read_recbole(written(tmp_path, "model: GRU4Rec\nembedding_size: 48\nhidden_size: 96")).config
    assert (gru.backbone.name, gru.backbone.width, gru.backbone.hidden, gru.training.batch_size) == ("gru4rec", 48, 96, 2048)


def notes(run):
    """The notes of a run without the one that every SASRec has."""
    return tuple(note for note in run.notes if not note.startswith("SASRec here normalizes"))


def test_recboles_rounding_and_sasrec_are_noted(tmp_path):
    """Its comparison of rounded metrics, and the order of norms in its SASRec, are not taken over."""
    rounding, sasrec = read_recbole(written(tmp_path, f"model: SASRec\nmetric_decimal_place: 4\n{MONITORED_METRIC}")).notes
    assert "RecBole compares them rounded to 4 decimals" in rounding
    assert "another network, whose metrics may differ" in sasrec
    assert read_recbole(written(tmp_path, f"model: GRU4Rec\n{MONITORED_METRIC}")).notes == ()


def test_recbole_stops_one_epoch_later_than_its_number_says(tmp_path):
    """stopping_step = n: more than n epochs without a better metric."""
    assert read_recbole(written(tmp_path, "model: GRU4Rec\nstopping_step: 4")).config.training.patience == 5
    assert read_recbole(written(tmp_path, "model: GRU4Rec")).config.training.patience == 11


def test_validation_is_after_every_epoch(tmp_path):
    """RecBole counts stopping_step in validations: more than ten of them, five epochs apart, are 55 epochs."""
    run = read_recbole(written(tmp_path, f"model: SASRec\neval_step: 5\n{MONITORED_METRIC}"))
    assert run.config.training.patience == 55
    assert notes(run) == (
        "validation is after every epoch here, and eval_step is 5, so patience is 55 epochs: metrics may differ",
    )
    run = read_recbole(written(tmp_path, f"model: SASRec\neval_step: 0\nstopping_step: 3\n{MONITORED_METRIC}"))
    assert run.config.training.patience == 4
    assert notes(run) == (
        "validation is after every epoch here, and eval_step is 0; it decides when to stop and which epoch is best, "
        "so metrics may differ",
    )
    assert notes(read_recbole(written(tmp_path, f"model: SASRec\neval_step: 1\n{MONITORED_METRIC}"))) == ()


def test_recbole_keys_with_a_fixed_value_are_named(tmp_path):
    """RecBole's SASRec has such keys in its default file: no error, and no silence."""
    run = read_recbole(
        written(tmp_path, f"model: SASRec\ninner_size: 256\nhidden_act: ~\nattn_dropout_prob: 0.5\ngpu_id: 0\n{MONITORED_METRIC}")
    )
    assert notes(run) == (
        "ignored, no effect here: gpu_id",
        "fixed here, so metrics may differ: inner_size, attn_dropout_prob",
    )


@pytest.mark.parametrize(
    ("text", "ratio", "unread"),
    [
        ("model: SSD4Rec\nmaskratio: 0.3", 0.3, None),
        ("model: SSD4Rec\nmaskratio: ~", 0.1, None),
        ("model: SSD4Rec\nmask_ratio: 0.3", 0.1, "mask_ratio"),
        ("model: BERT4Rec\nmask_ratio: 0.3", 0.3, None),
        ("model: BERT4Rec\nmask_ratio: ~", 0.2, None),
        ("model: BERT4Rec\nmaskratio: 0.3", 0.2, "maskratio"),
        ("model: Mamba4Rec\nmaskratio: 0.3", 0.0, "maskratio"),
        ("model: SASRec\nmask_ratio: 0.3", 0.0, "mask_ratio"),
    ],
)
def test_each_model_has_its_own_key_for_the_mask(tmp_path, text, ratio, unread):
    """RecBole's SASRec masks nothing, whatever the file says; a key that another model would read is named."""
    run = read_recbole(written(tmp_path, f"{text}\n{MONITORED_METRIC}"))
    assert run.config.training.mask_ratio == ratio
    assert list(notes(run)) == ([f"ignored, no effect here: {unread}"] if unread else [])


def test_var_len_is_a_switch_of_ssd4rec(tmp_path):
    """Text is read as what it says; another model cuts its histories, and the key is named."""
    lengths = {"True": None, "'true'": None, "False": 70, "'False'": 70, "~": 70}
    for value, length in lengths.items():
        text = f"model: SSD4Rec\nMAX_ITEM_LIST_LENGTH: 70\nvar_len: {value}"
        assert read_recbole(written(tmp_path, text)).config.data.max_length == length, value
    run = read_recbole(written(tmp_path, f"model: Mamba4Rec\nMAX_ITEM_LIST_LENGTH: 70\nvar_len: True\n{MONITORED_METRIC}"))
    assert run.config.data.max_length == 70
    assert notes(run) == ("ignored, no effect here: var_len",)


MAMBA4RECS = "hidden_size: 64\nnum_layers: 1\ndropout_prob: 0.2\nd_state: 32\nd_conv: 4\nexpand: 2\nMAX_ITEM_LIST_LENGTH: 200"


def test_without_a_model_the_keys_say_which(tmp_path):
    """Mamba4Rec's authors name the model elsewhere, as SSD4Rec's do; which one was taken is said."""
    run = read_recbole(written(tmp_path, MAMBA4RECS))
    assert run.config.backbone == Mamba4RecConfig(state_dim=32)
    assert run.config.training.mask_ratio == 0.0
    assert notes(run)[0].startswith("names no model; read as Mamba4Rec, because it has d_conv, d_state, expand; add `model:`")
    run = read_recbole(written(tmp_path, f"{MAMBA4RECS}\nbeta: 0.2"))
    assert (run.config.backbone.name, run.config.backbone.backward_weight) == ("ssd4rec", 0.2)
    assert notes(run)[0].startswith("names no model; read as SSD4Rec, because it has beta")
    assert not notes(read_recbole(written(tmp_path, f"model: Mamba4Rec\n{MAMBA4RECS}\n{MONITORED_METRIC}")))


@pytest.mark.parametrize("text", ["hidden_size: 64\nnum_layers: 1", "n_layers: 2\nn_heads: 2", f"{MAMBA4RECS}\nn_heads: 2", ""])
def test_an_unclear_model_must_be_named(tmp_path, text):
    """Keys that several models have, or those of a third, do not select one."""
    with pytest.raises(ConfigError, match=r"names no model.*add `model:` with one of SSD4Rec, Mamba4Rec"):
        read_recbole(written(tmp_path, text))


def table(text):
    """`key: value, key: value` in YAML."""
    return yaml.safe_load("{" + text + "}")


# What RecBole 1.2.1's files hold: properties/overall.yaml (negatives off, as a softmax needs them), dataset/sample.yaml (with the
# times, as sequences need them), dataset/ml-100k.yaml and quick_start_config/sequential.yaml, each over what is before it.
OVERALL = table("""
gpu_id: '0', worker: 0, use_gpu: true, seed: 2020, state: INFO, reproducibility: true, data_path: dataset/,
checkpoint_dir: saved, show_progress: true, save_dataset: false, dataset_save_path: ~, save_dataloaders: false,
dataloaders_save_path: ~, log_wandb: false, wandb_project: recbole, shuffle: true, epochs: 300, train_batch_size: 2048,
learner: adam, learning_rate: 0.001, train_neg_sample_args: ~, eval_step: 1, stopping_step: 10, clip_grad_norm: ~,
weight_decay: 0.0, loss_decimal_place: 4, require_pow: false, enable_amp: false, enable_scaler: false, transform: ~,
repeatable: false, topk: [10], valid_metric: MRR@10, metrics: [Recall, MRR, NDCG, Hit, Precision], valid_metric_bigger:
true, eval_batch_size: 4096, metric_decimal_place: 4
""")
DATA = table("""
field_separator: "\t", seq_separator: ' ', USER_ID_FIELD: user_id, ITEM_ID_FIELD: item_id, RATING_FIELD: rating,
TIME_FIELD: timestamp, seq_len: ~, LABEL_FIELD: label, threshold: ~, NEG_PREFIX: neg_, ITEM_LIST_LENGTH_FIELD:
item_length, LIST_SUFFIX: _list, MAX_ITEM_LIST_LENGTH: 50, POSITION_FIELD: position_id, HEAD_ENTITY_ID_FIELD: head_id,
TAIL_ENTITY_ID_FIELD: tail_id, RELATION_ID_FIELD: relation_id, ENTITY_ID_FIELD: entity_id, kg_reverse_r: false,
unload_col: ~, unused_col: ~, rm_dup_inter: ~, load_col: {inter: [user_id, item_id, rating, timestamp]}, val_interval: ~,
filter_inter_by_user_or_item: true, alias_of_user_id: ~, alias_of_item_id: ~, alias_of_entity_id: ~, alias_of_relation_id:
~, preload_weight: ~, normalize_field: ~
""")
COUNTS = ("user_inter_num_interval", "item_inter_num_interval", "entity_kg_num_interval", "relation_kg_num_interval")
SAMPLE = {
    **DATA,
    **dict.fromkeys(COUNTS, "[0,inf)"),
    **dict.fromkeys(("additional_feat_suffix", "normalize_all", "discretization", "benchmark_filename")),
    "numerical_features": [],
}
ML_100K = {**DATA, **dict.fromkeys(COUNTS), "normalize_all": True}
SEQUENTIAL = table("eval_args: {split: {LS: valid_and_test}, order: TO, mode: full}, repeatable: true")
ATTENTION = table("""
n_layers: 2, n_heads: 2, hidden_size: 64, inner_size: 256, hidden_act: gelu, initializer_range: 0.02, layer_norm_eps: 1.0e-12,
loss_type: CE
""")
# each model's own file, and what it is here; SSD4Rec's, Mamba4Rec's and SIGMA's as their authors have them
OWN = {
    "SASRec": (
        ATTENTION | table("hidden_dropout_prob: 0.5, attn_dropout_prob: 0.5"),
        table("width: 64, layers: 2, heads: 2, dropout: 0.5, max_length: 50"),
    ),
    "BERT4Rec": (
        ATTENTION
        | table("hidden_dropout_prob: 0.2, attn_dropout_prob: 0.2, mask_ratio: 0.2, transform: mask_itemseq, ft_ratio: 0.5"),
        table("width: 64, layers: 2, heads: 2, dropout: 0.2, max_length: 50"),
    ),
    "GRU4Rec": (
        table("embedding_size: 64, hidden_size: 128, num_layers: 1, dropout_prob: 0.3, loss_type: CE"),
        table("width: 64, hidden: 128, layers: 1, dropout: 0.3, max_length: 50"),
    ),
    "Caser": (
        table("embedding_size: 64, dropout_prob: 0.4, reg_weight: 0.0001, nv: 4, nh: 8, loss_type: CE"),
        table("width: 64, window: 50, horizontal: 8, vertical: 4, dropout: 0.4"),  # filters up to the history's height
    ),
    "Mamba4Rec": (
        table("hidden_size: 64, num_layers: 1, dropout_prob: 0.2, d_state: 32, d_conv: 4, expand: 2, loss_type: CE"),
        table("width: 64, layers: 1, dropout: 0.2, state_dim: 32, conv_width: 4, expand: 2"),
    ),
    "SIGMA": (
        table("hidden_size: 64, num_layers: 1, dropout_prob: 0.2, d_state: 32, d_conv: 4, expand: 2, loss_type: CE"),
        table("width: 64, layers: 1, dropout: 0.2, state_dim: 32, conv_width: 4, expand: 2, kept: 5"),
    ),
    "SSD4Rec": (
        table("hidden_size: 256, d_state: 64, d_conv: 4, expand: 2, headdim: 16, beta: 0.1, maskratio: 0.1, loss_type: CE"),
        table("width: 256, state_dim: 64, conv_width: 4, expand: 2, head_width: 16, backward_weight: 0.1, bidirectional: all"),
    ),
}
SHIPPED = {key: value for file in (OVERALL, SAMPLE, ML_100K, SEQUENTIAL) for key, value in file.items()}


@pytest.mark.parametrize("model", OWN)
def test_recboles_whole_default_configuration_is_what_a_file_without_settings_is(tmp_path, model):
    """Its files joined as RecBole joins them, with negatives off, give what `model:` alone gives: every default is RecBole's."""
    own, sizes = OWN[model]
    alone = read_recbole(written(tmp_path, f"model: {model}")).config
    assert {key: getattr(alone.backbone, key) for key in sizes} == sizes
    assert alone.training.mask_ratio == own.get("mask_ratio", own.get("maskratio", 0.0))
    columns = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    for data in (SAMPLE, {**SAMPLE, **ML_100K}):
        run = read_recbole(written(tmp_path, yaml.safe_dump({"model": model, **OVERALL, **own, **data, **SEQUENTIAL})))
        assert run.config == alone.model_copy(update={"data": alone.data.model_copy(update=columns)})


@pytest.mark.parametrize("key", sorted({*SHIPPED, *(key for own, _ in OWN.values() for key in own)}))
def test_every_key_of_recboles_files_is_known_and_null_says_nothing(tmp_path, key):
    """Null is RecBole's way to leave a key out: it changes nothing, and needs no word."""
    assert read_recbole(written(tmp_path, f"model: GRU4Rec\n{key}: ~")) == read_recbole(written(tmp_path, "model: GRU4Rec"))


READ_OF_THEM = {
    "metric_decimal_place",
    *("seed", "data_path", "epochs", "train_batch_size", "learner", "learning_rate", "train_neg_sample_args", "stopping_step"),
    *("weight_decay", "topk", "valid_metric", "metrics", "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "load_col", "eval_step"),
    *("MAX_ITEM_LIST_LENGTH", "user_inter_num_interval", "item_inter_num_interval", "eval_args"),
}
REFUSED = {
    "clip_grad_norm": "{max_norm: 5}",
    "transform": "crop_itemseq",
    "threshold": "{rating: 4}",
    "rm_dup_inter": "first",
    "val_interval": "{rating: '[3,inf)'}",
    "benchmark_filename": "[train, valid, test]",
}


@pytest.mark.parametrize("key", sorted(set(SHIPPED) - READ_OF_THEM - set(REFUSED)))
def test_a_key_of_recboles_files_that_nothing_reads_is_named(tmp_path, key):
    """Whatever it says, but null; and it changes no setting."""
    value = "x" if SHIPPED[key] is None else SHIPPED[key]
    run = read_recbole(written(tmp_path, yaml.safe_dump({"model": "SASRec", "valid_metric": "NDCG@10", key: value})))
    assert notes(run) == (f"ignored, no effect here: {key}",)
    assert run.config == read_recbole(written(tmp_path, "model: SASRec")).config


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_would_change_the_data_is_refused(tmp_path, key):
    """Events that are left out, made or cut by value, and steps that are clipped."""
    with pytest.raises(ConfigError, match=f"{key}: .* is not supported .*write `{key}: ~`"):
        read_recbole(written(tmp_path, f"model: SASRec\n{key}: {REFUSED[key]}"))


def test_the_transform_of_bert4rec_is_its_mask_and_no_other_models(tmp_path):
    """BERT4Rec masks anyway; RecBole's SASRec would stop without a ratio."""
    assert notes(read_recbole(written(tmp_path, f"model: BERT4Rec\ntransform: mask_itemseq\n{MONITORED_METRIC}"))) == ()
    for text in ("model: BERT4Rec\ntransform: inverse_itemseq", "model: SASRec\ntransform: mask_itemseq"):
        with pytest.raises(ConfigError, match=r"transform: .* is not supported for"):
            read_recbole(written(tmp_path, text))


def test_tables_beside_the_interactions_are_named(tmp_path):
    """RecBole would also drop events of items that the .item file has not, and rank those that it has."""
    load = "load_col: {inter: [user_id, item_id, timestamp], item: [item_id, class]}"
    run = read_recbole(written(tmp_path, f"model: SASRec\n{load}\n{MONITORED_METRIC}"))
    assert notes(run) == ("ignored, no effect here: load_col item (only the .inter is read)",)


def test_the_softmax_is_over_the_whole_catalogue_whatever_its_size(tmp_path):
    """RecBole's CE samples nothing; --set may."""
    path = written(tmp_path, "model: SASRec")
    assert not read_recbole(path).config.training.samples(51_000)
    assert read_recbole(path, ["training.softmax=auto"]).config.training.samples(51_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learing_rate: 1", "did you mean 'learning_rate'"),
        ("seed: 2016-13-45", "is not valid YAML: month must be in 1..12"),
        ("loss_type: BPR", "loss_type: BPR is not supported here; supported: CE"),
        ("model: FPMC", "supported: SSD4Rec, Mamba4Rec"),
        ("eval_args: {split: {RS: [8, 1, 1]}}", "leave-last-out"),
        ("eval_args: {mode: uni100}", "whole catalog"),
        ("eval_args: {order: TO, mode: full}", "split is missing, for which RecBole's default is random"),
        ("user_inter_num_interval: '[5,inf)'", "one k-core"),
        ("user_inter_num_interval: '[5,9]'", "upper end"),
        ("train_neg_sample_args: {distribution: uniform}", "softmax over the catalog"),
        ("load_col: {inter: [user_id, item_id]}", "without 'timestamp'"),
        ("var_len: perhaps", "neither True nor False"),
        ("a: [", "not valid YAML"),
        ("just text", "key: value"),
        ("epochs: many", "training.max_epochs"),
        ("stopping_step: many", "stopping_step"),
    ],
)
def test_unsupported_settings_are_reported(tmp_path, text, message):
    """An unknown key, and a value that would give other metrics, is an error that says what is supported."""
    has_model = ":" not in text or "model" in text
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read_recbole(written(tmp_path, text if has_model else f"model: SSD4Rec\n{text}"))


def test_recbole_keys_that_change_no_weight_are_notes(tmp_path):
    """Another metric, another valid_metric and a key written twice are named, not refused."""
    run = read_recbole(written(tmp_path, "model: SSD4Rec\nmetrics: [Hit, GAUC]\nvalid_metric: MRR@10\nseed: 1\nseed: 2"))
    assert run.config.training.seed == 2
    assert "GAUC" in notes(run)[0]
    assert notes(run)[1] == "the best epoch is chosen by NDCG@10, not by valid_metric = MRR@10"
    assert "seed" in notes(run)[2]


@pytest.mark.parametrize("left_out", ["", "valid_metric: ~"])
def test_the_default_valid_metric_of_recbole_is_named(tmp_path, left_out):
    """RecBole keeps the epoch that is best by MRR@10, ours that by NDCG@10."""
    (note,) = notes(read_recbole(written(tmp_path, f"model: SASRec\n{left_out}")))
    assert note == "the best epoch is chosen by NDCG@10, not by valid_metric = MRR@10 (RecBole's default)"


def test_train_finds_the_data_that_the_file_names(tmp_path):
    """`train --recbole` reads data_path/dataset/dataset.inter and trains; --set is on top."""
    folder = tmp_path / "data" / "cycle"
    folder.mkdir(parents=True)
    frame = worlds.frame(worlds.cycle(users=20))
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (folder / "cycle.inter").write_text(header + "\n".join("\t".join(map(str, row)) for row in frame.rows()))
    sizes = "model: SSD4Rec\nhidden_size: 16\nd_state: 8\nepochs: 9\nUSER_ID_FIELD: user_id"
    path = written(tmp_path, f"data_path: {tmp_path / 'data'}\ndataset: cycle\n{sizes}")
    arguments = ["train", "--recbole", str(path), "--out", str(tmp_path / "model"), "--set", "training.max_epochs=1", "--json"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["model"]["backbone"]["width"] == 16
    assert len(report["training"]["history"]) == 1


def test_settings_come_from_one_place(tmp_path):
    """--config and --recbole cannot be combined."""
    path = written(tmp_path, "model: SASRec")
    result = CliRunner().invoke(cli.app, ["train", "plays.csv", "--recbole", str(path), "--config", "ml-1m"])
    assert isinstance(result.exception, ConfigError)
    assert "--config ml-1m and --recbole" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden_size: [1, 2]", r"yaml: hidden_size \(backbone\.width\) = \[1, 2\]: Input should be a valid integer$"),
        ("topk: 0", r"yaml: topk \(evaluation\.cutoffs\) must be ranks of 1 or more, e\.g\. \[10, 20\], found \[0\]$"),
        ("topk: [5, x]", r"yaml: topk \(evaluation\.cutoffs\)\.1 = 'x': "),
        ("train_batch_size: 1e3", r"yaml: train_batch_size \(training\.batch_size\) = 1000\.0: "),
        ("maskratio: 1.0", r"yaml: maskratio \(training\.mask_ratio\) = 1\.0: Input should be less than 1$"),
        ("MAX_ITEM_LIST_LENGTH: 0", r"yaml: MAX_ITEM_LIST_LENGTH \(data\.max_length\) = 0: "),
        ("USER_ID_FIELD: [a]", r"yaml: USER_ID_FIELD \(data\.user\) = \['a'\]: "),
        (
            "hidden_size: 7",
            r"expand \* hidden_size \(backbone\.width\) = 14 is not a multiple of headdim \(backbone\.head_width\) = 16$",
        ),
    ],
)
def test_a_wrong_value_is_named_by_the_key_of_the_file(tmp_path, text, message):
    """And by ours, which --set takes; what --set itself says is ours alone."""
    path = written(tmp_path, f"model: SSD4Rec\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        read_recbole(path)
    with pytest.raises(ConfigError, match=r"--set: training\.patience = 0: "):
        read_recbole(written(tmp_path, "model: SSD4Rec\nstopping_step: 5"), ["training.patience=0"])
