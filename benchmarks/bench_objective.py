"""How much sooner does all-positions training reach the same validation NDCG@10 as per-prefix training?

Run: python benchmarks/bench_objective.py [--only games-one-pass --only games-prefix ...] [--seconds 150] [--threads 2] [--save]

The same model (preset quick: D = 64, one layer, where "top" and "all" are the same wiring), seed and learning rate. `prefix`
has as many positions in a batch as `one-pass`, so more and smaller steps (a twentieth of the targets on ML-1M); `one-pass-512`
takes smaller steps too, `prefix-2048` the authors' 2,048 examples. Prefixes are compared with the one pass that is there first.
All learn for the same seconds, validation apart, which is made at moments that grow by a factor. A pass that is not finished
has read a random part of its batches, so its seconds follow from the tokens that were read.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import arguments, publish
from pieces import DATA, Piece, add_options, piece, select
from ssd4rec.config import Config, load_config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.packing import materialize_batch
from ssd4rec.data.split import Examples
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.models.next_item import make_model
from ssd4rec.pipeline import Prepared, prepare
from ssd4rec.training.objective import TrainingBatch, next_item_loss, pass_cost, plan_pass
from ssd4rec.training.objective import prepare as prepare_batch

FILES = {"games": "amazon-video-games.inter.gz", "ml-1m": "ml-1m.inter.gz", "beauty": "amazon-beauty.inter.gz"}
TARGETS = {"games": 4, "ml-1m": 50, "beauty": 4}  # times less time to equal NDCG@10: the aim
VARIANTS = {
    "all-positions": ("training.objective=all-positions",),
    "one-pass-512": ("training.objective=all-positions", "training.token_budget=512"),
    "per-prefix": ("training.objective=per-prefix",),
    "prefix-2048": ("training.objective=per-prefix", "training.batch_size=2048", "training.token_budget=1048576"),
}
TOKENS = 4096  # positions a batch, the preset's
FACTOR, EARLIEST = 1.5, 150  # moments of validation: the last is the end, the first at 1 / 150 of it
VALIDATED = 2000  # users, the same for both objectives


def main() -> None:
    """Measure the requested pieces and print the table."""
    options = arguments(__doc__, _add_options)
    rows, notes = [], []
    names = select([f"{data}-{variant}" for data in FILES for variant in VARIANTS], options.only)
    for data, file_name in FILES.items():
        variants = [variant for variant in VARIANTS if f"{data}-{variant}" in names]
        file = options.data / file_name
        if variants and not file.is_file():
            notes.append(f"{data}: left out, there is no {file}; name its folder with --data")
            continue
        pieces = {variant: one(f"{data}-{variant}", file, VARIANTS[variant], options) for variant in variants}
        rows += compare(data, {variant: each.result for variant, each in pieces.items()})
        notes += [f"{data} {variant}: {_course(each)}" for variant, each in pieces.items()]
    notes.append(
        f"each learns for {options.seconds:.0f} s, planning and laying out not counted; {TOKENS} positions a batch in one-pass"
    )
    publish("bench_objective", rows, options, notes)


def one(name: str, file: Path, variant: tuple[str, ...], options: argparse.Namespace) -> Piece:
    """One variant on one file."""
    config = load_config("quick", [f"training.token_budget={TOKENS}", *variant])
    settings = {
        "seconds": options.seconds,
        "threads": options.threads,
        "config": config.model_dump(mode="json"),
        "file": [file.name, file.stat().st_size],
    }
    return piece(name, settings, options, lambda: learn(_read(file, config), config, options.seconds))


def learn(data: Prepared, config: Config, seconds: float) -> dict[str, Any]:
    """Train for some seconds; validation NDCG@10 at moments on the way."""
    _warm_up(data, config)
    model = make_model(config, len(data.catalog))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate, fused=True)
    sample = _sample(data.split.validation, VALIDATED, config.training.seed)
    due = list(moments(seconds))
    course: list[dict[str, float]] = []
    tokens = targets = 0
    spent = 0.0
    for step, (batch, read) in enumerate(batches(data, config)):
        began = time.perf_counter()
        _step(model, optimizer, batch, config, step)
        spent += time.perf_counter() - began
        tokens += read
        targets += len(batch.targets)
        if spent >= due[0]:
            ndcg = evaluate(model, data.histories, sample, cutoffs=(10,)).ndcg[10]
            course.append({"seconds": spent, "steps": step + 1, "tokens": tokens, "targets": targets, "ndcg": ndcg})
            due = [moment for moment in due if moment > spent]
            if not due:
                break
    cost = pass_cost(data.split.train, config.training)
    return {"course": course, "tokens_a_pass": cost.tokens, "targets_a_pass": cost.targets, "tuned": len(sample)}


def batches(data: Prepared, config: Config) -> Iterator[tuple[TrainingBatch, int]]:
    """Pass after pass, as training lays them out; and how many events each batch reads."""
    for epoch in count():
        plan = plan_pass(data.split.train, config.training, epoch)
        for placed in plan.batches:
            packed = materialize_batch(data.histories, plan.examples, placed)
            yield prepare_batch(packed, config.training), int(plan.examples.lengths[placed.rows].sum())


def moments(seconds: float) -> Iterator[float]:
    """When to validate, in seconds of learning; the last is the end."""
    for power in range(int(np.log(EARLIEST) / np.log(FACTOR)), -1, -1):
        yield seconds / FACTOR**power


def seconds_to(course: list[dict[str, float]], ndcg: float) -> float:
    """Seconds of learning until validation reaches `ndcg`: linear between two moments."""
    before = {"seconds": 0.0, "ndcg": 0.0}
    for point in course:
        if point["ndcg"] >= ndcg:
            share = (ndcg - before["ndcg"]) / (point["ndcg"] - before["ndcg"])
            return before["seconds"] + share * (point["seconds"] - before["seconds"])
        before = point
    return float("inf")


def compare(data: str, results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a variant; those of the prefixes with their ratio to one pass."""
    one_pass = [result for variant, result in results.items() if variant.startswith("all-positions")]
    return [_row(data, variant, result, one_pass) for variant, result in results.items()]


