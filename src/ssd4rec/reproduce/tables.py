"""The tables of the report and what is said above them."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ssd4rec.reproduce.published import METRICS

MIB = 1024 * 1024
LITTLE_MASKED = 0.05
FEW_USERS = 200  # a bootstrap of fewer says little: one user more or less moves the mean by half a per cent


class Table(NamedTuple):
    """Text in rows."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Note(NamedTuple):
    """One line above the tables."""

    text: str
    warning: bool = False


def tables(study: str, part: Mapping[str, Any]) -> list[Table]:
    """The tables of one study on one data set."""
    if study == "efficiency":
        return [_costs(part), _recipes(part)]
    more = {
        "accuracy": (_with_prior, _seen_removed, _beside_published, _tests, _recipes),
        "ablation": (_tests, _costs, _recipes),
    }
    found = [make(part) for make in more.get(study, (_recipes,))]
    return [_figures(part), *(each for each in found if each.rows)]


def notes(study: str, part: Mapping[str, Any]) -> list[Note]:
    """Data, budget, protocol, machine, and what is missing or failed."""
    found = [*_asked(part), *_protocol(study, part)]
    labels, without = {row["label"] for row in part["rows"]}, ", ".join(part.get("without") or ())
    if study in ("accuracy", "efficiency"):
        if without:
            found.append(Note(f"Left out, for with these settings it is another row again: {without}."))
        if "ssd4rec" in labels and "ssd4rec-all" not in labels and "ssd4rec-all" not in without:
            found.append(Note("ssd4rec reads backwards in its top layer only; ssd4rec-all was not run."))
    elif without:
        found.append(Note(f"Left out, for it changes nothing on these data: {without}."))
    if study in ("efficiency", "ablation"):
        found.append(
            Note(
                "Seconds an epoch: median, learning and validation. Peak memory: of the run's whole process. Padded: each "
                "history filled to the longest of its batch, inference only; its figures are the same by construction."
            )
        )
        if part["jobs"] > 1:
            found.append(Note(f"Up to {part['jobs']} runs at once shared the machine: compare seconds with care.", warning=True))
    if study in ("length", "ablation"):
        budgets = {row["settings"]["training"]["token_budget"] for row in part["rows"]}
        # older sections of a report gave all windows one budget
        steps = " The more they overlap, the more events a batch holds, so that an epoch has as many steps at any length."
        found.append(
            Note(
                "A truncated history trains every target too: in one pass from windows that overlap by half."
                + (steps if len(budgets) > 1 else "")
            )
        )
    if study == "ablation" and (rho := part["rows"][0]["settings"]["training"]["mask_ratio"]) < LITTLE_MASKED:
        found.append(Note(f"The whole model has a mask ratio of {rho:g}: the row without a mask says little of masking."))
    if study == "accuracy":
        found += _how_to_read(part)
    return [*found, *_unfinished(part)]


def _asked(part: Mapping[str, Any]) -> Iterator[Note]:
    kept, budget = part["kept"], part["budget"]
    scale = f"width {budget['width']}, {_many(budget['epochs'], 'epoch')}, {_many(budget['seeds'], 'seed')}"
    known = part["known"]
    what = f"the counts of {known}" if known else "no named data set has these counts, so nothing is published for it"
    yield Note(
        f"{part['source']}: {kept['users']:,} users, {kept['items']:,} items, {kept['interactions']:,} interactions ({what})."
    )
    for note in part.get("data_notes", ()):  # an earlier version did not keep them
        yield Note(f"Data: {note}.")
    same = part.get("same_time") or {"interactions": 0}
    if same["interactions"]:
        share = 100 * same["interactions"] / kept["interactions"]
        by = "in the file" if same["order"] == "file" else "of the items' ids"
        yield Note(
            f"{same['interactions']:,} interactions ({share:.1f} %) are at the same time as the one before; their order is that "
            f"{by}, and figures depend on it."
        )
    yield Note(f"Budget {budget['name']}: {scale}.")
    if part["reduced"]:
        reason = part["reduced"][:1].upper() + part["reduced"][1:]
        yield Note(f"{reason}: these figures do not say what the models reach under the paper's settings.", warning=True)


