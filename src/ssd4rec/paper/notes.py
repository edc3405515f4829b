"""What stands above the tables of a study: what was asked, under which protocol, what is missing, how to read it."""

from collections.abc import Iterator
from typing import NamedTuple

from ssd4rec.data.summary import note_on_ties
from ssd4rec.paper.rows import Failed, Missing, Section
from ssd4rec.paper.studies import COMPARING

LITTLE_MASKED = 0.05
FEW_CUT = 0.01
FEW_TARGETS = 200  # of fewer, one more or less moves the mean by half a per cent


class Note(NamedTuple):
    """One line above the tables."""

    text: str
    warning: bool = False


def notes(study: str, section: Section) -> list[Note]:
    """Data, budget, protocol, machine, and what is missing or failed."""
    found = [*_asked(section), *_protocol(study, section)]
    labels, without = {row.label for row in section.rows}, ", ".join(section.without)
    if study in COMPARING:
        if without:
            found.append(Note(f"Left out, for with these settings it is another row again: {without}."))
        layers = [row.settings["backbone"]["layers"] for row in section.rows if row.label == "ssd4rec" and row.settings]
        if layers and layers[0] > 1 and "ssd4rec-all" not in labels:
            found.append(Note("ssd4rec reads backwards in its top layer only; ssd4rec-all was not run."))
    elif without:
        found.append(Note(f"Left out, for it changes nothing on these data: {without}."))
    if study in ("efficiency", "ablation"):
        found.append(
            Note(
                "Seconds an epoch: median, learning and validation. Peak memory: of the run's whole process. Padded: each "
                "history filled to the longest of its batch, inference only; its figures are the same by construction. "
                "CPU share: of its threads' time while it learned; the less, the more it waited, for other programs too."
            )
        )
        if not any(row.costs.cpu_share for row in section.rows):
            found.append(Note("What other programs took meanwhile is not known: compare seconds with care.", warning=True))
        if section.jobs > 1:
            found.append(Note(f"Up to {section.jobs} runs at once shared the machine: compare seconds with care.", warning=True))
    if study in ("length", "ablation"):
        found += _truncated(section)
    if study == "ablation" and "no mask" in labels:
        whole = section.rows[0].settings
        if whole and (rho := whole["training"]["mask_ratio"]) < LITTLE_MASKED:
            found.append(Note(f"The whole model has a mask ratio of {rho:g}: the row without a mask says little of masking."))
    found += _how_to_read(study, section)
    return [*found, *_unfinished(section)]


def _asked(section: Section) -> Iterator[Note]:
    kept, budget = section.kept, section.budget
    scale = f"width {budget.width}, {_many(budget.epochs, 'epoch')}, {_many(budget.seeds, 'seed')}"
    known = section.known
    what = f"the counts of {known}" if known else "no named data set has these counts, so nothing is published for it"
    yield Note(f"{section.source}: {kept.users:,} users, {kept.items:,} items, {kept.interactions:,} interactions ({what}).")
    for note in section.data_notes:
        yield Note(f"Data: {note}.")
    if section.tie_order and (ties := note_on_ties(section.model_dump(include={"tie_order", "kept"}))):
        yield Note(f"{ties}.")
    yield Note(f"Budget {budget.name}: {scale}.")
    if section.reduced:
        reason = section.reduced[:1].upper() + section.reduced[1:]
        yield Note(f"{reason}: these figures do not say what the models reach under the paper's settings.", warning=True)


def _protocol(study: str, section: Section) -> Iterator[Note]:
    if section.protocol:
        # in the figure of lengths each point reads another number of events; None: whole histories
        hidden = {"max_length"} if study == "length" else set()
        protocol = {name: value for name, value in section.protocol if value is not None and name not in hidden}
        yield Note("Protocol: " + ", ".join(f"{name} {value}" for name, value in protocol.items()) + ".")
        versions = ", ".join(f"{name} {version}" for name, version in (section.versions or {}).items())
        finished = [seed for row in section.rows for seed in row.finished]
        devices = " and ".join(dict.fromkeys(seed.device for seed in finished if seed.device)) or section.device
        yield Note(f"Machine: {devices}; of the first run {versions}.")
        commits = {seed.commit for seed in finished}
        if named := sorted(each for each in commits if each):
            others = "" if None not in commits else ", and others that were not kept"
            yield Note(f"Trained by the code of commit {', '.join(named)}{others}.")
        if section.known and section.protocol.by_time:
            yield Note("Published figures leave the last event out, so none stands beside a split by time.")


def _truncated(section: Section) -> Iterator[Note]:
    if section.longer == {}:  # what would truncate changes nothing on these data, and is no row
        return
    training = [row.settings["training"] for row in section.rows if row.settings]
    truncated = "A truncated history trains every target too: in one pass from windows that overlap by half."
    if len({each["token_budget"] for each in training}) > 1:
        truncated += (
            " The more they overlap, the more events a batch holds, so that an epoch has about as many steps at any length: up "
            "to a quarter more where a window is little shorter than a chunk of 64, which it then has to itself."
        )
    yield Note(truncated)
    if section.longer is not None:
        said = ", ".join(f"{count:,} have more than {length} events" for length, count in section.longer.items())
        yield Note(f"Of {section.kept.users:,} histories {said}.")
        if few := [str(length) for length, count in section.longer.items() if count < FEW_CUT * section.kept.users]:
            yield Note(
                f"To truncate to {', '.join(few)} shortens fewer than {100 * FEW_CUT:g} % of the histories: what differs from "
                "whole ones may be the batches more than what is read. A whole history longer than a batch is one by itself.",
                warning=True,
            )
    elif {each["objective"] for each in training} == {"all-positions"}:
        yield Note("Made by an earlier version: the shorter the windows, the more steps an epoch had.", warning=True)


def _how_to_read(study: str, section: Section) -> Iterator[Note]:
    if section.protocol and section.protocol.targets < FEW_TARGETS:
        counted = _many(section.protocol.targets, "target")
        yield Note(f"{counted}: too few for figures, or what validation chose by them, to mean much.", warning=True)
    if study != "efficiency" and section.budget.seeds == 1:
        yield Note("One seed: what another one would change is in no difference here.", warning=True)
    sources: dict[str, list[str]] = {}
    for row in section.rows:
        if row.recipe:
            sources.setdefault(row.recipe, []).append(row.label)
    said = [f"{', '.join(labels) if len(sources) > 1 else 'all rows'}: {source}" for source, labels in sources.items()]
    if said:
        yield Note(f"Settings (last table): {'; '.join(said)}.")
    told = [row for row in section.rows if row.with_fusion and min(row.with_fusion.repeat_bias) < 0]
    if study == "accuracy" and told and section.protocol and not section.protocol.exclude_seen:
        yield Note(
            "Seen items stay among the candidates, but a fusion with repeat_bias below 0 knows that they hardly come again; the "
            f"models without it{', the published ones among them,' if section.highest_published else ''} had to learn that.",
            warning=True,
        )


def _unfinished(section: Section) -> Iterator[Note]:
    seeds = [(row.label, seed) for row in section.rows for seed in row.seeds]
    for state, kind in (("Missing", Missing), ("Failed", Failed)):
        names = [f"{label} (seed {seed.seed})" for label, seed in seeds if isinstance(seed, kind)]
        if names:
            yield Note(f"{state}: {'; '.join(names)}.", warning=True)
    for label, seed in seeds:
        if isinstance(seed, Failed):
            why = seed.why.splitlines()
            yield Note(f"{label}, seed {seed.seed}: {why[0]}, {why[-1]} (runs/{seed.key}/failure.txt)", warning=True)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
