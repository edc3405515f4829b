"""A sweep: the runs of some studies, those that are missing made one after the other, the report rewritten after each."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ssd4rec.errors import DataError
from ssd4rec.reproduce.report import write_report
from ssd4rec.reproduce.results import summarise
from ssd4rec.reproduce.runs import FAILURE, RESULT, SPEC, Dataset, Run, look_at, write_whole
from ssd4rec.reproduce.studies import MODELS, STUDIES, Budget, Point, find, points

Say = Callable[[str], None]
Watch = Callable[[int, int, str], None]  # (runs done, all, what is under way)
ERROR_LINES = 12


@dataclass(frozen=True)
class Part:
    """One study on one data set."""

    study: str
    data: Dataset
    points: tuple[Point, ...]

    @property
    def runs(self) -> Iterator[tuple[str, Run]]:
        """The label and the run of every point under every seed."""
        for point in self.points:
            for config in point.configs:
                yield point.label, Run(self.data, config)


@dataclass(frozen=True)
class Sweep:
    """What was asked for."""

    parts: tuple[Part, ...]
    budget: Budget
    out: Path
    cache: Path  # of named data sets

    @property
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
        """Whether a run's result is there."""
        return (self.folder(key) / RESULT).is_file()


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
    names = list(STUDIES) if study == "all" else [study]
    parts = []
    for source in sources:
        first = points("ablation", None, budget, (), settings)[0].configs[0]
        data = look_at(source, first, cache)
        parts += [Part(name, data, tuple(_points(name, data, budget, chosen, settings))) for name in names]
    return Sweep(tuple(parts), budget, out, cache)


def _points(name: str, data: Dataset, budget: Budget, models: Sequence[str], settings: Sequence[str]) -> list[Point]:
    if name == "efficiency":
        models = [model for model in models if model != "popularity"]  # nothing to time
    return points(name, data.known, budget, models, settings)


def carry_out(sweep: Sweep, say: Say, watch: Watch = lambda *_: None) -> dict[str, Any]:
    """Make the runs that are missing; the report in `out` is whole after each.

    A run that fails is told in the report and tried again by the next call; the others go on.

    Returns:
        What results.json holds.

    Raises:
        KeyboardInterrupt: interrupted; the same command goes on.
        DataError: the folder cannot be written.
    """
    runs = sweep.runs
    missing = [key for key in runs if not sweep.finished(key)]
    say(f"{len(runs)} runs, {len(runs) - len(missing)} of them cached in {sweep.out}, {len(missing)} to do")
    try:
        (sweep.out / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{sweep.out} cannot be written: {error.strerror}; choose another --out") from error
    results = _report(sweep)
    began = time.monotonic()
    for done, key in enumerate(missing):
        title, run = runs[key]
        watch(len(runs) - len(missing) + done, len(runs), title)
        _make(sweep, run, title, partial(watch, len(runs) - len(missing) + done, len(runs)))
        results = _report(sweep)
        left = len(missing) - done - 1
        minutes = (time.monotonic() - began) / (done + 1) * left / 60
        state = "done" if sweep.finished(key) else f"FAILED, see {sweep.folder(key) / FAILURE}"
        say(f"{title}: {state}; {left} left" + (f", about {minutes:.0f} min" if left else ""))
    watch(len(runs), len(runs), "")
    return results


def _make(sweep: Sweep, run: Run, title: str, tell: Say) -> None:
    folder = sweep.folder(run.key)
    folder.mkdir(exist_ok=True)
    spec = {
        "title": title,
        "data": run.data.source,
        "cache": str(sweep.cache.resolve()),
        "settings": run.config.model_dump(mode="json"),
    }
    write_whole(folder / SPEC, json.dumps(spec, indent=1))
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "ssd4rec.reproduce.worker", str(folder.resolve())]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603 - ours
        try:
            for line in process.stdout or ():
                tell(f"{title}: {line.strip()}")
            process.wait()
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
    if sweep.finished(run.key):
        (folder / FAILURE).unlink(missing_ok=True)
        return
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    write_whole(folder / FAILURE, "\n".join([f"exit code {process.returncode}", *lines[-ERROR_LINES:]]))


def _report(sweep: Sweep) -> dict[str, Any]:
    results = summarise(sweep.parts, sweep.budget, sweep.out)
    write_report(results, sweep.out)
    return results
