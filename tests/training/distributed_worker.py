"""One process of a group: trains each of some small models in float64, and writes histories and weights.

Usage: distributed_worker.py OUT [--stop EPOCH] [--resume] [--only NAME] [--shard]; RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT are set.
"""

import argparse
import json
from pathlib import Path

import torch

import worlds
from ssd4rec.config import Config, DataConfig
from ssd4rec.distributed import process_group
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.models.next_item import make_model
from ssd4rec.pipeline.training import fit_left_out
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.loop import fit
from ssd4rec.training.teacher import Teacher

TRAINING = {
    "max_epochs": 2,
    "token_budget": 128,
    "mask_ratio": 0.2,
    "precision": "64-true",
    "random_numbers": "sequence",
    "learning_rate": 0.01,
}
SIZES = {"width": 8, "dropout": 0.3}
CASES = {  # what each one adds to TRAINING, and its backbone
    "ssd4rec": ({}, {"name": "ssd4rec", "state_dim": 4, "head_width": 4, "layers": 2}),
    "ssd4rec per prefix, averaged": (
        {"objective": "per-prefix", "batch_size": 40, "prefixes_per_sequence": 4, "ema_decay": 0.9},
        {"name": "ssd4rec", "state_dim": 4, "head_width": 4, "bidirectional": "all"},
    ),
    "sasrec in windows, smoothed": ({"label_smoothing": 0.1}, {"name": "sasrec", "max_length": 6}),
    "bert4rec": ({"objective": "masked-item"}, {"name": "bert4rec", "max_length": 30}),
    "bert4rec per prefix": ({"objective": "per-prefix", "prefixes_per_sequence": 3}, {"name": "bert4rec", "max_length": 30}),
    "gru4rec, sparse updates": (
        {"softmax": "sampled", "negatives": 7, "updated_rows": "touched"},
        {"name": "gru4rec", "hidden": 6},
    ),
    "caser, sampled softmax": ({"softmax": "sampled", "negatives": 7}, {"name": "caser", "window": 3}),
    "mamba4rec, sampled and smoothed, repeat logits": (
        {"softmax": "sampled", "negatives": 7, "label_smoothing": 0.1},
        {"name": "mamba4rec", "state_dim": 4, "head_width": 4, "repeat_logits": "popularity"},
    ),
    "sasrec, smoothed, repeat logits": (
        {"label_smoothing": 0.1},
        {"name": "sasrec", "max_length": 20, "repeat_logits": "popularity"},
    ),
    "sigma": ({}, {"name": "sigma", "state_dim": 4, "head_width": 4}),
    "ssd4rec, taught with a ridge": (
        {"label_smoothing": 0.1, "teachers": 1, "teacher_cooccurrence_model": "sequential-ridge"},
        {"name": "ssd4rec", "state_dim": 4, "head_width": 4},
    ),
    "ssd4rec, taught with EASE": (
        {"teachers": 1, "teacher_cooccurrence_model": "ease"},
        {"name": "ssd4rec", "state_dim": 4, "head_width": 4},
    ),
}


class Stop(Callback):
    """A power cut in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_batch_end(self, loop) -> None:
        if loop.epoch == self.epoch:
            raise ConnectionAbortedError("power cut")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--stop", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--shard", action="store_true", help="spread the item table over the processes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # one sequence is longer than a batch of 128 tokens: a step in which the other processes have nothing to do
    histories = [*worlds.cycle(users=15), [event % 12 for event in range(150)]]
    results = {}
    with process_group() as world:
        for name, (training, backbone) in CASES.items():
            if options.only not in (None, name):
                continue
            is_taught = "teachers" in training  # which needs the whole table
            training = {**TRAINING, **training, "shard_item_table": options.shard and not is_taught}  # noqa: PLW2901
            config = Config.model_validate(
                {"data": DataConfig(min_interactions=1), "training": training, "backbone": {**SIZES, **backbone}}
            )
            data = worlds.world(histories, config)
            model = make_model(config, len(data.catalog), world=world if config.training.shard_item_table else None)
            callbacks = [] if options.stop is None else [Stop(options.stop)]
            directory = options.out / "checkpoints" / name
            arguments = (data.histories, data.split, config.training)
            teacher = None
            if is_taught:
                left_out, _ = fit_left_out(config.training.teacher_cooccurrence_model, data, data.split.train)
                teacher = Teacher(make_model(config, len(data.catalog)), left_out, 1.0)
            try:
                report = fit(model, *arguments, directory=directory, resume=options.resume, callbacks=callbacks, teacher=teacher)
            except ConnectionAbortedError:
                continue
            ranks = evaluate(model, data.histories, data.split.test, world=world, token_budget=64).ranks
            results[name] = {
                "history": [[epoch.loss, epoch.ndcg] for epoch in report.history],
                "weights": {key: tensor.double().flatten().tolist() for key, tensor in model.state_dict().items()},
                "ranks": ranks.tolist(),
            }
        (options.out / f"{world.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
