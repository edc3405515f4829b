"""Compare the co-occurrence models as the second part of score fusion, with networks that `ssd4rec train` made.

    python benchmarks/bench_fusion.py MODEL DATA [MODEL DATA …]

fits each co-occurrence model on the training set of each, tunes the weights of each fusion on the validation set, and writes
`benchmarks/results/fusion`. The network is the same in the rows of one data set and seed: nothing is trained. Test metrics: the
whole catalog, the split of the model's settings, seen items as its settings say. `benefit` is what the fusion adds to the mean
of 1 / log2(rank + 1) on the validation set, without a cutoff, by which the weights are chosen.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ssd4rec import pipeline
from ssd4rec._io import write_atomically
from ssd4rec.artifact import load_artifact
from ssd4rec.data.columns import columns_of, options_of
from ssd4rec.data.interactions import read_interactions
from ssd4rec.fusion import PAIR_MODELS

OUT = Path(__file__).parent / "results" / "fusion"
MODELS = tuple(PAIR_MODELS)


def main() -> None:
    """Tune the fusions, and write rows and table after each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL DATA", help="a folder of a trained model and its data")
    options = parser.parse_args()
    file = OUT / "results.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    for folder, source in zip(options.models[::2], options.models[1::2], strict=True):
        for new in measure(folder, source):
            rows = [row for row in rows if (row["data"], row["seed"], row["part"]) != (new["data"], new["seed"], new["part"])]
            rows = sorted([*rows, new], key=lambda row: (row["data"], row["seed"], MODELS.index(row["part"])))
            OUT.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(rows, indent=1) + "\n")
            write_atomically(OUT / "report.md", table(rows))
    print(table(rows))


def measure(folder: Path, source: Path) -> list[dict[str, Any]]:
    """Return a row for each co-occurrence model."""
    artifact = load_artifact(folder)
    config, rows = artifact.config, []
    data = pipeline.prepare(read_interactions(source, columns_of(config.data), options_of(config.data)), None, config)
    for name in MODELS:
        changed = config.model_copy(
            update={"fusion": config.fusion.model_copy(update={"cooccurrence": "tuned", "cooccurrence_model": name})}
        )
        began = time.monotonic()
        tuned = pipeline.tune(artifact.model, data, changed)
        assert tuned is not None
        seconds = time.monotonic() - began
        comparison = pipeline.compare(artifact.model, data, changed, artifact.training_counts, tuned.fusion)
        alone, both = (
            {"ndcg@10": ranking.ndcg[10], "hr@10": ranking.hit_rate[10]}
            for ranking in (comparison.model_alone or comparison.model, comparison.model)
        )
        rows.append(
            {
                "data": source.name.removesuffix(".gz").removesuffix(".inter"),
                "backbone": config.backbone.name,
                "seed": config.training.seed,
                "part": name,
                "weights": {"cooccurrence": tuned.fusion.weight, "repeat_bias": tuned.fusion.repeat_bias},
                "benefit": dict(zip(("mean", "low", "high"), tuned.gain, strict=True)),
                "validation": {"network": tuned.alone, "both": tuned.ndcg},
                "test": {"network": alone, "both": both},
                "seconds": round(seconds),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "# The co-occurrence models as the second part of score fusion",
        "",
        "Preset `regularized`, one network for each data set and seed; NDCG@10, and on the test set also HR@10. Seconds of",
        "fitting and tuning on one thread of a machine that other work shared: upper bounds.",
        "",
        "| data | seed | second part | weight | repeat bias | benefit (95 %) | validation: network | both |"
        " test: network | both | seconds |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        mean, low, high = (row["benefit"][name] for name in ("mean", "low", "high"))
        network, both = (f"{row['test'][name]['ndcg@10']:.4f} / {row['test'][name]['hr@10']:.4f}" for name in ("network", "both"))
        lines.append(
            f"| {row['data']} | {row['seed']} | {row['part']} | {row['weights']['cooccurrence']:g} | "
            f"{row['weights']['repeat_bias']:g} | {mean:.4f} ({low:.4f} to {high:.4f}) | {row['validation']['network']:.4f} | "
            f"{row['validation']['both']:.4f} | {network} | {both} | {row['seconds']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
