"""Typed contents of results.json, and the per-user ranks in ranks.parquet next to it."""

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssd4rec._io import atomic_write, read_parquet, write_atomically
from ssd4rec.config import Config
from ssd4rec.errors import DataError
from ssd4rec.evaluation.evaluate import EvaluationProtocol
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF, MONITORED_METRIC, Ranks, ndcg
from ssd4rec.paper.recipes import Budget

RESULTS, RANKS = "results.json", "ranks.parquet"
BASELINES = ("popularity", "personal-popularity", "sequential-rules", "sequential-ridge", "ease")  # counted or solved
Variant = Literal["model", "model_exclude_seen", "fusion"]  # which scores were ranked
Measured = Variant | Literal["fusion_exclude_seen"]  # of which there are metrics
VARIANTS: tuple[Variant, ...] = get_args(Variant)
ENCODING = {"user": "DELTA_BINARY_PACKED", "rank": "BYTE_STREAM_SPLIT"}  # half the size of the default
Metrics = Mapping[str, float]  # by name, e.g. "ndcg@10"
RankTable = dict[tuple[str, Variant], Ranks]  # by run key; ranks are 1-based, in the order of the users
Settings = Mapping[str, Mapping[str, Any]]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FusionResult(_Stored):
    """Metrics of a model with score fusion, and the weights tuned on the validation set."""

    cooccurrence_model: str | None = None  # None: not recorded in older results, sequential rules for every network
    cooccurrence: float
    repeat_bias: float
    test: Metrics
    test_exclude_seen: Metrics = {}


class Costs(_Stored):
    """Seconds and bytes of one run. None: not measured."""

    seconds_per_epoch: float | None = None  # median, with validation
    seconds_to_best: float | None = None
    inference_seconds: float | None = None
    padded_inference_seconds: float | None = None
    cpu_share: float | None = None  # process time / (wall time x threads) while training
    peak_memory: int | None = None  # bytes, of the whole process
    peak_gpu_memory: int | None = None  # bytes
    device: str | None = None
    parallel_runs: int = 1  # runs that shared the machine


class Finished(_Stored):
    """One trained and measured model."""

    status: Literal["finished"]
    key: str  # names the run in ranks.parquet
    seed: int | None  # None: the model draws no random numbers
    test: Metrics
    test_exclude_seen: Metrics = {}  # empty: the protocol excludes seen items already
    fusion: FusionResult | None = None
    protocol: EvaluationProtocol | None
    parameters: int | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    validation: tuple[float, ...] = ()  # NDCG@10 after each epoch
    costs: Costs = Costs()
    commit: str | None = None  # of the code that trained it
    versions: Mapping[str, str] = {}

    @property
    def metrics(self) -> dict[Measured, Metrics]:
        """Test metrics of each variant, and of score fusion with seen items excluded."""
        fusion: Any = {"fusion": self.fusion.test, "fusion_exclude_seen": self.fusion.test_exclude_seen} if self.fusion else {}
        return {"model": self.test, "model_exclude_seen": self.test_exclude_seen, **fusion}


class Unfinished(_Stored):
    """One run without metrics."""

    status: Literal["missing", "failed"]
    key: str
    seed: int | None
    reason: str = ""


class PairedTest(_Stored):
    """NDCG@10 of a row minus that of another row for the same users; see `significance.paired_bootstrap`."""

    baseline: str
    variant: Variant
    difference: float
    low: float  # 95 % interval
    high: float
    p: float


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1) of one metric over seeds; no deviation for a single seed."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarize one value per seed."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


