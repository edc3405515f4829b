"""Bodies of requests and answers."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ssd4rec.service.ids import FreeJson, Id, OutputId, Timestamp, check_text

MAX_EVENTS = 1000  # of one request
MAX_BATCH = 256  # recommendation requests of one batch
MAX_EVENT_PAGE = 1000

UnknownItems = Literal["skip", "raise", "popular"]
Explain = Literal["none", "parts", "weights", "effects"]
Label = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_text)]
Text = Annotated[str, Field(max_length=1000), AfterValidator(check_text)]
AT = "when the items are wanted; a model without backbone.request_time does not read it, and a warning says so"
LAST_EVENT = "when the last event of history was; without it the model answers as if the time were not known"
Seconds = Annotated[int | float, Field(description="seconds since 1970", examples=[1767200000])]


class Body(BaseModel):
    """Base of request bodies; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Event(Body):
    """One interaction of a user with an item."""

    user_id: Id
    item_id: Id
    event_id: Id | None = Field(None, description="unique; a repeat is counted as a duplicate and changes nothing")
    type: Label = "view"
    timestamp: Timestamp | None = Field(
        None, description="seconds since 1970 or ISO 8601; missing: now, after all earlier events"
    )
    value: float | None = None
    recommendation_id: Id | None = None
    properties: FreeJson | None = None


class EventsIn(BaseModel):
    """Up to 1,000 events. Each is checked by itself, so that a bad one does not cost the others."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"events": [{"event_id": "e1", "user_id": "u7", "item_id": "m318", "timestamp": 1767200000}]}]
        },
    )

    events: list[Any] = Field(
        min_length=1, max_length=MAX_EVENTS, json_schema_extra={"items": {"$ref": "#/components/schemas/Event"}}
    )


class RejectedEvent(BaseModel):
    """Why an event was not stored."""

    index: int = Field(description="position in the request, from 0")
    code: str
    detail: str


class EventsOut(BaseModel):
    """The answer to events, sent after they are on disk."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]


class Categories(Body):
    """A filter by the categories of items."""

    any: list[Label] | None = Field(None, max_length=1000, description="items with at least one of these")
    none: list[Label] | None = Field(None, max_length=1000, description="items with none of these")


