"""RecBole's SASRec or GRU4Rec: full softmax, every prefix an example, its own trainer; for `bench_peers.py`."""

import os
import statistics
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from shared import (
    ANOMALY_BATCHES,
    LONGEST,
    SEED,
    WIDTH,
    Clock,
    Sequences,
    Stopwatch,
    check_targets,
    ndcg_at_10,
    options,
    peak_bytes,
    read,
    report,
    versions,
)

SETTINGS = {
    "seed": SEED,
    "use_gpu": False,
    "state": "ERROR",
    "show_progress": False,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "train_neg_sample_args": None,
    "loss_type": "CE",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "MAX_ITEM_LIST_LENGTH": LONGEST,
    "metrics": ["NDCG", "Hit"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "hidden_size": WIDTH,
    "embedding_size": WIDTH,  # GRU4Rec's
}


def main() -> None:
    """Train, measure after each epoch, report."""
    arguments = options()
    torch.set_num_threads(arguments.threads)
    histories = read(arguments.histories)
    prepared = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        config = _config(arguments.model, histories, Path(folder))
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, validation, test = data_preparation(config, dataset)
        model = get_model(config["model"])(config, train._dataset)  # noqa: SLF001 - as RecBole's own quick start does
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        trainer.eval_collector.data_collect(train)
    switched_on = torch.is_anomaly_enabled()  # by importing recbole.model.sequential_recommender
    torch.autograd.set_detect_anomaly(False)
    parts = {"validation": (validation, 2), "test": (test, 1)}
    lengths = train._dataset.inter_feat["item_length"].numpy()  # noqa: SLF001
    report(
        "start",
        library=versions("recbole"),
        prepare_seconds=prepared.seconds,
        catalog=dataset.item_num - 1,
        targets={name: _check(histories, dataset, name, part, back) for name, (part, back) in parts.items()},
        examples=len(lengths),
        events=int(lengths.sum()),
        positions=len(lengths) * LONGEST,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        anomaly_mode_on_import=switched_on,
    )
    clock, best, test_ndcg, going = Clock(arguments.epochs, arguments.minutes), -1.0, 0.0, True
    while going:
        epoch = Stopwatch()
        trainer._train_epoch(train, clock.done)  # noqa: SLF001
        seconds = epoch.seconds
        evaluation = Stopwatch()
        theirs = trainer.evaluate(validation, load_best_model=False)
        evaluation_seconds = evaluation.seconds
        ndcg = ndcg_at_10(_ranks(trainer, model, validation))
        if ndcg > best:
            best, test_ndcg = ndcg, ndcg_at_10(_ranks(trainer, model, test))
        going = clock.epoch(seconds)
        report(
            "epoch",
            epoch=clock.done,
            seconds=seconds,
            evaluation_seconds=evaluation_seconds,
            ndcg=ndcg,
            library_ndcg=float(theirs["ndcg@10"]),
        )
    peak = peak_bytes()
    _report_anomaly(trainer, model, train)
    report("end", test_ndcg=test_ndcg, peak_bytes=peak)


def _config(model: str, histories: Sequences, folder: Path) -> Config:
    """The histories as an atomic file; the time of an event is its place, so the order is ours."""
    (folder / "bench").mkdir()
    rows = zip(histories.user_of.tolist(), histories.items.tolist(), histories.place_of.tolist(), strict=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *(f"{user}\t{item}\t{place}" for user, item, place in rows)]
    (folder / "bench" / "bench.inter").write_text("\n".join(lines) + "\n")
    settings = {**SETTINGS, "data_path": str(folder), "checkpoint_dir": str(folder)}
    return Config(model=model, dataset="bench", config_dict=settings)


def _check(histories: Sequences, dataset: Any, name: str, part: Any, back: int) -> int:
    """How many targets there are; they and the histories that are read for them are ours."""
    feature = part._dataset.inter_feat  # noqa: SLF001
    number = np.array([0, *(int(token) for token in dataset.field2id_token["item_id"][1:])])  # RecBole's id -> ours
    users = [int(token) for token in dataset.id2token("user_id", feature["user_id"].numpy())]
    assert len(users) == len(set(users)), "a user is asked twice"
    for user, read_items in zip(users, number[feature["item_id_list"].numpy()], strict=True):
        begin, end = histories.offsets[user], histories.offsets[user + 1] - back
        ours = histories.items[max(begin, end - LONGEST) : end]
        assert (read_items[: len(ours)] == ours).all(), f"{name}: user {user} has another history"
    targets = dict(zip(users, number[feature["item_id"].numpy()].tolist(), strict=True))
    return check_targets(histories, name, back, targets)


@torch.no_grad()
def _ranks(trainer: Any, model: Any, part: Any) -> np.ndarray:
    """Ranks among the whole catalog, seen items kept, ties against the target."""
    model.eval()
    ranks = []
    for batch in part:
        interaction, scores, rows, items = trainer._full_sort_batch_eval(batch)  # noqa: SLF001
        assert len(rows) == len(interaction)
        own = scores[rows, items]
        ranks.append((scores[:, 1:] >= own[:, None]).sum(dim=1))  # column 0 is the padding
    return torch.cat(ranks).numpy()


def _report_anomaly(trainer: Any, model: Any, train: Any) -> None:
    """Seconds a batch without and with autograd's anomaly mode, on the same batches, in turn."""
    model.train()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number, batch in enumerate(islice(train, ANOMALY_BATCHES + 1)):
        for anomaly in (False, True):
            with torch.autograd.set_detect_anomaly(anomaly):
                one = Stopwatch()
                trainer.optimizer.zero_grad()
                model.calculate_loss(batch).backward()
                trainer.optimizer.step()
                if number:  # the first warms up
                    seconds[anomaly].append(one.seconds)
    without, under = (statistics.median(seconds[anomaly]) for anomaly in (False, True))
    report("anomaly", batch_seconds=without, batch_seconds_anomaly=under, batches=len(seconds[True]))


if __name__ == "__main__":
    main()