class Row(_Stored):
    """One row of a table, or one point of a curve: the same settings under each seed."""

    label: str
    model: str
    x: float | None = None  # position on the axis of a curve; None there: whole sequences
    settings: Settings  # of the first seed
    origin: str | None = None  # where the settings come from
    runs: tuple[Annotated[Finished | Unfinished, Field(discriminator="status")], ...]
    tests: tuple[PairedTest, ...] = ()

    @property
    def finished(self) -> list[Finished]:
        """The runs with metrics."""
        return [run for run in self.runs if isinstance(run, Finished)]

    def summary(self, variant: Measured) -> dict[str, Spread]:
        """Return mean and standard deviation of each metric that every finished run has; empty if nothing was measured."""
        measured = [run.metrics.get(variant, {}) for run in self.finished]
        names = [name for name in (measured[0] if measured else ()) if all(name in each for each in measured)]
        return {name: Spread.of([each[name] for each in measured]) for name in names}

    @property
    def test(self) -> dict[str, Spread]:
        """Metrics of the model alone under the protocol of the section."""
        return self.summary("model")

    def cost(self, name: str) -> float | None:
        """Return the median over seeds of a field of `Costs`."""
        values = [value for run in self.finished if (value := getattr(run.costs, name)) is not None]
        return statistics.median(values) if values else None

    def settings_of(self, seed: int | None) -> dict[str, dict[str, Any]]:
        """Return the settings of the run with a seed."""
        settings = {group: dict(values) for group, values in self.settings.items()}
        if "training" in settings:
            settings["training"]["seed"] = seed
        return settings


class DataInfo(_Stored):
    """A data set after filtering."""

    name: str  # of a named data set, or of a file without its folder
    known: str | None  # the named data set with the same counts
    fingerprint: str
    users: int
    items: int
    interactions: int
    mean_length: float
    longest: int
    simultaneous: int = 0  # interactions at the same time as the one before
    longer: Mapping[int, int] = {}  # users with more interactions than the given number
    notes: tuple[str, ...] = ()


class Section(_Stored):
    """One study on one data set."""

    study: str
    title: str  # data set, and protocol where it is not the default
    data: DataInfo
    budget: Budget
    commands: tuple[str, ...]  # make the section again, but for --out and --jobs
    general_settings: tuple[str, ...] = ()  # of --set, without those for a single model
    reduced: str | None = None  # why the metrics do not show what the paper's settings give
    omitted: tuple[str, ...] = ()  # rows that would repeat another row on these data
    rows: tuple[Row, ...]

    @property
    def identity(self) -> tuple[object, ...]:
        """Sections with the same identity hold comparable rows and are merged."""
        budget = replace(self.budget, seeds=0)
        return (self.study, self.data.fingerprint, budget, *sorted(self.general_settings))

    @property
    def finished(self) -> list[Finished]:
        """The finished runs of all rows."""
        return [run for row in self.rows for run in row.finished]

    @property
    def protocol(self) -> EvaluationProtocol | None:
        """Protocol of the first finished run."""
        return next((run.protocol for run in self.finished if run.protocol), None)

    @property
    def excludes_seen(self) -> bool:
        """Whether the protocol excludes seen items."""
        return self.protocol is not None and self.protocol.exclude_seen

    @property
    def comparable_data(self) -> str | None:
        """The named data set whose published results are comparable: all of them are leave-last-out."""
        return None if self.protocol and self.protocol.split != "leave-last-out" else self.data.known

    @property
    def arranged(self) -> "Section":
        """The section as it is shown: rows of one model together, in the order of the axis, and no label twice."""
        models = list(dict.fromkeys(row.model for row in self.rows))
        rows = sorted(self.rows, key=lambda row: (models.index(row.model), math.inf if row.x is None else row.x))
        if len({row.label for row in rows}) < len(rows):
            rows = [row.model_copy(update={"label": f"{row.model}, {row.label}"}) for row in rows]
        return self.model_copy(update={"rows": tuple(rows)})

    def updated(self, later: "Section") -> "Section":
        """Merge a later section of the same identity: its rows replace the rows with the same model and label."""
        rows = {(row.model, row.label): row for row in (*self.rows, *later.rows)}
        commands = later.commands if len(rows) == len(later.rows) else tuple(dict.fromkeys(self.commands + later.commands))
        budget = replace(later.budget, seeds=max(self.budget.seeds, later.budget.seeds))
        data = later.data.model_copy(update={"longer": {**self.data.longer, **later.data.longer}})
        update = {"rows": tuple(rows.values()), "budget": budget, "commands": commands, "data": data}
        return later.model_copy(update=update)