def _protocol(study: str, part: Mapping[str, Any]) -> Iterator[Note]:
    if part["protocol"]:
        # in the figure of lengths each point reads another number of events; None: whole histories
        hidden = {"max_length"} if study == "length" else set()
        protocol = {name: value for name, value in part["protocol"].items() if value is not None and name not in hidden}
        yield Note("Protocol: " + ", ".join(f"{name} {value}" for name, value in protocol.items()) + ".")
        versions = ", ".join(f"{name} {version}" for name, version in part["versions"].items())
        yield Note(f"Machine of the first run: {part['device']}; {versions}.")
        commits = {seed.get("commit") for row in part["rows"] for seed in row["seeds"] if seed["state"] == "finished"}
        if named := sorted(each for each in commits if each):
            others = "" if None not in commits else ", and others that were not kept"
            yield Note(f"Trained by the code of commit {', '.join(named)}{others}.")
        if part["known"] and _by_time(part["protocol"]):
            yield Note("Published figures leave the last event out, so none stands beside a split by time.")


def _how_to_read(part: Mapping[str, Any]) -> Iterator[Note]:
    sources: dict[str, list[str]] = {}
    for row in part["rows"]:
        if row["recipe"]:
            sources.setdefault(row["recipe"], []).append(row["label"])
    said = [f"{', '.join(labels)}: {source}" for source, labels in sources.items()]
    yield Note(f"Settings (last table): {'; '.join(said)}.")
    told = [row for row in part["rows"] if row["with_prior"] and min(row["with_prior"]["repeats"]) < 0]
    if told and (part["protocol"] or {}).get("seen") == "kept":
        yield Note(
            "Seen items stay among the candidates, but a prior with repeats below 0 knows that they hardly come again; the "
            f"models without it{', the published ones among them,' if part.get('highest_published') else ''} had to learn that.",
            warning=True,
        )


def _unfinished(part: Mapping[str, Any]) -> Iterator[Note]:
    seeds = [(row["label"], seed) for row in part["rows"] for seed in row["seeds"]]
    for state in ("missing", "failed"):
        names = [f"{label} (seed {seed['seed']})" for label, seed in seeds if seed["state"] == state]
        if names:
            yield Note(f"{state.capitalize()}: {', '.join(names)}.", warning=True)
    for label, seed in seeds:
        if seed["state"] == "failed":
            why = seed["why"].splitlines()
            yield Note(f"{label}, seed {seed['seed']}: {why[0]}, {why[-1]} (runs/{seed['key']}/failure.txt)", warning=True)


def _figures(part: Mapping[str, Any]) -> Table:
    names = list(dict.fromkeys(name for row in part["rows"] for name in row["metrics"])) or list(METRICS)
    rows = []
    for row in part["rows"]:
        cells = [_spread(row["metrics"].get(name)) for name in names]
        done = sum(seed["state"] == "finished" for seed in row["seeds"])
        rows.append((row["label"], *cells, f"{done}/{len(row['seeds'])}" if row["seeds"] else "-"))
    return Table("Test, mean ± standard deviation over seeds", ("", *(name.upper() for name in names), "seeds"), tuple(rows))


def _with_prior(part: Mapping[str, Any]) -> Table:
    rows, highest = [], part["highest_published"]
    for row in part["rows"]:
        if together := row["with_prior"]:
            ndcg = together["metrics"]["ndcg@10"]["mean"]
            rows.append(
                (
                    row["label"],
                    *(_spread(figures) for figures in together["metrics"].values()),
                    *(", ".join(f"{each:g}" for each in dict.fromkeys(together[name])) for name in ("transitions", "repeats")),
                    _relative(ndcg, row["metrics"]["ndcg@10"]["mean"]),
                    *([_relative(ndcg, highest[1])] if highest else []),
                )
            )
    names = tuple(dict.fromkeys(name.upper() for row in part["rows"] for name in row["metrics"]))
    against = (f"against {highest[0]}, {highest[1]:.4f}, the highest published",) if highest else ()
    title = "The same models with a prior added to their scores: counted transitions, repeats (prior.*, chosen by validation)"
    return Table(title, ("", *names, "transitions", "repeats", "NDCG@10 against alone", *against), tuple(rows))


def _seen_removed(part: Mapping[str, Any]) -> Table:
    """The other protocol. Of a prior, which was chosen with seen items kept, the transitions alone."""
    names, highest = ("hr@10", "ndcg@10", "mrr@10"), part.get("highest_published_seen_removed")
    rows = []
    for row in part["rows"]:
        if alone := row.get("seen_removed"):  # an earlier version did not measure it
            together = (row["with_prior"] or {}).get("seen_removed", {})
            cells = [_spread(each.get(name)) for each in (alone, together) for name in names]
            best = (together or alone)["ndcg@10"]["mean"]
            rows.append((row["label"], *cells, *([_relative(best, highest[1])] if highest else [])))
    head = (*(name.upper() for name in names), *(f"{name.upper()} with transitions" for name in names))
    against = (f"against {highest[0]}, {highest[1]:.4f}, the highest published",) if highest else ()
    return Table("The same models with seen items removed from the candidates", ("", *head, *against), tuple(rows))