def _row(data: str, variant: str, result: dict[str, Any], one_pass: list[dict[str, Any]]) -> dict[str, Any]:
    last, best = result["course"][-1], _best(result)
    passes = last["tokens"] / result["tokens_a_pass"]
    row = {
        "data": data,
        "objective": variant,
        "tokens a pass": f"{result['tokens_a_pass']:,}",
        "targets a step": f"{last['targets'] / last['steps']:.0f}",
        "us a token": f"{last['seconds'] / last['tokens'] * 1e6:.0f}",
        "s a pass": f"{_pass_seconds(result):,.0f}" + (" (extrapolated)" if passes < 1 else ""),
        "s learned": f"{last['seconds']:.0f}",
        "passes": f"{passes:.3g}",
        "NDCG@10 then": f"{last['ndcg']:.4f}",
        "best": f"{best:.4f}",
    }
    if not one_pass or variant.startswith("all-positions"):
        return row
    level = min(best, max(map(_best, one_pass)))
    theirs = seconds_to(result["course"], level)
    ours, first = min(((seconds_to(each["course"], level), each) for each in one_pass), key=lambda pair: pair[0])
    return {
        **row,
        "tokens, times one pass": f"{result['tokens_a_pass'] / first['tokens_a_pass']:.0f}",
        "s a pass, times": f"{_pass_seconds(result) / _pass_seconds(first):.1f}",
        "equal NDCG@10": f"{level:.4f}",
        "s to it": f"{theirs:.1f}",
        "one pass": f"{ours:.1f}",
        "times": f"{theirs / ours:.1f} (goal: {TARGETS[data]})",
    }


def _best(result: dict[str, Any]) -> float:
    return float(max(point["ndcg"] for point in result["course"]))


def _pass_seconds(result: dict[str, Any]) -> float:
    last = result["course"][-1]
    return float(last["seconds"] / last["tokens"] * result["tokens_a_pass"])


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: TrainingBatch, config: Config, step: int) -> None:
    """As the training loop does it."""
    torch.manual_seed((config.training.seed << 32) + step)
    optimizer.zero_grad()
    next_item_loss(model, batch, config.training).backward()
    optimizer.step()


def _warm_up(data: Prepared, config: Config) -> None:
    model = make_model(config, len(data.catalog))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for step, (batch, _) in zip(range(2), batches(data, config), strict=False):
        _step(model, optimizer, batch, config, step)


def _read(file: Path, config: Config) -> Prepared:
    return prepare(read_interactions(file), None, config)


def _sample(examples: Examples, rows: int, seed: int) -> Examples:
    """Some of the examples, the same for every objective."""
    if len(examples) <= rows:
        return examples
    return examples.take(np.sort(np.random.default_rng(seed).permutation(len(examples))[:rows]))


def _course(of: Piece) -> str:
    course = ", ".join(f"{point['ndcg']:.4f} at {point['seconds']:.1f} s" for point in of.result["course"])
    return f"validation NDCG@10 of {of.result['validated']} users: {course}; measured {of.measured}"


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the files; or $SSD4REC_DATA")
    parser.add_argument("--seconds", type=float, default=150, help="of learning, for each piece")


if __name__ == "__main__":
    main()
