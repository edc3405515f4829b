"""One study on one data set as results.json holds it: a row a point, means over seeds, the published figure beside."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssd4rec.config import Seen
from ssd4rec.reproduce.budgets import Budget
from ssd4rec.reproduce.compare import add_along, add_tests, add_worth
from ssd4rec.reproduce.origins import learnt_otherwise, recipe_of, reduced
from ssd4rec.reproduce.published import PUBLISHED, Published, highest_published, published_row
from ssd4rec.reproduce.runs import COUNTED_IN, FAILURE, Part, Run, counted_in, result_of
from ssd4rec.reproduce.studies import STUDIES, WIRINGS, Point

COSTS = (
    "seconds_an_epoch",
    "seconds_to_best",
    "inference_seconds",
    "padded_inference_seconds",
    "cpu_share",
    "peak_memory",
    "peak_gpu_memory",
)


def make_section(part: Part, budget: Budget, out: Path) -> dict[str, Any]:
    """All that the report says of a study on a data set; what is not finished is there without figures."""
    rows = [_row(point, part, budget, out) for point in part.points]
    finished = [seed for row in rows for seed in row["seeds"] if seed["state"] == "finished"]
    first = result_of(out / "runs" / finished[0]["key"]) if finished else None
    counted = _add_counted(rows, part, out)
    if part.study == "accuracy":
        add_tests(rows, out, counted)
    if part.study == "ablation":
        add_worth(rows, out)
        rows.extend(_padded(rows))
    if STUDIES[part.study].axis is not None:
        add_along(rows, out)
    beside = {"ssd4rec" if row["model"] in WIRINGS else row["model"] for row in rows if row["published"]}
    known = _known_to_print(part)
    others = PUBLISHED.get(known or "", {}) if part.study == "accuracy" else {}
    return {
        "source": part.data.source,
        "command": part.command,
        "known": part.data.known,
        "fingerprint": part.data.fingerprint,
        "kept": part.data.description["kept"],
        "data_notes": part.data.description["read"]["notes"],
        "same_time": part.data.description["same_time"],
        "longer": {str(length): part.data.longer[length] for length in _lengths(part) if length in part.data.longer},
        "budget": asdict(budget) | {"name": budget.label},
        "reduced": reduced(
            part.data.known, budget, max((seed["epochs"] for seed in finished), default=0), learnt_otherwise(part.points)
        ),
        "without": part.without,
        "axis": STUDIES[part.study].axis,
        "protocol": first["protocol"] if first else None,
        "versions": first["versions"] if first else None,
        "device": first["efficiency"]["device"] if first else None,
        "jobs": max((seed["jobs"] for seed in finished), default=1),
        "rows": rows,
        "highest_published": highest_published(known, _seen(part.points)) if part.study == "accuracy" else None,
        "highest_published_seen_removed": highest_published(known, "filtered") if part.study == "accuracy" else None,
        "published_only": {name: _published(row) for name, row in others.items() if name not in beside},
    }


def _lengths(part: Part) -> list[int]:
    """What histories are truncated to."""
    found = {config.data.max_length for point in part.points for config in point.configs}
    return sorted(length for length in found if length is not None)


def _known_to_print(part: Part) -> str | None:
    """The data set whose published figures stand under this protocol: all are of the last event left out."""
    split = {config.data.split for point in part.points for config in point.configs}
    return part.data.known if split <= {"leave-last-out"} else None


def _row(point: Point, part: Part, budget: Budget, out: Path) -> dict[str, Any]:
    seeds, results = [], []
    for config in point.configs:
        run = Run(part.data, config)
        folder = out / "runs" / run.key
        result = result_of(folder)
        seed: dict[str, Any] = {"seed": config.training.seed, "key": run.key, "state": "missing"}
        if result is not None:
            seed |= {
                "state": "finished",
                "test": result["test"],
                "best_epoch": result["course"]["best_epoch"],
                "epochs": result["efficiency"]["epochs"],
                "jobs": result["efficiency"].get("jobs", 1),
                "device": result["efficiency"]["device"],
                "targets": result["protocol"]["targets"],
                "commit": result.get("commit"),  # an earlier version did not keep it
            }
            results.append(result)
        elif (folder / FAILURE).is_file():
            seed |= {"state": "failed", "why": (folder / FAILURE).read_text(encoding="utf-8")}
        seeds.append(seed)
    known = _known_to_print(part) if point.label in (point.model, "SSD4Rec") else None
    return {
        "label": point.label,
        "model": point.model,
        "x": point.x,
        "metrics": _figures(results, "test"),
        "seen_removed": _figures(results, "seen_removed"),
        "with_prior": _with_prior([each["with_prior"] for each in results]),
        "costs": _costs(results),
        "parameters": results[0]["model"]["parameters"] if results else None,
        "settings": point.configs[0].model_dump(mode="json") if point.configs else None,
        "recipe": recipe_of(point, part.data.known, budget),
        "published": _published(published_row(known, point.model, _seen([point]))),
        "seeds": seeds,
    }


def _costs(results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    costs = {}
    for name in COSTS:
        values = [value for each in results if (value := each["efficiency"].get(name)) is not None]
        costs[name] = statistics.median(values) if values else None
    return costs


def _figures(found: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """Mean and spread of each metric over seeds; nothing where nothing was measured."""
    return {name: _spread([each[kind][name] for each in found]) for name in (found[0].get(kind, ()) if found else ())}


def _with_prior(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The same models with what is known without learning added to their scores, as each seed's validation chose."""
    if not found:
        return None
    return {
        "metrics": _figures(found, "test"),
        "seen_removed": _figures(found, "seen_removed"),
        "transitions": [each["transitions"] for each in found],
        "repeats": [each["repeats"] for each in found],
    }


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean and standard deviation (n - 1) over seeds."""
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None, "n": len(values)}


def _published(row: Published | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"figures": dict(row.figures), "grade": row.grade, "source": f"{row.source}; seen items {row.seen}"}


def _seen(points: Sequence[Point]) -> Seen:
    return next((point.configs[0].evaluation.seen for point in points if point.configs), "kept")


def _add_counted(rows: Sequence[dict[str, Any]], part: Part, out: Path) -> Path:
    """The rows of what is not learnt, and the folder of their ranks."""
    first = next((run for _, run in part.runs), None)
    folder = out / COUNTED_IN / (first.counted if first else "")
    found = counted_in(folder) if first else {}
    for row in rows:
        if figures := found.get(row["model"]):
            row["metrics"], row["seen_removed"] = _figures([figures], "test"), _figures([figures], "seen_removed")
            row["with_prior"] = _with_prior([figures["with_prior"]] if "with_prior" in figures else [])
    return folder


def _padded(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The whole model again with the time of padded inference; its figures are the same by construction."""
    whole = next(row for row in rows if row["label"] == "SSD4Rec")
    costs = dict.fromkeys(COSTS) | {"inference_seconds": whole["costs"]["padded_inference_seconds"]}
    return [
        {
            **whole,
            "label": "padded instead of packed (inference)",
            "published": None,
            "costs": costs,
            "settings": None,
            "seeds": [],
        }
    ]