class RecommendationsIn(Body):
    """A request for recommendations to a stored user or after a history."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": "u7", "k": 10},
                {"user_id": "u7", "k": 10, "at": 1767200000},
                {"history": ["m1", "m2"], "last_event": 1767199000, "k": 5},
            ]
        }
    )

    user_id: Id | None = None
    history: list[Id] | None = Field(None, description="item ids, oldest first, in place of a stored user")
    k: int = Field(10, ge=1, strict=True, description="number of items at most")
    exclude_seen: bool = Field(default=True, description="leave out items of the history")
    allow: list[Id] | None = Field(None, description="only these items")
    deny: list[Id] | None = Field(None, description="not these items")
    categories: Categories | None = None
    unknown_items: UnknownItems = "skip"
    context: FreeJson | None = Field(None, description="stored; the model does not read it yet")
    explain: Explain = "none"
    as_of: Timestamp | None = Field(None, description="only events up to this time are read")
    at: Timestamp | None = Field(None, description=f"{AT}; missing: as_of, or now")
    last_event: Timestamp | None = Field(None, description=LAST_EVENT)

    @model_validator(mode="after")
    def _one_of_both(self) -> "RecommendationsIn":
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give either user_id or history")
        if self.history is not None and self.as_of is not None:
            raise ValueError("as_of needs a user_id: a history in the request has no timestamps")
        _check_times(self.history, self.at, self.last_event)
        return self


def _check_times(history: list[str] | None, at: int | None, last_event: int | None) -> None:
    if history is None and last_event is not None:
        raise ValueError("last_event needs a history: the store has the times of a user's events")
    if history is not None and at is not None and last_event is None:
        raise ValueError("at needs last_event: a history in the request has no timestamps")


class ModelRef(BaseModel):
    """The model that answered."""

    version: str
    fingerprint: str


class RecommendedItem(BaseModel):
    """One recommended item."""

    item_id: OutputId
    title: str | None
    score: float
    rank: int = Field(description="1-based, counted over all pages of an answer")
    reasons: list[dict[str, Any]] | None = None


class RecommendationsOut(BaseModel):
    """The answer to a request for recommendations."""

    recommendation_id: str
    model: ModelRef
    variant: str
    source: Literal["model", "popular"]
    at: Seconds | None = Field(description="when the items are wanted, as the model has read it; null: it has not read a time")
    items: list[RecommendedItem]
    warnings: list[str]
    next: str | None = Field(description="address of the next page; null after the last candidate")


class BatchIn(Body):
    """Up to 256 requests; a bad one is answered by a problem object and does not cost the others."""

    requests: list[Any] = Field(
        min_length=1, max_length=MAX_BATCH, json_schema_extra={"items": {"$ref": "#/components/schemas/RecommendationsIn"}}
    )


class BatchAnswer(BaseModel):
    """One answer of a batch."""

    status: int
    body: dict[str, Any] = Field(description="an answer as of POST /v1/recommendations, or a problem object")


class BatchOut(BaseModel):
    """The answers of a batch, in the order of its requests."""

    answers: list[BatchAnswer]


class ItemIn(Body):
    """Metadata of an item; the model does not read it."""

    title: Text | None = None
    categories: list[Label] = Field(default_factory=list, max_length=100)
    hidden: bool = Field(default=False, description="not recommended to anybody")
    available_from: Timestamp | None = None
    available_until: Timestamp | None = None


class ItemOut(BaseModel):
    """An item."""

    item_id: OutputId
    title: str | None
    categories: list[str]
    hidden: bool
    available_from: Seconds | None
    available_until: Seconds | None
    in_catalog: bool = Field(description="whether the active model can recommend it")
    training_interactions: int | None


class ItemMatch(BaseModel):
    """An item of the catalog that a search matched."""

    item_id: OutputId
    title: str | None
    training_interactions: int


class ItemMatchesOut(BaseModel):
    """Items of the catalog, the best match first."""

    items: list[ItemMatch]


class SimilarItem(BaseModel):
    """A neighbor of an item."""

    item_id: OutputId
    title: str | None
    score: float = Field(description="cosine of the item vectors")
    rank: int


class SimilarOut(BaseModel):
    """The nearest items by item vector."""

    item_id: OutputId
    model: ModelRef
    items: list[SimilarItem]


class UserOut(BaseModel):
    """A user of the store."""

    user_id: OutputId
    events: int
    last_timestamp: Seconds | None


class UsersOut(BaseModel):
    """Some users."""

    users: list[UserOut]


class StoredEvent(BaseModel):
    """An event as it is stored."""

    event_id: str | None
    item_id: OutputId
    title: str | None = Field(description="of the item, where the store or the active model knows it")
    type: str
    timestamp: Seconds
    value: float | None
    recommendation_id: str | None
    properties: dict[str, Any] | None


class EventPage(BaseModel):
    """Events of a user in the order of the history, oldest first."""

    events: list[StoredEvent]
    next: str | None = Field(description="cursor of the next page; null on the last one")


class Erasure(BaseModel):
    """One deletion of a user; whose it was is not stored."""

    erased_at: Seconds
    events: int
    models_trained_before: list[str] = Field(description="served versions whose training may have read the deleted events")


class ErasuresOut(BaseModel):
    """Deletions, the newest first."""

    erasures: list[Erasure]


class ExplanationsIn(Body):
    """A request for the explanation of one item."""

    user_id: Id | None = None
    history: list[Id] | None = None
    item_id: Id
    level: Literal["parts", "weights", "effects", "counterfactual"] = "effects"
    at: Timestamp | None = Field(None, description=f"{AT}; missing: now")
    last_event: Timestamp | None = Field(None, description=LAST_EVENT)

    @model_validator(mode="after")
    def _one_of_both(self) -> "ExplanationsIn":
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give either user_id or history")
        _check_times(self.history, self.at, self.last_event)
        return self


class ExplanationOut(BaseModel):
    """An explanation; its fields depend on the level."""

    model: ModelRef
    explanation: dict[str, Any]
    warnings: list[str]


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, str]] | None = None
