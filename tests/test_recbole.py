"""RecBole's configurations, read as ours."""

import json

import pytest
from typer.testing import CliRunner

import worlds
from ssd4rec import cli
from ssd4rec.config import Mamba4RecConfig, load_config, read_recbole
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


def written(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_configuration_is_the_preset_of_that_data_set(tmp_path, name):
    """Their YAML, with the stray title and 1e-3 as they write it, gives the settings of our preset."""
    path = written(tmp_path, f"{COMMON}\n{name} setting:\ndataset: {name}\nMAX_ITEM_LIST_LENGTH: 200\n{AUTHORS[name]}\n")
    run = read_recbole(path)
    assert run.config == load_config(name)
    assert run.dataset == name
    guessed, note = run.notes
    assert guessed.startswith("names no model; taken as SSD4Rec")
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


def test_what_is_fixed_here_is_named(tmp_path):
    """RecBole's SASRec has such keys in its default file: no error, and no silence."""
    run = read_recbole(written(tmp_path, "model: SASRec\ninner_size: 256\nattn_dropout_prob: 0.5\ngpu_id: 0"))
    assert run.notes == (
        "without a meaning here: gpu_id",
        "fixed here, whatever the file says, so that figures may differ: inner_size, attn_dropout_prob",
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
    run = read_recbole(written(tmp_path, text))
    assert run.config.training.mask_ratio == ratio
    assert list(run.notes) == ([f"without a meaning here: {unread}"] if unread else [])


def test_var_len_is_a_switch_of_ssd4rec(tmp_path):
    """Text is read as what it says; another model cuts its histories, and the key is named."""
    lengths = {"True": None, "'true'": None, "False": 70, "'False'": 70, "~": 70}
    for value, length in lengths.items():
        text = f"model: SSD4Rec\nMAX_ITEM_LIST_LENGTH: 70\nvar_len: {value}"
        assert read_recbole(written(tmp_path, text)).config.data.max_length == length, value
    run = read_recbole(written(tmp_path, "model: Mamba4Rec\nMAX_ITEM_LIST_LENGTH: 70\nvar_len: True"))
    assert run.config.data.max_length == 70
    assert run.notes == ("without a meaning here: var_len",)


MAMBA4RECS = "hidden_size: 64\nnum_layers: 1\ndropout_prob: 0.2\nd_state: 32\nd_conv: 4\nexpand: 2\nMAX_ITEM_LIST_LENGTH: 200"


def test_without_a_model_the_keys_say_which(tmp_path):
    """Mamba4Rec's authors name the model elsewhere, as SSD4Rec's do; which one was taken is said."""
    run = read_recbole(written(tmp_path, MAMBA4RECS))
    assert run.config.backbone == Mamba4RecConfig(state_dim=32)
    assert run.config.training.mask_ratio == 0.0
    assert run.notes[0].startswith("names no model; taken as Mamba4Rec, for it has d_conv, d_state, expand; write `model:`")
    run = read_recbole(written(tmp_path, f"{MAMBA4RECS}\nbeta: 0.2"))
    assert (run.config.backbone.name, run.config.backbone.backward_weight) == ("ssd4rec", 0.2)
    assert run.notes[0].startswith("names no model; taken as SSD4Rec, for it has beta")
    assert not read_recbole(written(tmp_path, f"model: Mamba4Rec\n{MAMBA4RECS}")).notes


@pytest.mark.parametrize("text", ["hidden_size: 64\nnum_layers: 1", "n_layers: 2\nn_heads: 2", f"{MAMBA4RECS}\nn_heads: 2", ""])
def test_a_model_that_cannot_be_known_is_asked_for(tmp_path, text):
    """Keys that several models have, or those of a third, are no reason to take one."""
    with pytest.raises(ConfigError, match=r"names no model.*write `model:` with one of SSD4Rec, Mamba4Rec"):
        read_recbole(written(tmp_path, text))


@pytest.mark.parametrize("model", ["Mamba4Rec", "SIGMA", "Caser", "BERT4Rec"])
def test_every_model_has_settings(tmp_path, model):
    """Each known model's defaults are settings that its backbone takes."""
    assert read_recbole(written(tmp_path, f"model: {model}")).config.backbone.name == model.lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learing_rate: 1", "did you mean 'learning_rate'"),
        (
            "benchmark_filename: [train, valid, test]",
            "would change the figures; write `benchmark_filename: ~`",
        ),
        ("seed: 2016-13-45", "is not valid YAML: month must be in 1..12"),
        ("loss_type: BPR", "loss_type: BPR is not supported here; supported: CE"),
        ("model: FPMC", "supported: SSD4Rec, Mamba4Rec"),
        ("eval_args: {split: {RS: [8, 1, 1]}}", "leave-last-out"),
        ("eval_args: {mode: uni100}", "whole catalogue"),
        ("user_inter_num_interval: '[5,inf)'", "one k-core"),
        ("user_inter_num_interval: '[5,9]'", "upper end"),
        ("train_neg_sample_args: {distribution: uniform}", "softmax over the catalogue"),
        ("load_col: {inter: [user_id, item_id]}", "without 'timestamp'"),
        ("clip_grad_norm: {max_norm: 5}", "would change the figures"),
        ("var_len: perhaps", "neither True nor False"),
        ("a: [", "not valid YAML"),
        ("just text", "key: value"),
        ("epochs: many", "training.max_epochs"),
    ],
)
def test_what_cannot_be_had_is_said(tmp_path, text, message):
    """An unknown key, and a value that would give other figures, is an error that says what is supported."""
    named = ":" not in text or "model" in text
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read_recbole(written(tmp_path, text if named else f"model: SSD4Rec\n{text}"))


def test_what_changes_no_weight_is_a_note(tmp_path):
    """Another metric, another valid_metric and a key written twice are named, not refused."""
    run = read_recbole(written(tmp_path, "model: SSD4Rec\nmetrics: [Hit, GAUC]\nvalid_metric: MRR@10\nseed: 1\nseed: 2"))
    assert run.config.training.seed == 2
    assert "GAUC" in run.notes[0]
    assert "MRR@10" in run.notes[0]
    assert "seed" in run.notes[1]


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
    assert len(report["course"]["course"]) == 1


def test_settings_come_from_one_place(tmp_path):
    """--config beside --recbole would be dropped unread: it is refused."""
    path = written(tmp_path, "model: SASRec")
    result = CliRunner().invoke(cli.app, ["train", "plays.csv", "--recbole", str(path), "--config", "ml-1m"])
    assert isinstance(result.exception, ConfigError)
    assert "--config ml-1m and --recbole" in str(result.exception)
