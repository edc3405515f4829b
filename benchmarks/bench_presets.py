"""Compare presets by the reports of models that `ssd4rec train` made: the network, the co-occurrence score, and both.

    ssd4rec train FILE --config PRESET --out RUNS/NAME      for each file and preset
    python benchmarks/bench_presets.py RUNS/*

adds them to `benchmarks/results/presets`. Test metrics are those of the reports: the whole catalog, leave-last-out, seen items
among the candidates. Validation NDCG@10 is that of the network, by which the best epoch was chosen.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from ssd4rec.config import load_config
from ssd4rec.config.toml import dump_config

OUT = Path(__file__).parent / "results" / "presets"
PRESETS = ("quick", "regularized", "wide", "ensemble")
PARTS = {"network": "model_alone", "co-occurrence": "fusion_alone"}  # names of the table and of the report


def main() -> None:
    """Read the reports, and write all rows and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="folders of trained models")
    options = parser.parse_args()
    results = OUT / "results.json"
    earlier = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else []
    by_run = {_run(each): each for each in [*earlier, *map(row, options.models)]}
    rows = sorted(by_run.values(), key=_place)
    OUT.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = f"{table(rows)}\n{seeds_table(rows)}"
    (OUT / "report.md").write_text(text, encoding="utf-8")
    print(text)


def _run(row: dict[str, Any]) -> tuple[str, str, str, int]:
    return row["data"], row["preset"], ", ".join(row["changes"]), row["seed"]


def _place(row: dict[str, Any]) -> tuple[str, str, int, int]:
    return row["data"], row["preset"], len(row["changes"]), row["seed"]


def row(folder: Path) -> dict[str, Any]:
    """Return what a model's report says, without paths."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    config = load_config(folder / "config.toml")
    preset, changes = nearest_preset(config)
    changes += ["item features"] if "features" in report["data"] else []
    fusion = report["fusion"]
    both = {name: report["test"][name] for name in ("ndcg@10", "hr@10")}
    parts = {name: {key: fusion[part][key] for key in both} for name, part in PARTS.items() if part in fusion}
    return {
        "data": Path(report["data"]["read"]["source"]).name.removesuffix(".gz").removesuffix(".inter"),
        "users": report["data"]["kept"]["users"],
        "items": report["data"]["kept"]["items"],
        "interactions": report["data"]["kept"]["interactions"],
        "preset": preset,
        "changes": changes,
        "seed": config.training.seed,
        "epochs": len(report["training"]["history"]),
        "best_epoch": report["training"]["best_epoch"],
        "validation": {"network": report["validation"]["ndcg@10"]},
        "test": {**parts, "both": both},
        "weights": {name: fusion[name] for name in ("cooccurrence", "cooccurrence_model", "repeat_bias")},
        "seconds": {name: round(seconds) for name, seconds in report["seconds"].items()},
        "versions": report["versions"],
    }


def nearest_preset(config: Any) -> tuple[str, list[str]]:
    """Return the preset from which the fewest settings differ, and these settings."""
    lines = set(_lines(config))
    candidates = {name: sorted(lines - set(_lines(load_config(name)))) for name in PRESETS}
    name = min(candidates, key=lambda each: len(candidates[each]))
    seed = f"training.seed = {config.training.seed}"
    return name, [each for each in candidates[name] if each != seed and not each.startswith("evaluation.baselines")]


def _lines(config: Any) -> list[str]:
    lines, group = [], ""
    for line in dump_config(config).splitlines():
        if line.startswith("["):
            group = line.strip("[]")
        elif line:
            lines.append(f"{group}.{line}")
    return lines


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "# Presets",
        "",
        "Test NDCG@10 / HR@10, whole catalog, leave-last-out, seen items among the candidates; `ssd4rec train`, one thread of a",
        "machine that other work shared, so that the seconds of training, of teachers too, are upper bounds.",
        "",
        "| data | preset | seed | network | co-occurrence | both | validation, network | best epoch | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in rows:
        parts = [_pair(each["test"].get(name)) for name in ("network", "co-occurrence", "both")]
        preset = each["preset"] + (f" ({', '.join(each['changes'])})" if each["changes"] else "")
        seconds = sum(each["seconds"].get(name, 0) for name in ("teachers", "training"))
        lines.append(
            f"| {each['data']} | {preset} | {each['seed']} | {' | '.join(parts)} | {each['validation']['network']:.4f} | "
            f"{each['best_epoch']} of {each['epochs']} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


def seeds_table(rows: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation of NDCG@10 over the seeds as Markdown, for what was trained with several."""
    by_model: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for each in rows:
        by_model.setdefault(_run(each)[:3], []).append(each["test"])
    lines = ["| data | preset | seeds | network | sd | both | sd |", "|---|---|---:|---:|---:|---:|---:|"]
    for (data, preset, changes), tests in by_model.items():
        if len(tests) > 1:
            values = [[test.get(name, test["both"])["ndcg@10"] for test in tests] for name in ("network", "both")]
            cells = [f"{statistics.mean(each):.4f} | {statistics.stdev(each):.4f}" for each in values]
            lines.append(f"| {data} | {preset}{changes and f' ({changes})'} | {len(tests)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _pair(metrics: dict[str, float] | None) -> str:
    return "-" if metrics is None else f"{metrics['ndcg@10']:.4f} / {metrics['hr@10']:.4f}"


if __name__ == "__main__":
    main()
