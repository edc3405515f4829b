"""Plan the runs of a study, carry out those that are missing, and write the report after each."""

import asyncio
import itertools
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ssd4rec._io import escaped, exclusive_lock, write_atomically
from ssd4rec._suggestions import find
from ssd4rec.config import Config, presets, value_of
from ssd4rec.data.packing import plan_batches
from ssd4rec.data.sequences import build_sequences
from ssd4rec.data.split import make_split
from ssd4rec.data.summary import describe
from ssd4rec.datasets.registry import DATASETS, is_named_dataset
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF
from ssd4rec.paper import worker
from ssd4rec.paper.recipes import BUDGETS, Budget
from ssd4rec.paper.report import write_report
from ssd4rec.paper.results import (
    BASELINES,
    DataInfo,
    Finished,
    Results,
    Row,
    Section,
    Unfinished,
    load_ranks,
    load_results,
    run_key,
    save_results,
)
from ssd4rec.paper.significance import add_tests
from ssd4rec.paper.studies import (
    COMPARING,
    CURVES,
    MODELS,
    STUDIES,
    TWINS,
    Point,
    Setting,
    distinct_points,
    make_points,
    with_equal_steps,
    with_full_window,
)

logger = logging.getLogger(__name__)

Watch = Callable[[int, int, str], None]  # (runs done, all runs, current activity)
FAILURE, LOG = "failure.txt", "log.txt"
REASON_LINES = 12
LENGTHS = [int(length) for length in STUDIES["length"].values]
READING = [f"data.{name}" for name in ("user", "item", "time", "columns", "separator", "layout", "time_format")]
NOT_PROTOCOL = (*READING, "evaluation.token_budget")


@dataclass(frozen=True)
class Sweep:
    """A planned command: sections whose runs are all missing."""

    sections: tuple[Section, ...]
    sources: Mapping[str, str]  # by fingerprint: name or path of the data
    out: Path
    cache: Path  # of named data sets

    @cached_property
    def jobs(self) -> dict[str, worker.RunSpec]:
        """Each run once, by its key; studies share runs."""
        jobs: dict[str, worker.RunSpec] = {}
        sections = [section.arranged for section in self.sections]
        runs = [(section, row, run) for section in sections for row in section.rows for run in row.runs]
        for section, row, run in runs:
            data, fusion = section.data, {"cooccurrence_model": section.budget.cooccurrence_model}
            jobs[run.key] = worker.RunSpec(
                title=f"{data.name}, {row.label}" + ("" if run.seed is None else f", seed {run.seed}"),
                key=run.key,
                model=row.model,
                source=self.sources[data.fingerprint],
                fingerprint=data.fingerprint,
                cache=str(self.cache.resolve()),
                seed=run.seed,
                settings={**row.settings_of(run.seed), "fusion": fusion},
            )
        return jobs

    def folder(self, key: str) -> Path:
        """Return the working folder of a run: log, checkpoint and model."""
        return self.out / "runs" / key


