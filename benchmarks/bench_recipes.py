"""Compare training recipes on several data sets: NDCG@10 with seen items among the candidates and without them.

Run: python benchmarks/bench_recipes.py FILE [FILE ...] --recipe quick --recipe regularized [--seed 2024 ...] [--out FOLDER]

Each run is preset quick with the changes of a recipe, without score fusion: the network alone. The best epoch is chosen by
validation NDCG@10 with seen items among the candidates; the test part is ranked once, under both protocols. Runs that
`results.json` of the folder holds already are not repeated, so the command can be stopped and started again.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from ssd4rec.config import load_config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.models.next_item import make_model
from ssd4rec.pipeline import Prepared, prepare
from ssd4rec.training.loop import fit

ALONE = ("fusion.cooccurrence=0.0", "fusion.repeat_bias=0.0")
SCHEDULE = (
    "training.token_budget=512",
    "training.mask_ratio=0.0",
    "training.schedule=cosine",
    "training.label_smoothing=0.1",
    "training.max_epochs=8",
)
REGULARIZED = (  # preset regularized as it was with a cosine schedule, before averaged weights
    *SCHEDULE,
    "backbone.norm_embedding=true",
    "backbone.norm_first=true",
    "backbone.dropout=0.0",
    "backbone.input_fade=0.7",
    "backbone.input_skip=true",
    "backbone.fade_skip_only=true",
    "backbone.input_dropout=0.5",
    "backbone.repeat_logits=recency",
)
WITHOUT_SKIP = (  # preset regularized before `input_skip`
    *SCHEDULE[:-1],
    "training.max_epochs=12",
    "backbone.norm_embedding=false",
    "backbone.norm_first=true",
    "backbone.input_fade=0.7",
    "backbone.input_dropout=0.3",
    "backbone.repeat_logits=recency",
)
SASREC = ("backbone.name=sasrec", "backbone.layers=1", *SCHEDULE)
RECIPES: dict[str, tuple[str, ...]] = {
    "quick": (),
    "small batches": (*SCHEDULE, "backbone.norm_embedding=false"),
    "regularized": REGULARIZED,
    "regularized, input dropout 0.3": (*REGULARIZED, "backbone.input_dropout=0.3"),
    "regularized, no input dropout": (*REGULARIZED, "backbone.input_dropout=0.0"),
    "regularized, no fade": (*REGULARIZED, "backbone.input_fade=0.0"),
    "regularized, the sum as input too": (*REGULARIZED, "backbone.fade_skip_only=false"),
    "regularized, no skip": (*REGULARIZED, "backbone.input_skip=false"),
    "regularized, no LayerNorm of the input": (*REGULARIZED, "backbone.norm_embedding=false"),
    "regularized, paper's norms": (*REGULARIZED, "backbone.norm_first=false"),
    "regularized, repeat bias": (*REGULARIZED, "backbone.repeat_logits=bias"),
    "regularized, no repeat logits": (*REGULARIZED, "backbone.repeat_logits=none"),
    "regularized, dropout 0.2": (*REGULARIZED, "backbone.dropout=0.2"),
    "before input skip": WITHOUT_SKIP,
    "sasrec": SASREC,
    "sasrec, regularized": (
        *SASREC,
        "backbone.dropout=0.0",
        "backbone.input_fade=0.7",
        "backbone.input_skip=true",
        "backbone.fade_skip_only=true",
        "backbone.input_dropout=0.5",
        "backbone.repeat_logits=recency",
    ),
}
CUTOFFS = (10, 20)


def main() -> None:
    """Run what is missing, and write results and report after each run."""
    options = _arguments()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.json"
    rows: list[dict[str, Any]] = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else []
    for seed in options.seed:
        for file in options.files:
            for recipe in options.recipe:
                name = file.name.removesuffix(".gz").removesuffix(".inter")
                if any((row["data"], row["recipe"], row["seed"]) == (name, recipe, seed) for row in rows):
                    continue
                rows.append({"data": name, "recipe": recipe, "seed": seed, **one(file, recipe, seed, options.set)})
                results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                (options.out / "report.md").write_text(report(rows), encoding="utf-8")
                print(json.dumps(rows[-1]), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="interaction files")
    parser.add_argument("--recipe", action="append", required=True, choices=RECIPES)
    parser.add_argument("--seed", action="append", type=int, default=None)
    parser.add_argument("--set", action="append", default=[], help="a setting on top of every recipe; noted in the results")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "accuracy-recipes")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.seed = options.seed or [2024]
    return options


def one(file: Path, recipe: str, seed: int, more: list[str]) -> dict[str, Any]:
    """Train once and rank validation and test."""
    settings = [*RECIPES[recipe], *ALONE, f"training.seed={seed}", *more]
    config = load_config("quick", settings)
    data = prepare(read_interactions(file), None, config)
    model = make_model(config, len(data.catalog))
    began, cpu = time.perf_counter(), time.process_time()
    training = fit(model, data.histories, data.split, config.training)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    parts = {part: _metrics(model, data, part) for part in ("validation", "test")}
    return {
        "settings": settings,
        "epochs": len(training.history),
        "best_epoch": training.best_epoch,
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
        "load": round(os.getloadavg()[0], 1),
        **parts,
    }


def _metrics(model: Any, data: Prepared, part: str) -> dict[str, dict[str, float]]:
    protocols = {"kept": False, "removed": True}
    return {
        name: evaluate(model, data.histories, getattr(data.split, part), cutoffs=CUTOFFS, exclude_seen=exclude_seen).as_dict()
        for name, exclude_seen in protocols.items()
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Return the tables as Markdown: one line a run."""
    lines = [
        "# Training recipes",
        "",
        "Each line is one run of `benchmarks/bench_recipes.py`: a preset with the changes of the recipe, the network alone.",
        "NDCG@10 / HR@10 with seen items among the candidates (kept) and without them (removed).",
        "The best epoch was chosen by validation NDCG@10, kept; the test part was ranked once.",
        "Command: `python benchmarks/bench_recipes.py FILE --recipe RECIPE`, with `--set` for what stands in parentheses.",
        "",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += [
            f"## {data}",
            "",
            "| recipe | seed | validation kept | validation removed | test kept | test removed | best epoch | CPU seconds |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            if row["data"] == data:
                cells = [_pair(row[part][name]) for part in ("validation", "test") for name in ("kept", "removed")]
                epochs, more = f"{row['best_epoch']} of {row['epochs']}", _more(row)
                lines.append(f"| {row['recipe']}{more} | {row['seed']} | {' | '.join(cells)} | {epochs} | {row['cpu_seconds']} |")
        lines.append("")
    lines += ["## Settings", ""]
    measured = dict.fromkeys(row["recipe"] for row in rows)
    lines += [f"* {name}: {' '.join(f'`{each}`' for each in RECIPES[name]) or 'the preset'}" for name in measured]
    return "\n".join(lines) + "\n"


def _pair(metrics: dict[str, float]) -> str:
    return f"{metrics['ndcg@10']:.4f} / {metrics['hr@10']:.4f}"


def _more(row: dict[str, Any]) -> str:
    common = {*RECIPES[row["recipe"]], *ALONE, f"training.seed={row['seed']}"}
    more = [each for each in row["settings"] if each not in common]
    return f" ({', '.join(more)})" if more else ""


if __name__ == "__main__":
    main()
