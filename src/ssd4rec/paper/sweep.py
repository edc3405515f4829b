"""A sweep: the runs of some studies, those that are missing made, the report rewritten after each."""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ssd4rec._io import exclusive_lock
from ssd4rec._suggestions import find
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF
from ssd4rec.paper.asked import addressees
from ssd4rec.paper.budgets import Budget, as_options
from ssd4rec.paper.processes import Processes
from ssd4rec.paper.report import write_report
from ssd4rec.paper.results import refuse_what_would_be_lost, summarize
from ssd4rec.paper.rows import Results
from ssd4rec.paper.runs import COUNTED_IN, FAILURE, Dataset, Part, Run, counted_in, look_at, result_of
from ssd4rec.paper.studies import (
    COMPARING,
    COUNTED,
    MODELS,
    STUDIES,
    TWINS,
    Point,
    changing,
    points,
    refuse_its_own,
    with_equal_steps,
)

Say = Callable[[str], None]
Watch = Callable[[int, int, str], None]  # (runs done, all, what is under way)


@dataclass(frozen=True)
class Sweep:
    """What was asked for."""

    parts: tuple[Part, ...]
    budget: Budget
    out: Path
    cache: Path  # of named data sets

    @cached_property
    def runs(self) -> dict[str, tuple[str, Run]]:
        """Each run once, by its key, with a title; studies share runs."""
        found: dict[str, tuple[str, Run]] = {}
        for part in self.parts:
            for label, run in part.runs:
                found.setdefault(run.key, (f"{part.data.name}, {label}, seed {run.config.training.seed}", run))
        return found

    def folder(self, key: str) -> Path:
        """Where a run lies."""
        return self.out / "runs" / key

    def finished(self, key: str) -> bool:
        """Whether a run's result is there, and what its data give without learning."""
        _, run = self.runs[key]
        return result_of(self.folder(key)) is not None and bool(counted_in(self.counted(run)))

    def counted(self, run: Run) -> Path:
        """Where that lies which needs no learning."""
        return self.out / COUNTED_IN / run.counted


def plan(
    study: str, sources: Sequence[str], budget: Budget, out: Path, cache: Path, *, models: Sequence[str], settings: Sequence[str]
) -> Sweep:
    """What a command asks for; nothing is trained yet.

    Args:
        study: a name out of `STUDIES`, or "all".
        sources: data sets, by name or path.
        budget: from `make_budget`.
        out: folder of the runs and the report.
        cache: folder of named data sets.
        models: of the tables that compare models; none: all.
        settings: `group.key=value` on top of every run.

    Raises:
        ConfigError: an unknown study, model or setting.
        DataError: a data set cannot be read.
    """
    find(study, (*STUDIES, "all"), "study")
    chosen = [find(model, MODELS, "model") for model in models] or list(MODELS)
    if models and study not in (*COMPARING, "all"):
        raise ConfigError(f"--models is for {', '.join(COMPARING)} and all; {study} is about ssd4rec alone: leave it out")
    names = list(STUDIES) if study == "all" else [study]
    for name in names:
        refuse_its_own(name, settings)
    parts = []
    for source in dict.fromkeys(sources):
        first = points("ablation", None, budget, (), settings)[0].configs[0]
        if MONITORED_CUTOFF not in first.evaluation.cutoffs:
            raise ConfigError(
                f"the tables compare NDCG@{MONITORED_CUTOFF}: evaluation.cutoffs must include {MONITORED_CUTOFF}, "
                f"found {first.evaluation.cutoffs}"
            )
        data = look_at(source, first, cache)
        for name in names:
            part = _part(name, data, _points(name, data, budget, chosen, settings), chosen)
            parts.append(replace(part, command=_command(name, source, budget, models, settings)))
    parts = _told_apart(parts)
    rows = {point.model for part in parts for point in part.points}
    if unused := addressees(settings) - rows:
        raise ConfigError(f"--set {min(unused)}: is for no row of this; the rows are of {', '.join(sorted(rows))}")
    if not any(point.configs for part in parts for point in part.points):
        raise ConfigError(f"{' and '.join(COUNTED)} are measured beside a model; name one with them in --models")
    return Sweep(tuple(parts), budget, out, cache)


