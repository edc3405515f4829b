"""The tables of the report."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ssd4rec.evaluation.metrics import MONITORED_METRIC
from ssd4rec.paper.published import METRICS
from ssd4rec.paper.rows import Figures, PublishedRow, Section, Spread

MIB = 1024 * 1024


class Table(NamedTuple):
    """Text in rows."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(study: str, section: Section) -> list[Table]:
    """The tables of one study on one data set."""
    if study == "efficiency":
        return [_costs(section), _recipes(section)]
    more = {
        "accuracy": (_with_fusion, _seen_removed, _beside_published, _tests, _recipes),
        "ablation": (_tests, _costs, _recipes),
    }
    found = [make(section) for make in more.get(study, (_tests, _recipes))]
    return [_figures(section), *(each for each in found if each.rows)]


def _figures(section: Section) -> Table:
    names = list(dict.fromkeys(name for row in section.rows for name in row.metrics)) or list(METRICS)
    rows = []
    for row in section.rows:
        cells = [_spread(row.metrics.get(name)) for name in names]
        rows.append((row.label, *cells, f"{len(row.finished)}/{len(row.seeds)}" if row.seeds else "-"))
    return Table("Test, mean ± standard deviation over seeds", ("", *(name.upper() for name in names), "seeds"), tuple(rows))


def _with_fusion(section: Section) -> Table:
    rows, highest = [], section.highest_published
    for row in section.rows:
        if together := row.with_fusion:
            ndcg = together.metrics[MONITORED_METRIC].mean
            rows.append(
                (
                    row.label,
                    *(_spread(spread) for spread in together.metrics.values()),
                    _weights(together.rules),
                    _weights(together.repeat_bias),
                    _relative(ndcg, row.metrics[MONITORED_METRIC].mean),
                    *([_relative(ndcg, highest[1])] if highest else []),
                )
            )
    names = tuple(dict.fromkeys(name.upper() for row in section.rows for name in row.metrics))
    against = (f"against {highest[0]}, {highest[1]:.4f}, the highest published",) if highest else ()
    title = "The same models with a fusion added to their scores: counted rules, repeat_bias (fusion.*, chosen by validation)"
    return Table(title, ("", *names, "cooccurrence", "repeat_bias", "NDCG@10 against alone", *against), tuple(rows))


def _seen_removed(section: Section) -> Table:
    """The other protocol. Of a fusion, which was chosen with seen items kept, the rules alone."""
    names, highest = ("hr@10", "ndcg@10", "mrr@10"), section.highest_published_seen_removed
    rows = []
    for row in section.rows:
        if alone := row.seen_removed:
            together = row.with_fusion.seen_removed if row.with_fusion else {}
            cells = [_spread(each.get(name)) for each in (alone, together) for name in names]
            best = (together or alone)[MONITORED_METRIC].mean
            rows.append((row.label, *cells, *([_relative(best, highest[1])] if highest else [])))
    head = (*(name.upper() for name in names), *(f"{name.upper()} with rules" for name in names))
    against = (f"with rules, else alone, against {highest[0]}, {highest[1]:.4f}, the highest published",) if highest else ()
    return Table("The same models with seen items removed from the candidates", ("", *head, *against), tuple(rows))


def _weights(seeds: Sequence[float]) -> str:
    return ", ".join(f"{each:g}" for each in dict.fromkeys(seeds))


def _relative(value: float, other: float) -> str:
    return f"{100 * (value / other - 1):+.1f} %" if other else "-"


def _beside_published(section: Section) -> Table:
    beside = [(row.label, row.published, row.metrics) for row in section.rows if row.published]
    beside += [(label, published, {}) for label, published in section.published_only.items()]
    rows = [cells for each in beside for cells in _compared(*each)]
    return Table(
        "Beside the published figures",
        ("", "metric", "ours", "published", "difference", "relative", "grade, source"),
        tuple(rows),
    )


def _compared(label: str, published: PublishedRow, metrics: Figures) -> Iterator[tuple[str, ...]]:
    for name, theirs in published.figures.items():
        ours = metrics[name].mean if name in metrics else None
        difference = ("-", "-") if ours is None else (f"{ours - theirs:+.4f}", _relative(ours, theirs))
        yield label, name.upper(), _figure(ours), _figure(theirs), *difference, f"{published.grade}: {published.source}"


def _tests(section: Section) -> Table:
    rows = []
    for row in section.rows:
        for test in row.tests:
            interval = f"{test.low:+.4f} … {test.high:+.4f}"
            rows.append((row.label, test.baseline, f"{test.difference:+.4f}", interval, f"{test.p:.4f}"))
    head = ("", "against", "NDCG@10 difference", "95 % interval", "p")
    protocol = section.protocol
    targets = protocol.targets if protocol else section.kept.users
    over = f"{targets:,} {'targets, as if no two were of one user' if protocol and protocol.by_time else 'users'}"
    return Table(f"Paired bootstrap over {over}; what another seed would change is not in it", head, tuple(rows))


def _recipes(section: Section) -> Table:
    rows = []
    for row in section.rows:
        if row.settings is None:
            continue
        backbone, training = row.settings["backbone"], row.settings["training"]
        prefix = training["objective"] == "per-prefix"  # the others fill a row, and read each history once
        batch = f"{training['token_budget']:,} positions"
        if prefix and training["batch_size"]:
            batch = f"{training['batch_size']:,} examples, at most {batch}"
        sampled = f", {training['prefixes_per_sequence']} of a history" if prefix and training["prefixes_per_sequence"] else ""
        given = (training["learning_rate"], training["schedule"], backbone["dropout"], training["mask_ratio"])
        rows.append(
            (
                row.label,
                *map(str, given),
                training["objective"] + sampled,
                str(backbone.get("layers", "-")),
                batch,
                str(training["max_epochs"]),
                str(training["patience"]),
                _place(row.recipe or "-"),
            )
        )
    head = (
        "",
        "learning rate",
        "schedule",
        "dropout",
        "mask ratio",
        "objective",
        "layers",
        "batch",
        "epochs",
        "patience",
        "from",
    )
    return Table("How each was trained", head, tuple(rows))


def _costs(section: Section) -> Table:
    rows = []
    for row in section.rows:
        costs = row.costs
        seconds = (costs.seconds_an_epoch, costs.seconds_to_best, costs.inference_seconds, costs.padded_inference_seconds)
        rows.append(
            (
                row.label,
                f"{row.parameters:,}" if row.parameters else "-",
                *(f"{each:.2f}" if each is not None else "-" for each in seconds),
                _share(costs.cpu_share),
                *(f"{each / MIB:,.0f}" if each is not None else "-" for each in (costs.peak_memory, costs.peak_gpu_memory)),
            )
        )
    head = (
        "",
        "parameters",
        "s an epoch",
        "s to best",
        "s inference",
        "s padded inference",
        "CPU share",
        "peak MiB",
        "peak GPU MiB",
    )
    return Table("PassCost, median over seeds", head, tuple(rows))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _place(recipe: str) -> str:
    """One word for where settings come from; the note above the tables says it whole."""
    return recipe.split(maxsplit=1)[0]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _spread(value: Spread | None) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.4f}" + (f" ± {value.sd:.4f}" if value.sd is not None else "")
