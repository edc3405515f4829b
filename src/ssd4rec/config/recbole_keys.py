"""The configuration keys of RecBole 1.2.1: the setting of each here, and its default. null stands for the default."""

from typing import Any

# The sizes of each model: {RecBole's key: (our setting, default)}. SSD4Rec, Mamba4Rec and SIGMA are not part of RecBole: their
# keys and defaults are those of the authors' own configuration files, except where SSD4Rec has a file for each data set.
MAMBA: dict[str, tuple[str, Any]] = {
    "hidden_size": ("width", 64),
    "num_layers": ("layers", 1),
    "dropout_prob": ("dropout", 0.2),
    "d_state": ("state_dim", 32),
    "d_conv": ("conv_width", 4),
    "expand": ("expand", 2),
    "headdim": ("head_width", 16),  # only SSD4Rec has it: the Mamba layers of the other two have no heads
}
SSD4REC: dict[str, tuple[str, Any]] = {
    **MAMBA,
    "hidden_size": ("width", 256),
    "d_state": ("state_dim", 64),
    "norm_embedding": ("norm_embedding", False),
    "beta": ("backward_weight", 0.1),
}
SASREC: dict[str, tuple[str, Any]] = {
    "hidden_size": ("width", 64),
    "n_layers": ("layers", 2),
    "n_heads": ("heads", 2),
    "hidden_dropout_prob": ("dropout", 0.5),
}
GRU4REC: dict[str, tuple[str, Any]] = {
    "embedding_size": ("width", 64),
    "hidden_size": ("hidden", 128),
    "num_layers": ("layers", 1),
    "dropout_prob": ("dropout", 0.3),
}
CASER: dict[str, tuple[str, Any]] = {
    "embedding_size": ("width", 64),
    "nh": ("horizontal", 8),
    "nv": ("vertical", 4),
    "dropout_prob": ("dropout", 0.4),
}
MODELS: dict[str, tuple[str, dict[str, tuple[str, Any]]]] = {
    "SSD4Rec": ("ssd4rec", SSD4REC),
    "Mamba4Rec": ("mamba4rec", MAMBA),
    "SIGMA": ("sigma", MAMBA),
    "SASRec": ("sasrec", SASREC),
    "BERT4Rec": ("bert4rec", {**SASREC, "hidden_dropout_prob": ("dropout", 0.2)}),
    "GRU4Rec": ("gru4rec", GRU4REC),
    "Caser": ("caser", CASER),
}
# Models that mask their input in training: the key of the mask ratio and its default, and the transform that turns it on.
MASKS = {"SSD4Rec": ("maskratio", 0.1), "BERT4Rec": ("mask_ratio", 0.2)}
TRANSFORMS = {"BERT4Rec": "mask_itemseq"}
# A file without `model:` is for SSD4Rec if it has one of SSD4RECS, else for Mamba4Rec if it has one of MAMBAS.
MAMBAS, SSD4RECS = {"d_state", "d_conv", "expand"}, {"beta", "maskratio", "headdim", "norm_embedding", "var_len"}

TRAINING: dict[str, tuple[str, Any]] = {  # RecBole's key -> (ours, RecBole's own default)
    "train_batch_size": ("batch_size", 2048),
    "epochs": ("max_epochs", 300),
    "stopping_step": ("patience", 10),
    "learning_rate": ("learning_rate", 1e-3),
    "weight_decay": ("weight_decay", 0.0),
    "seed": ("seed", 2020),
}
FIELDS = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "time": "TIME_FIELD"}
DEFAULT_LENGTH = 50
DEFAULT_VALID_METRIC = "MRR@10"
EVALUATION = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
METRICS = {"hit", "ndcg", "mrr", "recall"}  # recall is the hit rate where one item is held out

READ = {
    *("model", "dataset", "data_path", "load_col", "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "MAX_ITEM_LIST_LENGTH"),
    *("user_inter_num_interval", "item_inter_num_interval", "eval_args", "metrics", "topk", "valid_metric", "eval_step"),
    *("loss_type", "learner", "train_neg_sample_args", "neg_sampling", "transform", "metric_decimal_place"),
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
