"""report.html, a page without other files, and report.md: both are rendered from the same tables and notes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from ssd4rec._io import as_json, write_atomically
from ssd4rec.paper.charts import draw_chart, lines_of, tick
from ssd4rec.paper.published import highest_published, published_rows
from ssd4rec.paper.recipes import BUDGETS
from ssd4rec.paper.results import BASELINES, Finished, Measured, Results, Row, Section, Spread, Unfinished
from ssd4rec.paper.studies import COMPARING, STUDIES
from ssd4rec.reports.rendering import Table, render_template

MIB = 1024 * 1024
FEW_SHORTENED = 0.01  # share of the users
FEW_TARGETS = 200
HEADLINE = ("ndcg@10", "hr@10")
VARIANT_NAMES = {"model": "alone", "model_exclude_seen": "alone, seen items excluded", "fusion": "with score fusion"}


def write_report(results: Results, out: Path) -> None:
    """Write report.md and report.html."""
    for name in ("report.md", "report.html"):
        write_atomically(out / name, render(results, name))


def render(results: Results, name: str) -> str:
    """Render a template of this package: report.md or report.html."""
    sections = sorted(results.sections, key=lambda section: list(STUDIES).index(section.study))
    blocks = [_block(section.arranged) for section in sections]
    return render_template(name, "ssd4rec.paper", blocks=blocks, draw_chart=draw_chart, commit=results.commit)


def _block(section: Section) -> dict[str, object]:
    """Return the parts of a section of the report."""
    headline, *tables = _tables(section)
    data, budget = section.data, section.budget
    return {
        "section": section,
        "title": f"{STUDIES[section.study].title}: {section.title}",
        "scope": (
            f"{data.users:,} users · {data.items:,} items · {data.interactions:,} interactions · width {budget.width} · at most "
            f"{_count(budget.epochs, 'epoch')} · {_count(budget.seeds, 'seed')} · seen items {_seen(section.excludes_seen)}"
            + (f" · settings of each network: best of {_count(budget.trials, 'trial')}" if budget.trials else "")
        ),
        "warnings": list(_warnings(section)),
        "notes": list(_notes(section)),
        "headline": headline,
        "tables": [table for table in tables if table.rows],
        "settings": list(_settings([row for row in section.rows if row.model not in BASELINES])),
    }


def _tables(section: Section) -> list[Table]:
    recipes = Table.of("Training settings", (_recipe(row) for row in section.rows if row.model not in BASELINES))
    costs = Table.of("Cost: median over seeds", map(_cost, section.rows))
    if section.study == "efficiency":
        return [costs, recipes]
    first = [_headline(section)]
    if lines_of(section, section.rows):
        first.insert(0, _lines(section))
    if section.study == "accuracy":
        first += [_published(section), _comparison(section), _fusion(section)]
    return [*first, *([costs] if _shows_costs(section) else []), _tests(section), _metrics(section), recipes]


def _shows_costs(section: Section) -> bool:
    return section.study in ("efficiency", "ablation") or bool(lines_of(section, section.rows))


def _lines(section: Section) -> Table:
    """NDCG@10 and training seconds of several models, one row for each point of the axis."""
    by_point: dict[float | None, dict[str, Row]] = {}
    for row in sorted(section.rows, key=lambda row: math.inf if row.x is None else row.x):
        by_point.setdefault(row.x, {})[row.model] = row

    def cells(row: Row | None) -> Iterator[str]:
        yield from _spread(row.test.get("ndcg@10") if row else None)
        for name in ("seconds_to_best", "seconds_per_epoch"):
            cost = row.cost(name) if row else None
            yield "-" if cost is None else f"{cost:,.1f}"

    axis, models = STUDIES[section.study].axis or "", list(lines_of(section, section.rows))
    columns = [f"{model}|{name}" for model in models for name in ("NDCG@10", "sd", "s to best", "s per epoch")]
    rows = [(tick(x), *(cell for model in models for cell in cells(of.get(model)))) for x, of in by_point.items()]
    return _without_empty_columns(Table(f"NDCG@10 and training seconds (s) by {axis}", (axis, *columns), tuple(rows)))


def _metric_table(title: str, kinds: Mapping[str, Measured], names: Sequence[str], rows: Sequence[Row]) -> Table:
    """Mean and standard deviation of some metrics of several kinds; at least of the first."""
    kinds = {name: kind for name, kind in kinds.items() if kind == "model" or any(row.summary(kind) for row in rows)}
    columns = [f"{kind}|{name}" for kind in kinds for metric in names for name in (metric.upper(), "sd")]
    cells = [
        (
            row.label,
            *(cell for kind in kinds.values() for name in names for cell in _spread(row.summary(kind).get(name))),
            _seeds(row),
        )
        for row in rows
    ]
    return _without_empty_columns(Table(title, ("", *columns, "seeds"), tuple(cells)))


def _without_empty_columns(table: Table) -> Table:
    """Leave out deviations of single seeds, and co-occurrence models that older results do not name."""
    filled = [name not in ("sd", "model") or any(row[i] != "-" for row in table.rows) for i, name in enumerate(table.names)]
    return table._replace(
        columns=tuple(compress(table.columns, filled)), rows=tuple(tuple(compress(row, filled)) for row in table.rows)
    )


def _headline(section: Section) -> Table:
    kinds: dict[str, Measured] = {f"seen items {_seen(section.excludes_seen)}": "model"}
    if not section.excludes_seen:
        kinds["seen items excluded"] = "model_exclude_seen"
    kinds["with score fusion"] = "fusion"
    return _metric_table("Test metrics: mean and standard deviation (sd) over seeds", kinds, HEADLINE, section.rows)


def _metrics(section: Section) -> Table:
    names = list(dict.fromkeys(name for row in section.rows for name in row.test))
    return _metric_table("All metrics of the models alone", {"": "model"}, names, section.rows)


def _fusion(section: Section) -> Table:
    kinds: dict[str, Measured] = {"seen items kept": "fusion", "seen items excluded": "fusion_exclude_seen"}
    rows = [row for row in section.rows if row.summary("fusion")]
    table = _metric_table("Score fusion, with weights tuned on the validation set", kinds, HEADLINE, rows)
    columns = (*table.columns[:-1], "weights|model", "weights|co-occurrence", "weights|repeat bias", "seeds")
    cells = tuple((*row[:-1], *_fusion_weights(of.finished), row[-1]) for row, of in zip(table.rows, rows, strict=True))
    return _without_empty_columns(Table(table.title, columns, cells))


def _fusion_weights(runs: Sequence[Finished]) -> list[str]:
    """Return co-occurrence model, weight and repeat bias, each with all values of the runs."""
    fusions = [run.fusion for run in runs if run.fusion]
    values = [(each.cooccurrence_model or "-", f"{each.cooccurrence:g}", f"{each.repeat_bias:g}") for each in fusions]
    return [", ".join(dict.fromkeys(of_all)) for of_all in zip(*values, strict=True)]


def _published(section: Section) -> Table:
    rows = (
        {
            "": row.model,
            **{name.upper(): _number(row.metrics.get(name)) for name in HEADLINE},
            "seen items": _seen(row.exclude_seen),
            "request time": "known" if row.request_time else "-",
            "seeds": str(row.seeds or "-"),
            "grade": row.grade,
            "source": row.source,
        }
        for row in published_rows(section.comparable_data)
    )
    return Table.of("Published results", rows)


def _comparison(section: Section) -> Table:
    rows = []
    for row in section.rows:
        for published in published_rows(section.comparable_data, row.model):
            same = published.exclude_seen == section.excludes_seen
            ours = row.test if same else row.summary("model_exclude_seen") if published.exclude_seen else {}
            rows += [
                {
                    "": row.label,
                    "metric": name.upper(),
                    "seen items": _seen(published.exclude_seen),
                    "ours": _number(ours[name].mean),
                    "published": _number(theirs),
                    "difference": f"{ours[name].mean - theirs:+.4f}",
                    "relative %": f"{100 * (ours[name].mean / theirs - 1):+.1f}",
                    "source": published.source,
                }
                for name, theirs in published.metrics.items()
                if name in ours
            ]
    return Table.of("Difference from published results", rows)


def _tests(section: Section) -> Table:
    rows = (
        {
            "": row.label,
            "compared with": test.baseline,
            "scores": VARIANT_NAMES[test.variant],
            "NDCG@10 difference": f"{test.difference:+.4f}",
            "95 % interval|from": f"{test.low:+.4f}",
            "95 % interval|to": f"{test.high:+.4f}",
            "p": f"{test.p:.4f}",
        }
        for row in section.rows
        for test in row.tests
    )
    targets = section.protocol.targets if section.protocol else section.data.users
    units = "users" if section.protocol is None or section.protocol.split == "leave-last-out" else "targets, assumed independent"
    return Table.of(f"Paired bootstrap over {targets:,} {units}, without the variation between seeds", rows)


def _cost(row: Row) -> dict[str, str]:
    def cell(name: str, pattern: str, scale: float = 1.0) -> str:
        value = row.cost(name)
        return "-" if value is None else pattern.format(value * scale)

    return {
        "": row.label,
        "parameters": next((f"{run.parameters:,}" for run in row.finished if run.parameters), "-"),
        "seconds|per epoch": cell("seconds_per_epoch", "{:.2f}"),
        "seconds|to best epoch": cell("seconds_to_best", "{:.2f}"),
        "seconds|inference": cell("inference_seconds", "{:.2f}"),
        "seconds|padded inference": cell("padded_inference_seconds", "{:.2f}"),
        "CPU share": cell("cpu_share", "{:.0f} %", 100),
        "peak MiB|process": cell("peak_memory", "{:,.0f}", 1 / MIB),
        "peak MiB|GPU": cell("peak_gpu_memory", "{:,.0f}", 1 / MIB),
    }


def _recipe(row: Row) -> dict[str, str]:
    backbone, training = row.settings["backbone"], row.settings["training"]
    batch, objective = f"{training['token_budget']:,} positions", training["objective"]
    if objective == "per-prefix":
        batch = f"{training['batch_size']:,} examples, at most {batch}" if training["batch_size"] else batch
        objective += f", {training['prefixes_per_sequence']} a sequence" if training["prefixes_per_sequence"] else ""
    return {
        "": row.label,
        "learning rate": str(training["learning_rate"]),
        "schedule": training["schedule"],
        "dropout": str(backbone["dropout"]),
        "input dropout": str(backbone.get("input_dropout", 0.0)),
        "mask ratio": str(training["mask_ratio"]),
        "objective": objective,
        "layers": str(backbone.get("layers", "-")),
        "batch size": batch,
        "epochs": str(training["max_epochs"]),
        "patience": str(training["patience"]),
        "settings from": row.origin or "-",
    }


def _seen(excluded: bool) -> str:  # noqa: FBT001 - turns a flag into its word
    return "excluded" if excluded else "kept"


def _spread(value: Spread | None) -> tuple[str, str]:
    return ("-", "-") if value is None else (_number(value.mean), _number(value.sd))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _seeds(row: Row) -> str:
    finished, planned = len(row.finished), len(row.runs)
    return "-" if row.model in BASELINES else f"{finished}" if finished == planned else f"{finished} of {planned}"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}" + ("" if number == 1 else "s")


COST_NOTE = (
    "Seconds per epoch: median, training and validation. Peak memory: of the whole process of the run. Padded inference: each "
    "sequence is padded to the longest of its batch. CPU share: process time of all threads while training; a low share means "
    "that the threads waited, also for other programs."
)
REPEAT_WARNING = (
    "A negative repeat bias encodes that users do not repeat items. With seen items kept, compare the columns with score fusion "
    "with results that exclude seen items, not with models that had to learn this."
)


def _notes(section: Section) -> Iterator[str]:
    """Yield what a reader may want to know about data, protocol and machine."""
    data, protocol, finished = section.data, section.protocol, section.finished
    if data.known != data.name:
        what = f"the counts of {data.known}" if data.known else "counts of no named data set, so nothing published is comparable"
        yield f"{data.name} has {what}."
    yield from (f"Data: {note}." for note in data.notes)
    if protocol:
        if data.simultaneous:
            share = f"{data.simultaneous:,} interactions ({100 * data.simultaneous / data.interactions:.1f} %)"
            order = "in the file" if protocol.tie_order == "file" else "of their item IDs"
            yield f"{share} have the time of the one before. Their order is that {order} (data.tie_order); metrics depend on it."
        length = f", last {protocol.max_length} interactions" if protocol.max_length and section.study != "length" else ""
        yield (
            f"Protocol: {protocol.split}, {_count(protocol.targets, 'target')}, {protocol.candidates}, seen items "
            f"{_seen(protocol.exclude_seen)}, ties: {protocol.ties}, {protocol.k_core}-core{length}."
        )
        devices = " and ".join(dict.fromkeys(run.costs.device for run in finished if run.costs.device)) or "unknown"
        versions = next((run.versions for run in finished if run.versions), {})
        yield f"Machine: {devices}. Versions: {', '.join(f'{name} {each}' for name, each in versions.items()) or 'unknown'}."
        yield f"Trained by the code of commit {', '.join(sorted({run.commit for run in finished if run.commit})) or 'unknown'}."
    if data.known and section.comparable_data is None:
        yield "Published results leave the last event out, so none is comparable with a split by time."
    if section.omitted:
        same = "with these settings each is another row" if section.study in COMPARING else "each changes nothing on these data"
        yield f"Rows left out, as {same}: {', '.join(section.omitted)}."
    if _shows_costs(section):
        yield COST_NOTE
    if lines_of(section, section.rows):
        yield "The first epoch of the first run of a model may include the compilation of its kernels."
    if longer := _longer(section):
        counts = ", ".join(f"{count:,} have more than {length} interactions" for length, count in longer.items())
        yield f"Every target is trained at every length, from windows that overlap by half. Of {data.users:,} sequences {counts}."
    if _batch_sizes(section) > 1:
        yield "Batches grow with the overlap of the windows, so that an epoch has about as many steps at any length."
    if section.study == "length":
        yield from _own_limits(section)
    for exclude_seen in (False, True):
        if section.study == "accuracy" and (best := highest_published(section.comparable_data, exclude_seen=exclude_seen)):
            value = f"{best.metrics['ndcg@10']:.4f} ({best.model}; {best.source})"
            yield f"Highest published NDCG@10, seen items {_seen(exclude_seen)}, request time not known: {value}."


def _warnings(section: Section) -> Iterator[str]:
    """Yield what limits the conclusions, and the runs without metrics."""
    data, budget, finished = section.data, section.budget, section.finished
    cut = section.reduced is None and max((run.epochs or 0 for run in finished), default=0) >= budget.epochs
    cut_short = f"a run was cut short after {budget.epochs} epochs" if cut and budget.epochs < BUDGETS["paper"].epochs else None
    if reduced := section.reduced or cut_short:
        yield f"These metrics do not show what the paper's settings give: {reduced}."
    if section.protocol and section.protocol.targets < FEW_TARGETS:
        yield f"{_count(section.protocol.targets, 'target')}: too few for reliable metrics and choices by validation."
    if _shows_costs(section):
        if all(row.cost("cpu_share") is None for row in section.rows):
            yield "The load of the machine by other programs was not measured: compare seconds with care."
        if (parallel := max((run.costs.parallel_runs for run in finished), default=1)) > 1:
            yield f"Up to {parallel} runs shared the machine: compare seconds with care."
    if longer := _longer(section):
        if _batch_sizes(section) == 1 and section.rows[0].settings["training"]["objective"] == "all-positions":
            yield "Batches do not grow with the overlap of the windows: the shorter the windows, the more steps an epoch has."
        if few := [str(length) for length, count in longer.items() if count < FEW_SHORTENED * data.users]:
            yield (
                f"A maximum length of {', '.join(few)} shortens fewer than {100 * FEW_SHORTENED:g} % of the sequences: the "
                "difference from whole sequences may come from the composition of the batches."
            )
    if section.study != "efficiency" and budget.seeds == 1:
        yield "One seed: no difference here includes the variation between seeds."
    biases = [run.fusion.repeat_bias for run in finished if run.fusion]
    if section.study == "accuracy" and min(biases, default=0) < 0 and not section.excludes_seen:
        yield REPEAT_WARNING
    for label, run in [(row.label, run) for row in section.rows for run in row.runs if isinstance(run, Unfinished)]:
        lines = run.reason.splitlines()
        reason = f": {lines[0]}, {lines[-1]} (runs/{run.key}/failure.txt)" if lines else ""
        yield f"{run.status.capitalize()}: {label}{'' if run.seed is None else f', seed {run.seed}'}{reason}."


def _longer(section: Section) -> dict[int, int]:
    """Return the number of longer sequences for each maximum length in the section."""
    lengths = {row.settings["data"]["max_length"] for row in section.rows}
    return {length: count for length, count in section.data.longer.items() if length in lengths}


def _own_limits(section: Section) -> Iterator[str]:
    """Yield which models have a limit of their own, and where it lets them read fewer interactions than the length."""
    raised: dict[str, int] = {}
    short: dict[tuple[str, str, int], list[str]] = {}
    for row in section.rows:
        backbone, most = row.settings["backbone"], section.data.longest - 1  # the last one is only predicted
        for name in {"max_length", "window"} & backbone.keys():
            if backbone[name] < min(row.x or most, most):
                short.setdefault((row.model, name, backbone[name]), []).append(tick(row.x))
            elif name == "max_length":
                raised[row.model] = max(raised.get(row.model, 0), backbone[name])
    if raised:
        limits = ", ".join(f"{model}: up to {limit:,}" for model, limit in raised.items())
        yield f"Positions read at once (backbone.max_length) are raised where a length exceeds them, so none is cut; {limits}."
    for (model, name, limit), points in short.items():
        yield f"{model} reads only the last {limit:,} interactions (backbone.{name}) at {', '.join(points)}."


def _batch_sizes(section: Section) -> int:
    """Return how many sizes of batches a study of lengths has; 0 for other studies."""
    return len({row.settings["training"]["token_budget"] for row in section.rows}) if _longer(section) else 0


def _settings(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield all settings of the first row, and what differs in the others."""

    def flat(row: Row) -> dict[str, Any]:
        return {f"{group}.{key}": value for group, values in row.settings.items() for key, value in values.items()}

    for row in rows:
        if row is rows[0]:
            yield row.label, as_json(row.settings, indent=1)
        else:
            ours, first = flat(row), flat(rows[0])
            changed = [f"{name} = {as_json(value)}" for name, value in ours.items() if name not in first or first[name] != value]
            lines = [*changed, *(f"without {name}" for name in first if name not in ours)]
            yield row.label, "\n".join([f"as {rows[0].label}, except", *lines])