def plan_sweep(  # noqa: PLR0913 - what a command says, and what was found for it
    study: str,
    sources: Sequence[str],
    budget: Budget,
    out: Path,
    cache: Path,
    *,
    models: Sequence[str],
    settings: Sequence[str],
    values: Sequence[str] = (),
    found: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Sweep:
    """Check a command and plan its runs; nothing is trained.

    The arguments are those of the command: `sources` are names or paths of data sets, `out` and `cache` the folders of the
    results and of named data sets. For `models`, `settings` and `values` see `make_points`; the study may be "all".
    `found` has the settings that a search has found for single models, by the fingerprint of the data.

    Raises:
        ConfigError: A study, model, setting or value is unknown or does not fit.
        DataError: A data set cannot be read.
    """
    studies = list(STUDIES) if find(study, (*STUDIES, "all"), "study") == "all" else [study]
    selected = [find(model, MODELS, "model") for model in models]
    if models and study == "ablation":
        raise ConfigError("ablation is about ssd4rec alone; leave out --models")
    if values and study not in CURVES:
        raise ConfigError(f"--values applies to {', '.join(CURVES)}; leave it out for {study}")
    models_of = {name: selected if study != "all" or name in COMPARING else [] for name in studies}
    for name in studies:  # mistakes are reported before the data are read
        make_points(name, None, budget, models_of[name], settings, values)
    lengths = {*LENGTHS, *(int(row.x) for row in STUDIES[study].select(values) if row.x)} if study == "length" else LENGTHS
    config = make_points("accuracy", None, budget, BASELINES[:1], settings)[0].configs[0]
    if MONITORED_CUTOFF not in config.evaluation.cutoffs:
        raise ConfigError(
            f"the tables compare NDCG@{MONITORED_CUTOFF}: evaluation.cutoffs must include {MONITORED_CUTOFF}, "
            f"found {config.evaluation.cutoffs}"
        )
    sections, paths = [], {}
    names = [Path(source).name for source in dict.fromkeys(sources)]
    for source in dict.fromkeys(sources):
        path = name = source
        if not is_named_dataset(source):
            path = str(Path(source).resolve())
            name = "/".join(Path(path).parts[-1 if names.count(Path(path).name) == 1 else -2 :])
        data, steps = inspect_source(path, escaped(name), config, cache, sorted(lengths))
        paths[data.fingerprint] = path
        of_data = found.get(data.fingerprint, ())
        sections += [_plan_section(each, data, steps, budget, models_of[each], settings, values, of_data) for each in studies]
    present = {row.model for section in sections for row in section.rows}
    if unused := {each.model for each in map(Setting.parse, settings) if each.model} - present:
        raise ConfigError(f"--set {min(unused)}: no row has this model; the rows are {', '.join(sorted(present))}")
    return Sweep(tuple(sections), paths, out, cache)


def inspect_source(
    path: str, name: str, config: Config, folder: Path, lengths: Sequence[int]
) -> tuple[DataInfo, Callable[[int | None, int], int]]:
    """Read a data set once to describe it; named data sets are recognized by their counts, whatever the name of the file.

    Returns:
        Its description, and the number of batches of an epoch, by `data.max_length` and `training.token_budget`.

    Raises:
        DataError: It cannot be read, or nothing is left after filtering.
    """
    interactions = worker.open_interactions(path, config, folder)
    sequences, _ = build_sequences(interactions, config.data.min_interactions, tie_order=config.data.tie_order)
    described: Any = describe(interactions.read, sequences)
    counts = asdict(sequences.kept)
    matching = (name for name, each in DATASETS.items() if all(counts[key] == value for key, value in asdict(each.kept).items()))
    train = make_split(sequences, config.replaced("data", max_length=None).data).train
    info = DataInfo(
        name=name,
        known=next(matching, None),
        fingerprint=sequences.fingerprint(),
        **counts,
        simultaneous=described["tie_order"]["interactions"],
        longer={length: int(np.count_nonzero(np.diff(sequences.offsets) > length)) for length in lengths},
        notes=tuple(described["read"]["notes"]),
    )

    lengths_of = cache(lambda length: replace(train, max_length=length).windows().lengths)

    @cache
    def steps(length: int | None, token_budget: int) -> int:
        return len(plan_batches(lengths_of(length), token_budget, np.random.default_rng(0)))

    return info, steps


def _plan_section(
    study: str,
    data: DataInfo,
    steps: Callable[[int | None, int], int],
    budget: Budget,
    selected: Sequence[str],
    settings: Sequence[str],
    values: Sequence[str],
    found: Sequence[str],
) -> Section:
    models = list(selected or (MODELS if study in COMPARING else ()))
    if study == "efficiency":
        models = [model for model in models if model not in BASELINES]  # nothing to time
    points = make_points(study, data.known, budget, models, settings, values, found)
    present = {point.model for point in points}
    omitted = [f"{twin} (the network of {TWINS[twin]})" for twin in models if twin in TWINS and twin not in present]
    if study in ("ablation", "length"):
        scaled = [replace(each, configs=tuple(with_equal_steps(config, steps) for config in each.configs)) for each in points]
        points, repeated = distinct_points([with_full_window(each, data.longest) for each in scaled], data.longest)
        omitted += dict.fromkeys(repeated)
    options = ["--models", ",".join(models)] if selected else []
    options += ["--values", ",".join(values)] if values else []
    options += [word for setting in settings for word in ("--set", setting)]
    protocol = [
        f"{name}={value_of(points[0].configs[0], name)}"
        for name in dict.fromkeys(name for point in points for name in point.changed)
        if name.partition(".")[0] in ("data", "evaluation") and name not in NOT_PROTOCOL
    ]
    return Section(
        study=study,
        title=" ".join([data.name, *map(escaped, protocol)]),
        data=data,
        budget=budget,
        commands=(escaped(shlex.join(["ssd4rec", "reproduce", study, data.name, *budget.options(), *options])),),
        general_settings=tuple(text for text in settings if Setting.parse(text).model is None),
        reduced=_why_reduced(data.known, budget, points),
        omitted=tuple(omitted),
        rows=tuple(_plan_row(point, data.fingerprint) for point in points),
    )


def _plan_row(point: Point, fingerprint: str) -> Row:
    dumps = [config.model_dump(mode="json", exclude={"fusion"}) for config in point.configs]
    baseline = point.model in BASELINES
    runs = tuple(
        Unfinished(
            status="missing",
            key=run_key(point.model, fingerprint, settings),
            seed=None if baseline else settings["training"]["seed"],
        )
        for settings in dumps
    )
    groups = ("data", "evaluation") if baseline else dumps[0].keys()
    settings = {group: dumps[0][group] for group in groups}
    return Row(label=point.label, model=point.model, x=point.x, settings=settings, origin=point.origin, runs=runs)


def _why_reduced(known: str | None, budget: Budget, points: Sequence[Point]) -> str | None:
    """Return why the metrics do not show what the paper's settings give; None if they do."""
    if budget.follows_paper and known not in presets():
        return "the paper has no settings for these data, so our recipes were used"
    if budget.follows_default:
        return "every model has the settings of the default preset"
    if not budget.follows_paper or budget.width < BUDGETS["paper"].width:
        return "reduced budget"
    if budget.width > BUDGETS["paper"].width:
        return f"the width is {budget.width}, the paper's is {BUDGETS['paper'].width}"
    changed: dict[str, list[str]] = {}
    trained = [point for point in points if point.model not in BASELINES]
    by_model = len({point.model for point in trained}) > 1
    for point in trained:
        for name in point.changed:
            if not name.startswith(("data.", "evaluation.")):
                changed.setdefault(name, []).append(point.model if by_model else point.label)
    texts = [
        name if len(of) == len(trained) else f"{name} of {', '.join(dict.fromkeys(of))}" for name, of in sorted(changed.items())
    ]
    return f"settings were changed ({', '.join(texts)})" if texts else None


def run_sweep(sweep: Sweep, watch: Watch = lambda *_: None, *, jobs: int = 1, threads: int | None = None) -> Results:
    """Carry out the runs that are missing, and write results, ranks and report after each.

    A failed run is reported and tried again by the next call; the others continue.

    Args:
        sweep: From `plan_sweep`.
        watch: Receives progress.
        jobs: Number of processes at once, 1 or more.
        threads: Of each process; None: its own choice.

    Raises:
        DataError: The folder cannot be written, or another sweep uses it.
        KeyboardInterrupt: The processes are ended; the same command continues.
    """
    busy = DataError(f"another sweep is writing to {sweep.out}; wait for it, or choose another --out")

    def refused(reason: str) -> DataError:
        return DataError(f"{sweep.out} cannot be written: {reason}; choose another --out")

    try:
        with exclusive_lock(sweep.out / "lock", busy, refused):
            return _Runner(sweep, watch).run(jobs, threads)
    except OSError as error:
        raise refused(error.strerror or str(error)) from error


class _Runner:
    """The state of a sweep while it runs: results, ranks, and finished runs."""

    def __init__(self, sweep: Sweep, watch: Watch) -> None:
        self.sweep, self.watch = sweep, watch
        self.results, self.ranks = load_results(sweep.out), load_ranks(sweep.out)
        self.finished = self.results.finished_runs()
        for key in sweep.jobs.keys() - self.finished.keys():
            self._collect(key)  # finished, but its sweep was killed before it could write the results

    def run(self, jobs: int, threads: int | None) -> Results:
        """Carry out each missing run in a process of its own, `jobs` at once, and write the results after each."""
        missing = [spec for key, spec in self.sweep.jobs.items() if key not in self.finished]
        total = len(self.sweep.jobs)
        runs = "1 run" if total == 1 else f"{total} runs"
        logger.info("%s, %d of them finished in %s, %d to do", runs, total - len(missing), self.sweep.out, len(missing))
        self._write()
        slots, began, done = asyncio.Semaphore(jobs), time.monotonic(), itertools.count(1)

        def show(activity: str) -> None:
            self.watch(sum(key in self.finished for key in self.sweep.jobs), total, activity)

        async def run_one(spec: worker.RunSpec) -> None:
            async with slots:
                await _run_process(replace(spec, parallel_runs=jobs), self.sweep.folder(spec.key), threads, show)
                self._collect(spec.key)
                self._write()
                ended = next(done)
                remaining = len(missing) - ended
                state = "done" if spec.key in self.finished else f"FAILED, see {self.sweep.folder(spec.key) / FAILURE}"
                minutes = f", about {(time.monotonic() - began) / ended * remaining / 60:.0f} min" if remaining else ""
                logger.info("%s: %s; %d left%s", spec.title, state, remaining, minutes)

        async def run_all() -> None:
            await asyncio.gather(*map(run_one, missing))

        asyncio.run(run_all())
        self.watch(total, total, "")
        return self.results

    def _collect(self, key: str) -> None:
        folder = self.sweep.folder(key)
        if not (folder / worker.RESULT).is_file():
            return
        try:
            self.finished[key] = Finished.model_validate_json((folder / worker.RESULT).read_text(encoding="utf-8"))
            with np.load(folder / worker.RANKS) as arrays:
                self.ranks |= {(key, variant): arrays[variant].astype(np.int64) for variant in arrays.files}
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{folder} is damaged: {error}; remove it and run the command again") from error

    def _write(self) -> None:
        results = self.results.model_copy(update={"commit": worker.source_commit()})
        for section in self.sweep.sections:
            rows = [
                row.model_copy(update={"runs": tuple(self._outcome(run, section.data) for run in row.runs)})
                for row in section.rows
            ]
            results = results.with_section(section.model_copy(update={"rows": tuple(rows)}))
        self.results = add_tests(results, {section.identity for section in self.sweep.sections}, self.ranks)
        save_results(self.results, self.ranks, self.sweep.out)
        write_report(self.results, self.sweep.out)

    def _outcome(self, planned: Finished | Unfinished, data: DataInfo) -> Finished | Unfinished:
        failure = self.sweep.folder(planned.key) / FAILURE
        if planned.key in self.finished or not failure.is_file():
            return self.finished.get(planned.key, planned)
        reason = failure.read_text(encoding="utf-8").replace(str(self.sweep.out.resolve()), "OUT")
        reason = reason.replace(self.sweep.sources[data.fingerprint], data.name)  # no path of this machine
        return Unfinished(status="failed", key=planned.key, seed=planned.seed, reason=reason)


async def _run_process(spec: worker.RunSpec, folder: Path, threads: int | None, on_activity: Callable[[str], None]) -> None:
    """Run a spec in a process of its own; if it fails, the reason is in FAILURE then. Cancellation kills the process.

    The process also watches its standard input, which closes however this process ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (FAILURE, worker.RESULT):
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / worker.SPEC, json.dumps(asdict(spec), indent=1))
    limits = {"OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads)} if threads else {}
    with (folder / LOG).open("ab") as log:
        log_start = log.tell()
        process = await asyncio.create_subprocess_exec(
            # -P: a module in the current folder must not replace one of Python
            *(sys.executable, "-P", "-m", "ssd4rec.paper.worker", str(folder.resolve())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **limits},
            process_group=0,  # Ctrl-C in a terminal reaches the sweep alone
        )
    try:
        on_activity(spec.title)
        while process.stdout and (line := await process.stdout.readline()):
            on_activity(f"{spec.title}: {line.decode(errors='replace').strip()}")
        code = await process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if code != 0 or not (folder / worker.RESULT).is_file():
        output = (folder / LOG).read_bytes()[log_start:].decode(errors="replace").splitlines()
        write_atomically(folder / FAILURE, "\n".join(_failure_reason(code, output)))


def _failure_reason(code: int, output: Sequence[str]) -> list[str]:
    if code >= 0:
        return [f"exit code {code}", *(output[-REASON_LINES:] or ["no output"])]
    meaning = "possibly out of memory" if code == -signal.SIGKILL else signal.strsignal(-code) or "unknown signal"
    return [f"killed by signal {-code}", meaning]