def _part(study: str, data: Dataset, planned: Sequence[Point], models: Sequence[str]) -> Part:
    if study in COMPARING:
        twins = [model for model in models if model in TWINS and model not in {point.model for point in planned}]
        return Part(study, data, tuple(planned), tuple(f"{twin} (the network of {TWINS[twin]})" for twin in twins))
    if study not in ("ablation", "length"):
        return Part(study, data, tuple(planned))
    stepped = [with_equal_steps(point, data.overlap) for point in planned]
    kept, without = changing(stepped, data.description["kept"]["longest"])
    return Part(study, data, tuple(kept), tuple(without))


def _command(study: str, source: str, budget: Budget, models: Sequence[str], settings: Sequence[str]) -> str:
    chosen = ["--models", ",".join(models)] if models and study in COMPARING else []
    changed = [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["ssd4rec", "reproduce", study, source, *as_options(budget), *chosen, *changed])


def _told_apart(parts: Sequence[Part]) -> list[Part]:
    """Two files of one name are called by their paths."""
    sources: dict[str, set[str]] = {}
    for part in parts:
        sources.setdefault(part.data.name, set()).add(part.data.source)
    return [
        replace(part, data=replace(part.data, name=part.data.source)) if len(sources[part.data.name]) > 1 else part
        for part in parts
    ]


def _points(name: str, data: Dataset, budget: Budget, models: Sequence[str], settings: Sequence[str]) -> list[Point]:
    if name == "efficiency":
        models = [model for model in models if model not in COUNTED]  # nothing to time
    return points(name, data.known, budget, models, settings)


def carry_out(sweep: Sweep, say: Say, watch: Watch = lambda *_: None, *, jobs: int = 1, threads: int | None = None) -> Results:
    """Make the runs that are missing, `jobs` at once; the report in `out` is whole after each.

    A run that fails is told in the report and tried again by the next call; the others go on.

    Args:
        sweep: from `plan`.
        say: receives one line a run.
        watch: (runs done, all, what is under way), from the threads that wait for the runs.
        jobs: runs at once, each a process of its own.
        threads: of each process; None: as many as it takes by itself.

    Returns:
        What results.json holds.

    Raises:
        KeyboardInterrupt: interrupted; the runs under way are ended, the same command goes on.
        ConfigError: less than one run at once.
        DataError: the folder cannot be written, or another process is at work in it.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, found {jobs}")
    busy = DataError(f"another sweep is at work in {sweep.out}; wait for it, or choose another --out")

    def refused(why: str) -> DataError:
        mend = "choose another --out" if sweep.out.is_file() else "make room, or choose another --out"
        return DataError(f"{sweep.out} cannot be written: {why}; {mend}")

    try:
        with exclusive_lock(sweep.out / "lock", busy, refused):
            return _make_what_is_missing(sweep, say, watch, jobs, threads)
    except OSError as error:
        raise refused(error.strerror or str(error)) from error


def _make_what_is_missing(sweep: Sweep, say: Say, watch: Watch, jobs: int, threads: int | None) -> Results:
    refuse_what_would_be_lost(sweep.parts, sweep.out)
    runs = sweep.runs
    missing = [key for key in runs if not sweep.finished(key)]
    cached = len(runs) - len(missing)
    say(f"{len(runs)} run{'' if len(runs) == 1 else 's'}, {cached} of them cached in {sweep.out}, {len(missing)} to do")
    results = _report(sweep)
    began = time.monotonic()
    with Processes(jobs, threads) as processes:
        done = 0
        waiting = {
            processes.begin(sweep.folder(key), _spec(sweep, *runs[key]), lambda what: watch(cached + done, len(runs), what)): key
            for key in missing
        }
        for future in processes.ended(waiting):
            future.result()
            key = waiting[future]
            done += 1
            results = _report(sweep)
            left = len(missing) - done
            minutes = (time.monotonic() - began) / done * left / 60
            state = "done" if sweep.finished(key) else f"FAILED, see {sweep.folder(key) / FAILURE}"
            say(f"{runs[key][0]}: {state}; {left} left" + (f", about {minutes:.0f} min" if left else ""))
    watch(len(runs), len(runs), "")
    return results


def _spec(sweep: Sweep, title: str, run: Run) -> dict[str, Any]:
    return {
        "title": title,
        "data": run.data.source,
        "fingerprint": run.data.fingerprint,
        "cache": str(sweep.cache.resolve()),
        "counted": str(sweep.counted(run).resolve()),
        "settings": run.config.model_dump(mode="json"),
    }


def _report(sweep: Sweep) -> Results:
    results = summarize(sweep.parts, sweep.budget, sweep.out)
    write_report(results, sweep.out)
    return results