def _relative(value: float, other: float) -> str:
    return f"{100 * (value / other - 1):+.1f} %" if other else "-"


def _beside_published(part: Mapping[str, Any]) -> Table:
    rows = []
    for row in part["rows"]:
        for name, theirs in (row["published"] or {"figures": {}})["figures"].items():
            ours = row["metrics"].get(name, {}).get("mean")
            difference = ("-", "-") if ours is None else (f"{ours - theirs:+.4f}", _relative(ours, theirs))
            source = f"{row['published']['grade']}: {row['published']['source']}"
            rows.append((row["label"], name.upper(), _figure(ours), _figure(theirs), *difference, source))
    for label, published in part["published_only"].items():
        source = f"{published['grade']}: {published['source']}"
        rows += [(label, name.upper(), "-", _figure(theirs), "-", "-", source) for name, theirs in published["figures"].items()]
    return Table(
        "Beside the published figures",
        ("", "metric", "ours", "published", "difference", "relative", "grade, source"),
        tuple(rows),
    )


def _tests(part: Mapping[str, Any]) -> Table:
    rows = []
    for row in part["rows"]:
        earlier = row.get("against_best_baseline")  # as an earlier version wrote it
        for test in row.get("against_baselines", [earlier] if earlier else []):
            interval = f"{test['low']:+.4f} … {test['high']:+.4f}"
            rows.append((row["label"], test["baseline"], f"{test['difference']:+.4f}", interval, f"{test['p']:.4f}"))
    head = ("", "against", "NDCG@10 difference", "95 % interval", "p")
    protocol = part["protocol"] or {"targets": part["kept"]["users"], "split": "leave-last-out"}
    over = f"{protocol['targets']:,} {'targets, as if no two were of one user' if _by_time(protocol) else 'users'}"
    few = "" if protocol["targets"] >= FEW_USERS else ": too few for the figures below to mean much"
    return Table(f"Paired bootstrap over {over}{few}; what another seed would change is not in it", head, tuple(rows))


def _recipes(part: Mapping[str, Any]) -> Table:
    rows = []
    for row in part["rows"]:
        if row["settings"] is None:
            continue
        backbone, training = row["settings"]["backbone"], row["settings"]["training"]
        prefix = training["objective"] == "prefix"  # the others fill a row, and read each history once
        batch = f"{training['token_budget']:,} positions"
        if prefix and training["batch_size"]:
            batch = f"{training['batch_size']:,} examples, at most {batch}"
        sampled = f", {training['prefixes_per_history']} of a history" if prefix and training["prefixes_per_history"] else ""
        given = (training["learning_rate"], training["schedule"], backbone["dropout"], training["mask_ratio"])
        rows.append(
            (
                row["label"],
                *map(str, given),
                training["objective"] + sampled,
                str(backbone.get("layers", "-")),
                batch,
                str(training["max_epochs"]),
                str(training["patience"]),
                _place(row["recipe"] or "-"),
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


def _costs(part: Mapping[str, Any]) -> Table:
    rows = []
    for row in part["rows"]:
        costs = row["costs"]
        seconds = ("seconds_an_epoch", "seconds_to_best", "inference_seconds", "padded_inference_seconds")
        memory = ("peak_memory", "peak_gpu_memory")
        rows.append(
            (
                row["label"],
                f"{row['parameters']:,}" if row["parameters"] else "-",
                *(f"{costs[name]:.2f}" if costs[name] is not None else "-" for name in seconds),
                *(f"{costs[name] / MIB:,.0f}" if costs[name] is not None else "-" for name in memory),
            )
        )
    head = ("", "parameters", "s an epoch", "s to best", "s inference", "s padded inference", "peak MiB", "peak GPU MiB")
    return Table("Cost, median over seeds", head, tuple(rows))


def _by_time(protocol: Mapping[str, Any]) -> bool:
    """Whether a user may have several targets; a split by time says its moments too."""
    return str(protocol["split"]).startswith("time")


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _place(recipe: str) -> str:
    """One word for where settings come from; the note above the tables says it whole."""
    return recipe.split(maxsplit=1)[0]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _spread(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.4f}" + (f" ± {value['sd']:.4f}" if value["sd"] is not None else "")
