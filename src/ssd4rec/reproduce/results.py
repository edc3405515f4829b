"""What results.json holds: for each study and data set one row a point, means over seeds, the published figure beside."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

from ssd4rec.config import DataConfig, EvaluationConfig, Seen, presets
from ssd4rec.errors import DataError
from ssd4rec.reproduce.budgets import BUDGETS, Budget
from ssd4rec.reproduce.compare import add_tests, add_worth
from ssd4rec.reproduce.published import PUBLISHED, Published, highest_published, published_row
from ssd4rec.reproduce.recipes import RECIPES
from ssd4rec.reproduce.runs import COUNTED_IN, FAILURE, RESULT, Part, Run, commit, counted_in, result_of
from ssd4rec.reproduce.studies import STUDIES, WIRINGS, Point

RESULTS = "results.json"
FORMAT = 4  # of results.json
SECTION = ("source", "known", "kept", "budget", "reduced", "axis", "protocol", "versions", "device", "rows")  # of any version
PROTOCOL = frozenset(
    f"{group}.{key}"
    for group, settings in (("data", DataConfig), ("evaluation", EvaluationConfig))
    for key in settings.model_fields
    if f"{group}.{key}" not in ("data.user", "data.item", "data.time", "evaluation.token_budget")
)
COSTS = ("seconds_an_epoch", "seconds_to_best", "inference_seconds", "padded_inference_seconds", "peak_memory", "peak_gpu_memory")


def summarise(parts: Sequence[Part], budget: Budget, out: Path) -> dict[str, Any]:
    """The parts of this sweep as far as they are finished, and what an earlier one left in the folder.

    Raises:
        DataError: results.json is of another version, or not of this program, or a run's files are damaged.
    """
    studies = earlier(out)
    for part in parts:
        sections = studies.setdefault(part.study, {})
        name, section = _name(part, sections), _part(part, budget, out)
        if _finished(section) or not _finished(sections.get(name)):  # figures stay until there are others
            sections[name] = section
    return {
        "format": FORMAT,
        "commit": commit(),  # that summarised it; each run has its own
        "studies": {name: studies[name] for name in STUDIES if name in studies},
    }


def refuse_what_would_be_lost(parts: Sequence[Part], out: Path) -> None:
    """A section is replaced only where its runs lie beside it, so that its command can bring it back.

    Raises:
        DataError: one has figures whose runs are not in the folder.
    """
    studies = earlier(out)
    for part in parts:
        sections = studies.get(part.study, {})
        name = _name(part, sections)
        if not all((out / "runs" / key / RESULT).is_file() for key in _finished(sections.get(name))):
            raise DataError(
                f"{out / RESULTS} holds {part.study} on {name}, whose runs are not in {out / 'runs'}: writing over it would lose "
                "figures; choose another --out, or move the file away"
            )


def _finished(section: Mapping[str, Any] | None) -> set[str]:
    """The keys of the runs whose figures a section has."""
    rows = section["rows"] if section else []
    return {seed["key"] for row in rows for seed in row["seeds"] if seed["state"] == "finished"}


def _name(part: Part, sections: Mapping[str, Any]) -> str:
    """Of its section: the data, and what --set changed of the protocol. Other data of the same name keep theirs."""
    first = next((point for point in part.points if point.unset), None)
    changed = [f"{name}={_value(first, name)}" for name in _changed(first) if name in PROTOCOL] if first else []
    name = " ".join([part.data.name, *changed])
    there = sections.get(name)
    other = there is not None and there.get("source") != part.data.source and there.get("fingerprint") != part.data.fingerprint
    return " ".join([part.data.source, *changed]) if other else name


def earlier(out: Path) -> dict[str, Any]:
    """The studies that results.json holds; none: there is no such file.

    Raises:
        DataError: it is damaged, of another program, or of another version of this one.
    """
    path = out / RESULTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise DataError(f"{path} has format {found['format']}, this version writes {FORMAT}; move it away (runs stay)")
        studies: dict[str, Any] = found["studies"]
        for section in (section for sections in studies.values() for section in sections.values()):
            itemgetter(*SECTION)(section)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a result of reproduce ({error!r}); move it away, or choose another --out") from error
    return studies


def _part(part: Part, budget: Budget, out: Path) -> dict[str, Any]:
    rows = [_row(point, part, budget, out) for point in part.points]
    finished = [seed for row in rows for seed in row["seeds"] if seed["state"] == "finished"]
    first = result_of(out / "runs" / finished[0]["key"]) if finished else None
    counted = _add_counted(rows, part, out)
    if part.study == "accuracy":
        add_tests(rows, out, counted)
    if part.study == "ablation":
        add_worth(rows, out)
        rows.extend(_padded(rows))
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
        "budget": asdict(budget) | {"name": budget.label},
        "reduced": reduced(
            part.data.known, budget, max((seed["epochs"] for seed in finished), default=0), _learnt_otherwise(part)
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


def _known_to_print(part: Part) -> str | None:
    """The data set whose published figures stand under this protocol: all are of the last event left out."""
    split = {config.data.split for point in part.points for config in point.configs}
    return part.data.known if split <= {"leave-last-out"} else None


def _learnt_otherwise(part: Part) -> list[str]:
    """What --set changed of how rows are built or trained, and of which rows, where not of all."""
    learnt = [point for point in part.points if point.unset]
    found: dict[str, list[str]] = {}
    for point in learnt:
        for name in _changed(point):
            if not name.startswith(("data.", "evaluation.")):
                found.setdefault(name, []).append(point.label)
    return [name if len(of) == len(learnt) else f"{name} of {', '.join(of)}" for name, of in sorted(found.items())]


def reduced(known: str | None, budget: Budget, epochs: int, changed: Sequence[str] = ()) -> str | None:
    """Why the figures do not say what the paper's settings give; None: they do.

    Args:
        known: the named data set.
        budget: what the runs may cost.
        epochs: of the longest run; as many as the budget has: it was cut short, not ended by its validation.
        changed: settings of model and training that --set changed.
    """
    if budget.follows_paper and known not in presets():
        return "the paper has no settings for these data, so our recipes were taken"
    whole = BUDGETS["paper"]
    if not budget.follows_paper or budget.width < whole.width:
        return "reduced budget"
    if budget.width > whole.width:
        return f"the models are {budget.width} wide, the paper's {whole.width}"
    cut = epochs >= budget.epochs < whole.epochs
    if cut:
        return f"a run was cut short after {budget.epochs} epochs"
    return f"settings were changed ({', '.join(changed)})" if changed else None


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


def recipe_of(point: Point, known: str | None, budget: Budget) -> str | None:
    """Where the settings of a row come from, and which of them --set has changed."""
    if not point.configs or point.unset is None:
        return None
    config, changed = point.configs[0], _changed(point)
    if budget.follows_paper and config.backbone.name == "ssd4rec" and known in presets():
        source = "preset of the paper"
    else:
        source = RECIPES[config.backbone.name].source
        if known in presets() and "backbone.dropout" not in changed:
            source += ", with the dropout of the preset"
    if budget.one_pass and known in presets() and config.training.objective != "prefix":
        source += ", each history read once"
    return f"changed here ({', '.join(changed)}), the rest {source}" if changed else source


def _changed(point: Point) -> list[str]:
    """The settings that --set changed, but for the seed."""
    return [
        f"{group}.{key}"
        for group in ("data", "backbone", "training", "evaluation")
        for key, value in getattr(point.unset, group)
        if key != "seed" and value != _value(point, f"{group}.{key}")
    ]


def _value(point: Point, name: str) -> Any:
    group, _, key = name.partition(".")
    return getattr(getattr(point.configs[0], group), key)


def _costs(results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    costs = {}
    for name in COSTS:
        values = [each["efficiency"][name] for each in results if each["efficiency"][name] is not None]
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
    return [{**whole, "label": "padded instead of packed (inference)", "published": None, "costs": costs}]
