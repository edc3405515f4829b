"""Bodies of requests and answers that several modules use; those of one route are in its module."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ssd4rec.service.ids import FreeJson, Id, OutputId, Timestamp, check_text, seconds

Label = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_text)]
Text = Annotated[str, Field(max_length=1000), AfterValidator(check_text)]
AT = "when the items are wanted; a model without backbone.request_time does not read it, and a warning says so"
LAST_EVENT = "when the last event of history was; without it the model answers as if the time were not known"
Seconds = Annotated[int | float, Field(description="seconds since 1970", examples=[1767200000])]
StoredTime = Annotated[Seconds, BeforeValidator(seconds)]  # made of microseconds, as they are stored


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


class Out(BaseModel):
    """Base of the bodies of answers; one can be made of any object with its attributes."""

    model_config = ConfigDict(from_attributes=True)


class Categories(Body):
    """A filter by the categories of items."""

    any: list[Label] | None = Field(None, max_length=1000, description="items with at least one of these")
    none: list[Label] | None = Field(None, max_length=1000, description="items with none of these")


def check_history(
    user_id: str | None, history: list[str] | None, at: int | None, last_event: int | None, as_of: int | None = None
) -> None:
    """Check the parts of a request that say whose history is read, and what is known of its times.

    Raises:
        ValueError: they contradict each other.
    """
    if (user_id is None) == (history is None):
        raise ValueError("give either user_id or history")
    if history is None and last_event is not None:
        raise ValueError("last_event needs a history: the store has the times of a user's events")
    if history is not None and as_of is not None:
        raise ValueError("as_of needs a user_id: a history in the request has no timestamps")
    if history is not None and at is not None and last_event is None:
        raise ValueError("at needs last_event: a history in the request has no timestamps")


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
    unknown_items: Literal["skip", "raise", "popular"] = "skip"
    context: FreeJson | None = Field(None, description="stored; the model does not read it yet")
    explain: Literal["none", "parts", "weights", "effects"] = "none"
    as_of: Timestamp | None = Field(None, description="only events up to this time are read")
    at: Timestamp | None = Field(None, description=f"{AT}; missing: as_of, or now")
    last_event: Timestamp | None = Field(None, description=LAST_EVENT)

    @model_validator(mode="after")
    def _one_of_both(self) -> "RecommendationsIn":
        check_history(self.user_id, self.history, self.at, self.last_event, self.as_of)
        return self


class ModelRef(Out):
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


class ItemIn(Body):
    """Metadata of an item; the model does not read it."""

    title: Text | None = None
    categories: list[Label] = Field(default_factory=list, max_length=100)
    hidden: bool = Field(default=False, description="not recommended to anybody")
    available_from: Timestamp | None = None
    available_until: Timestamp | None = None


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, str]] | None = None