class Results(_Stored):
    """The contents of results.json."""

    format: Literal[1] = 1
    commit: str | None = None  # of the code that wrote the file
    sections: tuple[Section, ...] = ()

    def with_section(self, section: Section) -> "Results":
        """Add a section, or merge it into the one with the same identity."""
        sections = {each.identity: each for each in self.sections}
        earlier = sections.get(section.identity)
        sections[section.identity] = earlier.updated(section) if earlier else section
        return self.model_copy(update={"sections": tuple(sections.values())})

    def as_dict(self) -> dict[str, Any]:
        """Return the contents as JSON values, without defaults."""
        return {"format": self.format, **self.model_dump(mode="json", exclude_defaults=True)}

    def finished_runs(self) -> dict[str, Finished]:
        """Return the finished runs by the key that this version gives to their settings.

        The settings are validated first, so that a setting added later takes its default. A run whose settings are not valid
        any more cannot be reused and is left out.
        """
        runs = {}
        for section in self.sections:
            for row in section.rows:
                for run in row.finished:
                    try:
                        config = Config.model_validate(row.settings_of(run.seed))
                    except ValueError:
                        continue
                    runs[run_key(row.model, section.data.fingerprint, config.model_dump(mode="json"))] = run
        return runs


def run_key(model: str, fingerprint: str, settings: Settings) -> str:
    """Return the name of a run: a hash of the model, the data and all settings that decide its metrics."""
    groups = ("data", "evaluation") if model in BASELINES else ("data", "backbone", "training", "evaluation")
    decisive = {"model": model, "data": fingerprint, "settings": {group: settings[group] for group in groups}}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def load_results(out: Path) -> Results:
    """Read results.json; empty results if the file does not exist.

    Raises:
        DataError: The file is damaged, or was not written by this version.
    """
    path = out / RESULTS
    try:
        return Results.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Results()
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(
            f"{path} is not a results file of this version ({reason}); move it away, or choose another --out"
        ) from error


def load_ranks(out: Path) -> RankTable:
    """Read ranks.parquet: columns `run`, `variant`, `user` (position after filtering) and `rank`.

    Raises:
        DataError: The file cannot be read.
    """
    path = out / RANKS
    if not path.is_file():
        return {}
    try:
        parts = read_parquet(path).partition_by("run", "variant", as_dict=True, maintain_order=True)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read: {error}; restore it, or choose another --out") from error
    return {(str(run), variant): part["rank"].to_numpy().astype(np.int64) for (run, variant), part in parts.items()}


def ranks_of(run: Finished, variant: Variant, ranks: RankTable) -> Ranks:
    """Return the ranks of a run.

    Raises:
        DataError: They do not give the NDCG@10 of the run.
    """
    expected, actual = run.metrics[variant][MONITORED_METRIC], ndcg(ranks[run.key, variant], MONITORED_CUTOFF)
    if abs(actual - expected) > 1e-9:
        raise DataError(
            f"{RANKS} gives {MONITORED_METRIC} {actual:.6f} for run {run.key}, but {RESULTS} has {expected:.6f}; "
            "restore both files from the same commit"
        )
    return ranks[run.key, variant]


def save_results(results: Results, ranks: RankTable, out: Path) -> None:
    """Write ranks.parquet, then results.json, each completely or not at all."""
    keys = sorted({run.key for section in results.sections for run in section.finished})
    tables = [
        pa.table({"run": [key] * len(of_run), "variant": [variant] * len(of_run), "user": np.arange(len(of_run)), "rank": of_run})
        for key, variant in product(keys, VARIANTS)
        if (of_run := ranks.get((key, variant))) is not None
    ]
    schema = pa.schema([("run", pa.string()), ("variant", pa.string()), ("user", pa.int32()), ("rank", pa.int32())])
    table = pa.concat_tables([schema.empty_table(), *(each.cast(schema) for each in tables)])
    with atomic_write(out / RANKS) as partial:
        pq.write_table(table, partial, use_dictionary=["run", "variant"], column_encoding=ENCODING, compression="zstd")
    write_atomically(out / RESULTS, json.dumps(results.as_dict(), indent=1, ensure_ascii=False) + "\n")
