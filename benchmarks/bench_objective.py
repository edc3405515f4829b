"""How much sooner does one pass over each history teach what one example for every prefix teaches?

Run: python benchmarks/bench_objective.py [--only games ...] [--seconds 240] [--threads 2] [--save]

The same model (preset quick: D = 64, one layer, where "top" and "all" are the same wiring), seed, learning rate and tokens a batch; both
objectives learn for the same seconds, validation apart, which is made at moments that grow by a factor. A pass that is not
finished has read a random part of its batches, so its seconds follow from the tokens that were read.
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
from pieces import SHARED, Piece, add_options, chosen, piece
from ssd4rec.config import Config, load_config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.packing import PackedBatch, lay_end_to_end
from ssd4rec.data.split import Examples
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.experiment import Prepared, make_model, prepare
from ssd4rec.training.objective import cost_of_pass, next_item_loss, plan_pass

FILES = {"games": "amazon-video-games.inter.gz", "ml-1m": "ml-1m.inter.gz", "beauty": "amazon-beauty.inter.gz"}
TARGETS = {"games": 4, "ml-1m": 50, "beauty": 4}  # times less time to equal NDCG@10: PERFORMANCE.md, section 6
OBJECTIVES = ("one-pass", "prefix")
FACTOR, EARLIEST = 1.5, 150  # moments of validation: the last is the end, the first at 1 / 150 of it
VALIDATED = 2000  # users, the same for both objectives


def main() -> None:
    """Measure what is asked for, print the table."""
    options = arguments(__doc__, _add_options)
    rows, notes = [], []
    for name in chosen(list(FILES), options.only):
        file = options.data / FILES[name]
        if not file.is_file():
            notes.append(f"{name}: left out, there is no {file}; name its folder with --data")
            continue
        pieces = {objective: one(name, file, objective, options) for objective in OBJECTIVES}
        rows += compare(name, pieces)
        notes += [f"{name} {objective}: {_course(each)}" for objective, each in pieces.items()]
    notes.append(
        f"each objective learns for {options.seconds:.0f} s, {options.tokens} tokens a batch; planning a pass is not counted"
    )
    publish("bench_objective", rows, options, notes)


def one(name: str, file: Path, objective: str, options: argparse.Namespace) -> Piece:
    """One objective on one file."""
    config = load_config("quick", [f"training.objective={objective}", f"training.token_budget={options.tokens}"])
    settings = {
        "seconds": options.seconds,
        "threads": options.threads,
        "config": config.model_dump(mode="json"),
        "file": [file.name, file.stat().st_size],
    }
    return piece(f"{name}-{objective}", settings, options, lambda: learn(_read(file, config), config, options.seconds))


def learn(data: Prepared, config: Config, seconds: float) -> dict[str, Any]:
    """Train for some seconds; validation NDCG@10 at moments on the way."""
    _warm_up(data, config)
    model = make_model(config, len(data.catalogue))
    optimiser = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate, fused=True)
    asked = _sample(data.split.validation, VALIDATED, config.training.seed)
    due = list(moments(seconds))
    course: list[dict[str, float]] = []
    tokens = targets = 0
    spent = 0.0
    for step, batch in enumerate(batches(data, config)):
        began = time.perf_counter()
        _step(model, optimiser, batch, config, step)
        spent += time.perf_counter() - began
        tokens += len(batch.items)
        targets += len(batch.boundaries) - 1 if config.training.objective == "prefix" else int(batch.targets.count_nonzero())
        if spent >= due[0]:
            ndcg = evaluate(model, data.histories, asked, cutoffs=(10,)).ndcg[10]
            course.append({"seconds": spent, "steps": step + 1, "tokens": tokens, "targets": targets, "ndcg": ndcg})
            due = [moment for moment in due if moment > spent]
            if not due:
                break
    cost = cost_of_pass(data.split.train, config.training)
    return {"course": course, "tokens_a_pass": cost.tokens, "targets_a_pass": cost.targets, "validated": len(asked)}


def batches(data: Prepared, config: Config) -> Iterator[PackedBatch]:
    """Pass after pass, as training lays them out."""
    for epoch in count():
        plan = plan_pass(data.split.train, config.training, epoch)
        for rows in plan.batches:
            yield lay_end_to_end(data.histories, plan.examples, rows)


def moments(seconds: float) -> Iterator[float]:
    """When to validate, in seconds of learning; the last is the end."""
    for power in range(int(np.log(EARLIEST) / np.log(FACTOR)), -1, -1):
        yield seconds / FACTOR**power


def seconds_to(course: list[dict[str, float]], ndcg: float) -> float:
    """Seconds of learning until validation reaches `ndcg`: linear between the moment before and the moment at which it was seen."""
    before = {"seconds": 0.0, "ndcg": 0.0}
    for point in course:
        if point["ndcg"] >= ndcg:
            share = (ndcg - before["ndcg"]) / (point["ndcg"] - before["ndcg"])
            return before["seconds"] + share * (point["seconds"] - before["seconds"])
        before = point
    return float("inf")


def compare(name: str, pieces: dict[str, Piece]) -> list[dict[str, Any]]:
    """A row an objective; the second with the ratios."""
    results = {objective: each.result for objective, each in pieces.items()}
    level = min(max(point["ndcg"] for point in result["course"]) for result in results.values())
    rows = []
    for objective, result in results.items():
        last = result["course"][-1]
        token = last["seconds"] / last["tokens"]
        passes = last["tokens"] / result["tokens_a_pass"]
        rows.append(
            {
                "data": name,
                "objective": objective,
                "tokens a pass": f"{result['tokens_a_pass']:,}",
                "us a token": f"{token * 1e6:.0f}",
                "s a pass": f"{token * result['tokens_a_pass']:,.0f}" + (" (extrapolated)" if passes < 1 else ""),
                "s learnt": f"{last['seconds']:.0f}",
                "passes": f"{passes:.3g}",
                "NDCG@10 then": f"{last['ndcg']:.4f}",
                "best": f"{max(point['ndcg'] for point in result['course']):.4f}",
                "s to equal NDCG@10": f"{seconds_to(result['course'], level):.1f}",
            }
        )
    one, every = (results[objective] for objective in OBJECTIVES)
    ratio = seconds_to(every["course"], level) / seconds_to(one["course"], level)
    seconds = [
        result["course"][-1]["seconds"] / result["course"][-1]["tokens"] * result["tokens_a_pass"] for result in (one, every)
    ]
    rows[1]["times one pass: tokens"] = f"{every['tokens_a_pass'] / one['tokens_a_pass']:.0f}"
    rows[1]["s a pass, ratio"] = f"{seconds[1] / seconds[0]:.1f}"
    rows[1]["s to equal NDCG@10, ratio"] = f"{ratio:.1f} at {level:.4f} (asked for: {TARGETS[name]})"
    return rows


def _step(model: torch.nn.Module, optimiser: torch.optim.Optimizer, batch: PackedBatch, config: Config, step: int) -> None:
    """As `training.module` does it."""
    torch.manual_seed((config.training.seed << 32) + step)
    optimiser.zero_grad()
    next_item_loss(model, batch, config.training).backward()
    optimiser.step()


def _warm_up(data: Prepared, config: Config) -> None:
    model = make_model(config, len(data.catalogue))
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    for step, batch in zip(range(2), batches(data, config), strict=False):
        _step(model, optimiser, batch, config, step)


def _read(file: Path, config: Config) -> Prepared:
    return prepare(read_interactions(file), None, config)


def _sample(examples: Examples, rows: int, seed: int) -> Examples:
    """Some of the examples, the same for every objective."""
    if len(examples) <= rows:
        return examples
    kept = np.sort(np.random.default_rng(seed).permutation(len(examples))[:rows])
    return Examples(examples.user[kept], examples.start[kept], examples.first_target[kept], examples.stop[kept])


def _course(of: Piece) -> str:
    course = ", ".join(f"{point['ndcg']:.4f} at {point['seconds']:.1f} s" for point in of.result["course"])
    return f"validation NDCG@10 of {of.result['validated']} users: {course}; measured {of.measured}"


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--data", type=Path, default=SHARED, help="the folder of the files")
    parser.add_argument("--seconds", type=float, default=240, help="of learning, for each objective")
    parser.add_argument("--tokens", type=int, default=4096, help="positions a batch")


if __name__ == "__main__":
    main()
