"""Bodies of the answers about versions of the model, their live metrics, and experiments."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ssd4rec.service.ids import Id
from ssd4rec.service.schemas import Body, ModelRef, Seconds


class Live(BaseModel):
    """What happened with a model in a window of time."""

    events: int = Field(description="that arrived while the model was loaded")
    ranked_events: int = Field(description="of them, ranked by the state before they were read")
    hit_rate: float | None = Field(description="HR@10 of the ranked events")
    hit_rate_interval: tuple[float, float] | None
    ndcg: float | None = Field(description="NDCG@10 of the ranked events")
    unknown_share: float | None = Field(description="of events whose item is not in the catalog")
    popular_share: float | None = Field(description="of answers with popular items")
    popularity_shift: float | None = Field(description="population stability index of the items of events against training")


class LivePoint(Live):
    """Five minutes."""

    at: Seconds


class LiveOut(BaseModel):
    """Live metrics of a model over time, the oldest first."""

    model: ModelRef
    points: list[LivePoint]


class Check(BaseModel):
    """One check of the gate before an activation."""

    name: str
    passed: bool
    detail: str


class ModelOut(BaseModel):
    """A model version."""

    version: str
    active: bool
    loaded: bool
    fingerprint: str | None
    catalog_size: int | None
    incremental: bool | None
    error: str | None = Field(None, description="why the version could not be loaded")
    live: Live | None = Field(None, description="of the last hours (`live_hours`); null: the version is not loaded")
    checks: list[Check] | None = Field(None, description="of the gate, after an activation")


class ModelsOut(BaseModel):
    """All versions."""

    models: list[ModelOut]


class ModelReportOut(BaseModel):
    """What `ssd4rec train` reported of a version."""

    version: str
    report: dict[str, Any] = Field(
        description="the keys are those of report.json; a version that was saved without a report has none",
        examples=[{"test": {"ndcg@10": 0.0967}, "intervals": {"model": {"ndcg@10": [0.079, 0.114]}}}],
    )


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", examples=["longer-histories"])]


class ExperimentIn(Body):
    """A comparison of the active model with another version."""

    name: Name = Field(description="of the experiment; users are assigned by it")
    kind: Literal["shadow", "ab", "interleaving"] = Field(
        description="shadow: the treatment ranks incoming events only; ab: it answers a share of the users; "
        "interleaving: a share of the users is given lists drafted from both"
    )
    treatment: Id = Field(description="version of the model")
    share: float = Field(0.5, gt=0.0, le=1.0, description="of the users who are given the treatment or interleaved lists")


class ArmOut(BaseModel):
    """What became of the answers of one arm."""

    arm: str
    answers: int
    users: int
    clicked: int = Field(description="answers with an event of one of their items that names the recommendation_id")
    click_through_interval: tuple[float, float] = Field(description="95 %, Wilson")
    followed: int = Field(description="answers after which the user had another event")
    hits: int = Field(description="of them: the next event was of one of the items")
    hit_rate_interval: tuple[float, float] = Field(description="95 %, Wilson")


class InterleavingOut(BaseModel):
    """Answers that one team won: with more of its items clicked."""

    control_wins: int
    treatment_wins: int
    ties: int
    treatment_share_interval: tuple[float, float] = Field(description="95 %, Wilson, of the answers that one team won")


class PairedOut(BaseModel):
    """Treatment minus control in NDCG@10 of the same incoming events, each ranked before it was read."""

    ranked_events: int
    difference: float | None
    interval: tuple[float, float] | None = Field(description="95 %")
    p_value: float | None = Field(description="two-sided, paired")


class ExperimentOut(BaseModel):
    """An experiment and its results so far."""

    name: str
    kind: str
    control: str
    treatment: str
    share: float
    started: Seconds
    ended: Seconds | None
    arms: list[ArmOut]
    click_through_difference: tuple[float, float] | None = Field(description="95 % interval (Newcombe), treatment minus control")
    interleaving: InterleavingOut | None
    prequential: PairedOut


class ExperimentsOut(BaseModel):
    """All experiments, the newest first."""

    experiments: list[ExperimentOut]
