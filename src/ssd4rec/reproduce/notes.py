"""What stands above the tables of a study: what was asked, under which protocol, what is missing, how to read it."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ssd4rec.data.describe import note_on_ties
from ssd4rec.reproduce.studies import COMPARING

LITTLE_MASKED = 0.05


class Note(NamedTuple):
    """One line above the tables."""

    text: str
    warning: bool = False


def notes(study: str, part: Mapping[str, Any]) -> list[Note]:
    """Data, budget, protocol, machine, and what is missing or failed."""
    found = [*_asked(part), *_protocol(study, part)]
    labels, without = {row["label"] for row in part["rows"]}, ", ".join(part.get("without") or ())
    if study in COMPARING:
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
    if "same_time" in part and (ties := note_on_ties(part)):  # an earlier version did not count them
        yield Note(f"{ties}.")
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
        if part["known"] and by_time(part["protocol"]):
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


def by_time(protocol: Mapping[str, Any]) -> bool:
    """Whether a user may have several targets; a split by time says its moments too."""
    return str(protocol["split"]).startswith("time")


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
