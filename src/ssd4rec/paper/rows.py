"""What results.json holds: studies, their sections (one data set each), a section's rows, and the seeds of a row.

A field with a default is one that not every version wrote; what it means where it is missing stands beside it. What was not in
a file is not in what it becomes when it is written again.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from ssd4rec.data.sequences import Kept


class _Stored(BaseModel):
    """A part of the file: frozen, strict about types and keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Spread(_Stored):
    """One metric over seeds."""

    mean: float
    sd: float | None  # standard deviation (n - 1); None: of one seed
    n: int  # seeds

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of one value a seed."""
        return cls(mean=statistics.fmean(values), sd=statistics.stdev(values) if len(values) > 1 else None, n=len(values))


Figures = Mapping[str, Spread]  # by metric, e.g. "ndcg@10"; empty: nothing is measured


class WithFusion(_Stored):
    """The same models with what is known without learning added to their scores, as each seed's validation chose."""

    metrics: Figures
    seen_removed: Figures = {}  # empty: an earlier version did not measure it
    rules: tuple[float, ...]  # weight of the counts, by seed
    repeat_bias: tuple[float, ...]  # what is added to the scores of seen items, by seed


class Costs(_Stored):
    """Medians over seeds; None: not measured."""

    seconds_an_epoch: float | None
    seconds_to_best: float | None
    inference_seconds: float | None
    padded_inference_seconds: float | None
    cpu_share: float | None = None  # of its threads' time while it learned; an earlier version did not measure it
    peak_memory: int | float | None  # bytes
    peak_gpu_memory: int | float | None  # bytes


class PublishedRow(_Stored):
    """What somebody published of a model."""

    figures: Mapping[str, float]
    grade: str  # see published.py
    source: str


class PairedTest(_Stored):
    """NDCG@10 of a row less that of another one, see `paired_bootstrap`."""

    baseline: str  # label of the other row
    difference: float
    low: float  # of the 95 % interval
    high: float
    p: float


class _Training(_Stored):
    seed: int
    key: str  # the name of its folder


class Missing(_Training):
    """Not made yet."""

    state: Literal["missing"]


class Failed(_Training):
    """Tried, and not finished."""

    state: Literal["failed"]
    why: str  # what the process left in failure.txt


class Finished(_Training):
    """Trained and measured."""

    state: Literal["finished"]
    test: Mapping[str, float]
    best_epoch: int
    epochs: int | None = None  # None: an earlier version did not keep it, nor the device, nor the targets
    jobs: int  # runs at once
    device: str | None = None
    targets: int | None = None
    commit: str | None = None  # by whose code it was trained; None: not kept, or of an installed package


Seed = Annotated[Missing | Failed | Finished, Field(discriminator="state")]


class Row(_Stored):
    """One row of a table, or one point of a figure."""

    label: str
    model: str
    x: int | float | None  # where it stands in a figure; None in one: the whole history
    metrics: Figures
    seen_removed: Figures = {}  # the same with seen items removed from the candidates; empty: not measured
    with_fusion: WithFusion | None
    costs: Costs
    parameters: int | None
    settings: Mapping[str, Mapping[str, Any]] | None  # of the first seed, as the version that made it had them
    recipe: str | None  # where the settings come from
    published: PublishedRow | None  # under the same protocol
    seeds: tuple[Seed, ...]  # none: of what is not learned
    against_baselines: tuple[PairedTest, ...] = ()
    against_best_baseline: PairedTest | None = None  # as an earlier version wrote the only test

    @property
    def tests(self) -> tuple[PairedTest, ...]:
        """Against other rows of the section."""
        return self.against_baselines or ((self.against_best_baseline,) if self.against_best_baseline else ())

    @property
    def finished(self) -> list[Finished]:
        """The seeds that have figures."""
        return [seed for seed in self.seeds if isinstance(seed, Finished)]


class Protocol(_Stored):
    """The `EvaluationProtocol` of the first run: what decides whether two figures may be compared."""

    split: str
    candidates: str
    exclude_seen: bool
    ties: str
    k_core: int
    tie_order: str | None = None  # None: an earlier version knew the order of the file only
    max_length: int | None
    targets: int

    @property
    def by_time(self) -> bool:
        """Whether a user may have several targets; a split by time says its moments too."""
        return self.split.startswith("time")


class Ties(_Stored):
    """Events at the same time as the one before."""

    interactions: int
    order: str


class StoredBudget(_Stored):
    """How much the study might cost."""

    name: str  # `Budget.label`: where numbers were changed it says so
    width: int
    epochs: int
    seeds: int


class Section(_Stored):
    """One study on one data set. Of what is not finished there are no figures."""

    source: str  # of the data: a name, or a path
    command: str = ""  # that makes it again; empty: an earlier version did not keep it
    known: str | None  # the named data set that these are
    fingerprint: str
    kept: Kept
    data_notes: tuple[str, ...] = ()  # of the data's reader; an earlier version did not keep them
    tie_order: Ties | None = None  # None: an earlier version did not count them
    longer: Mapping[int, int] | None = None  # histories of more events than so many; None: an earlier version did not count them
    budget: StoredBudget
    reduced: str | None  # why the figures do not say what the paper's settings give; None: they do
    without: tuple[str, ...] = ()  # rows left out, for they change nothing on these data; an earlier version left out none
    axis: str | None  # of a figure
    protocol: Protocol | None
    versions: Mapping[str, str] | None  # of the libraries, in the first run
    device: str | None  # of the first run
    jobs: int  # most runs at once
    rows: tuple[Row, ...]
    highest_published: tuple[str, float] | None  # whose NDCG@10, and what it is
    highest_published_seen_removed: tuple[str, float] | None = None  # under the other protocol
    published_only: Mapping[str, PublishedRow]  # models that no row is of


Studies = dict[str, dict[str, Section]]  # by study, and by the name of the data


class Results(_Stored):
    """The whole file."""

    format: int
    commit: str | None = None  # of the code that summarized it; None: not known, as of an installed package
    studies: Studies

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: what results.json holds."""
        return self.model_dump(mode="json", exclude_unset=True)  # what an earlier version did not keep is not made up
