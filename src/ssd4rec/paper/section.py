"""One study on one data set as results.json holds it: a row a point, means over seeds, the published figure beside."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssd4rec._io import escaped
from ssd4rec.data.sequences import Kept
from ssd4rec.paper.budgets import Budget
from ssd4rec.paper.compare import against_best, against_start, against_whole
from ssd4rec.paper.origins import learnt_otherwise, recipe_of, reduced
from ssd4rec.paper.published import PUBLISHED, Published, highest_published, published_row
from ssd4rec.paper.rows import (
    Costs,
    Failed,
    Figures,
    Finished,
    Missing,
    Protocol,
    PublishedRow,
    Row,
    Section,
    Seed,
    Spread,
    StoredBudget,
    Ties,
    WithFusion,
)
from ssd4rec.paper.runs import COUNTED_IN, FAILURE, Part, Run, counted_in, result_of
from ssd4rec.paper.studies import STUDIES, WIRINGS, Point


def make_section(part: Part, budget: Budget, out: Path) -> Section:
    """All that the report says of a study on a data set; what is not finished is there without figures."""
    counted = out / COUNTED_IN / next((run.counted for _, run in part.runs), "")
    not_learnt = counted_in(counted)
    rows = [_row(point, part, budget, out, not_learnt) for point in part.points]
    finished = [seed for row in rows for seed in row.finished]
    first = result_of(out / "runs" / finished[0].key) if finished else None
    if part.study == "accuracy":
        rows = against_best(rows, out, counted)
    if part.study == "ablation":
        rows = against_whole(rows, out)
        rows.append(_padded(rows))
    if STUDIES[part.study].axis is not None:
        rows = against_start(rows, out)
    beside = {"ssd4rec" if row.model in WIRINGS else row.model for row in rows if row.published}
    known = _known_to_print(part)
    others = PUBLISHED.get(known or "", {}) if part.study == "accuracy" else {}
    epochs = max((seed.epochs or 0 for seed in finished), default=0)
    return Section(
        source=escaped(part.data.source),
        command=escaped(part.command),
        known=part.data.known,
        fingerprint=part.data.fingerprint,
        kept=Kept(**part.data.description["kept"]),
        data_notes=tuple(part.data.description["read"]["notes"]),
        tie_order=Ties(**part.data.description["tie_order"]),
        longer={length: part.data.longer[length] for length in _lengths(part) if length in part.data.longer},
        budget=StoredBudget(**asdict(budget) | {"name": budget.label}),
        reduced=reduced(part.data.known, budget, epochs, learnt_otherwise(part.points)),
        without=part.without,
        axis=STUDIES[part.study].axis,
        protocol=Protocol(**first["protocol"]) if first else None,
        versions=first["versions"] if first else None,
        device=first["efficiency"]["device"] if first else None,
        jobs=max((seed.jobs for seed in finished), default=1),
        rows=tuple(rows),
        highest_published=highest_published(known, exclude_seen=_excludes(part.points)) if part.study == "accuracy" else None,
        highest_published_seen_removed=highest_published(known, exclude_seen=True) if part.study == "accuracy" else None,
        published_only={name: _published(row) for name, row in others.items() if name not in beside},
    )


def _lengths(part: Part) -> list[int]:
    """What histories are truncated to."""
    found = {config.data.max_length for point in part.points for config in point.configs}
    return sorted(length for length in found if length is not None)


def _known_to_print(part: Part) -> str | None:
    """The data set whose published figures stand under this protocol: all are of the last event left out."""
    split = {config.data.split for point in part.points for config in point.configs}
    return part.data.known if split <= {"leave-last-out"} else None


def _row(point: Point, part: Part, budget: Budget, out: Path, not_learnt: Mapping[str, Any]) -> Row:
    runs = [Run(part.data, config) for config in point.configs]
    seeds = [(run, out / "runs" / run.key, result_of(out / "runs" / run.key)) for run in runs]
    results = [result for *_, result in seeds if result is not None]
    measured = [not_learnt[point.model]] if point.model in not_learnt else results
    known = _known_to_print(part) if point.label in (point.model, "SSD4Rec") else None
    published = published_row(known, point.model, exclude_seen=_excludes([point]))
    return Row(
        label=point.label,
        model=point.model,
        x=point.x,
        metrics=_figures(measured, "test"),
        seen_removed=_figures(measured, "seen_removed"),
        with_fusion=_with_fusion([each["with_fusion"] for each in measured if "with_fusion" in each]),
        costs=_costs(results),
        parameters=results[0]["model"]["parameters"] if results else None,
        settings=point.configs[0].model_dump(mode="json") if point.configs else None,
        recipe=recipe_of(point, part.data.known, budget),
        published=_published(published) if published else None,
        seeds=tuple(_seed(*each) for each in seeds),
    )


def _seed(run: Run, folder: Path, result: Mapping[str, Any] | None) -> Seed:
    seed = run.config.training.seed
    if result is not None:
        return Finished(
            seed=seed,
            key=run.key,
            state="finished",
            test=result["test"],
            best_epoch=result["training"]["best_epoch"],
            epochs=result["efficiency"]["epochs"],
            jobs=result["efficiency"].get("jobs", 1),
            device=result["efficiency"]["device"],
            targets=result["protocol"]["targets"],
            commit=result.get("commit"),  # an earlier version did not keep it
        )
    if (folder / FAILURE).is_file():
        return Failed(seed=seed, key=run.key, state="failed", why=(folder / FAILURE).read_text(encoding="utf-8"))
    return Missing(seed=seed, key=run.key, state="missing")


def _costs(results: Sequence[Mapping[str, Any]]) -> Costs:
    costs = {}
    for name in Costs.model_fields:
        values = [value for each in results if (value := each["efficiency"].get(name)) is not None]
        costs[name] = statistics.median(values) if values else None
    return Costs(**costs)


def _figures(found: Sequence[Mapping[str, Any]], kind: str) -> Figures:
    """Mean and spread of each metric over seeds; nothing where nothing was measured."""
    return {name: Spread.of([each[kind][name] for each in found]) for name in (found[0].get(kind, ()) if found else ())}


def _with_fusion(found: Sequence[Mapping[str, Any]]) -> WithFusion | None:
    if not found:
        return None
    return WithFusion(
        metrics=_figures(found, "test"),
        seen_removed=_figures(found, "seen_removed"),
        rules=tuple(each["cooccurrence"] for each in found),
        repeat_bias=tuple(each["repeat_bias"] for each in found),
    )


def _published(row: Published) -> PublishedRow:
    note = "; seen items excluded" if row.exclude_seen else ""
    return PublishedRow(figures=row.figures, grade=row.grade, source=f"{row.source}{note}")


def _excludes(points: Sequence[Point]) -> bool:
    return next((point.configs[0].evaluation.exclude_seen for point in points if point.configs), False)


def _padded(rows: Sequence[Row]) -> Row:
    """The whole model again with the time of padded inference; its figures are the same by construction."""
    whole = next(row for row in rows if row.label == "SSD4Rec")
    costs = dict.fromkeys(Costs.model_fields) | {"inference_seconds": whole.costs.padded_inference_seconds}
    label = "padded instead of packed (inference)"
    other = {"label": label, "published": None, "costs": Costs(**costs), "settings": None, "seeds": ()}
    return whole.model_copy(update=other)
