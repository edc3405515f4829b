"""Measure item features: metrics of rare items, and of items that are left out of training.

Run: python benchmarks/bench_item_features.py INTERACTIONS ITEMS [--seed 2024 ...] [--set training.max_epochs=10 ...]

A tenth of the items is left out of the training interactions. Three models are trained on the rest, without score fusion:
without features, with features, and with features and `features.id_dropout = 0.2`. All are ranked on the same targets:

all      the last event of each user that is not a new item, as in training
rare     those of them with 1 to 9 training events
new      the last event of each user with a new item, after the events before it; candidates are all items
among    the same targets, candidates are the new items alone

The model without features cannot rank new items: all of them are misses.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from ssd4rec import pipeline
from ssd4rec.array_types import CuSeqlens, Items, Scores
from ssd4rec.artifact import Artifact
from ssd4rec.config import Config, load_config
from ssd4rec.data.interactions import Interactions, read_interactions
from ssd4rec.data.sequences import build_sequences
from ssd4rec.data.split import drop_unknown_items, make_split
from ssd4rec.evaluation.evaluate import RARE, evaluate
from ssd4rec.evaluation.metrics import hit_rate, ndcg
from ssd4rec.evaluation.scoring import score_states

ARMS: dict[str, tuple[str, ...] | None] = {
    "without features": None,
    "features": (),
    "features, id dropout 0.2": ("features.id_dropout=0.2",),
}
ALONE = ("fusion.cooccurrence=0.0", "fusion.repeat_bias=0.0", "evaluation.exclude_seen=true")


def main() -> None:
    """Train and measure each arm; print a line each and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interactions", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--share", type=float, default=0.1, help="of the items that are left out of training")
    parser.add_argument("--out", type=Path, help="a JSON file; earlier rows in it stay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out and options.out.is_file() else []
    for seed in options.seed or [2024]:
        for arm, settings in ARMS.items():
            config = load_config("quick", [*ALONE, *options.set, *(settings or ()), f"training.seed={seed}"])
            began = time.process_time()
            row = measure(options.interactions, None if settings is None else options.items, options.share, seed, config)
            name = options.interactions.name.partition(".")[0]
            about = {"data": name, "arm": arm, "seed": seed, "settings": options.set, "share": options.share}
            rows.append({**about, **row, "cpu_seconds": round(time.process_time() - began)})
            print(json.dumps(rows[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(file: Path, items: Path | None, share: float, seed: int, config: Config) -> dict[str, Any]:
    """Train on the interactions without the new items, and rank the three kinds of targets."""
    interactions = read_interactions(file)
    new_items = choose_new(interactions, share, seed)
    is_new = pl.col("item").is_in(new_items.implode())
    data = pipeline.prepare(part(interactions, ~is_new), None, config)
    if items is not None:
        data = pipeline.add_features(data, items, config)
    artifact = pipeline.train(data, config)
    artifact.model.cpu().eval()
    counts = artifact.training_counts
    # the item table has the new items too, so all models rank the same candidates but the first
    ranking = pipeline.evaluate(artifact.model, data, config, counts)
    target = data.histories.items[data.split.test.first_target]
    rare = ranking.ranks[(counts[target] > 0) & (counts[target] < RARE)]
    return {"all": metrics(ranking.ranks), "rare": metrics(rare), **of_new_items(artifact, interactions, is_new, config)}


def choose_new(interactions: Interactions, share: float, seed: int) -> pl.Series:
    """Return a random share of the items with five events or more."""
    counts = interactions.table.group_by("item").len().filter(pl.col("len") >= 5).sort("item")
    places = np.random.default_rng(seed).permutation(len(counts))[: round(share * len(counts))]
    return counts["item"].gather(places)


def part(interactions: Interactions, rows: pl.Expr) -> Interactions:
    """Return some of the rows."""
    return Interactions(interactions.table.filter(rows), interactions.read)


class NewItemsOnly:
    """A model that ranks new items alone."""

    def __init__(self, artifact: Artifact) -> None:
        self.model, self.catalog_size = artifact.model, artifact.model.catalog_size
        self.trained = artifact.features.trained if artifact.features else self.catalog_size

    def score_blocks(self, items: Items, cu_seqlens: CuSeqlens) -> Iterator[tuple[slice, Scores]]:
        """Yield scores of packed sequences, a few rows at a time; those of trained items are below all others."""
        for rows, scores in score_states(self.model, self.model.encode(items, cu_seqlens), (items, cu_seqlens)):
            scores[:, : self.trained] = -1e9
            yield rows, scores


def of_new_items(artifact: Artifact, interactions: Interactions, is_new: pl.Expr, config: Config) -> dict[str, Any]:
    """Cut each history after its last event with a new item, which is the target, and rank it."""
    ordered = interactions.table.with_row_index("row").sort("user", "time", "row")
    place = pl.int_range(pl.len()).over("user")
    last = pl.when(is_new).then(place).max().over("user")
    cut = Interactions(ordered.filter(place <= last).drop("row"), interactions.read)
    sequences, _ = build_sequences(cut, tie_order=config.data.tie_order, catalog=artifact.catalog)
    targets = drop_unknown_items(sequences, make_split(sequences, config.data, learned=False).test)
    if artifact.features is None:
        return {"new": metrics(np.full(targets.unknown_targets, np.iinfo(np.int64).max))}
    arguments = (targets.sequences, targets.targets)
    return {
        "new": metrics(evaluate(artifact.model, *arguments, exclude_seen=True).ranks),
        "among": metrics(evaluate(NewItemsOnly(artifact), *arguments).ranks),
        "new_items": len(artifact.catalog) - artifact.features.trained,
    }


def metrics(ranks: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, float]:
    """Return the number of targets, NDCG@10 and HR@10."""
    return {"targets": len(ranks), "ndcg@10": ndcg(ranks, 10), "hr@10": hit_rate(ranks, 10)}


if __name__ == "__main__":
    main()
