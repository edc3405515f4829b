"""Bodies of the answers about the catalog as a whole, and about what happens at the moment."""

from pydantic import BaseModel, Field

from ssd4rec.service.ids import OutputId
from ssd4rec.service.schemas import ModelRef, Seconds


class ConcentrationOut(BaseModel):
    """How counts are spread over the items of the catalog."""

    total: int
    items: int = Field(description="items with a count above 0")
    coverage: float = Field(description="their share of the catalog", examples=[0.62])
    gini: float = Field(description="0: all items have the same count; near 1: one item has all", examples=[0.71])
    lorenz: list[list[float]] = Field(
        description="points of the Lorenz curve: share of the items, smallest counts first, and their share of the total",
        examples=[[[0.0, 0.0], [0.5, 0.1], [1.0, 1.0]]],
    )


class PopularityGroup(BaseModel):
    """Items of similar popularity; head, middle and tail have a third of the training interactions each."""

    name: str = Field(examples=["head"])
    items: int
    consumed: float = Field(description="share of the training interactions", examples=[0.34])
    recommended: float = Field(description="share of the recommendations", examples=[0.51])


class CatalogItem(BaseModel):
    """An item, with what training saw and what is recommended."""

    item_id: OutputId
    title: str | None
    training_interactions: int
    recommended: int = Field(description="in how many of the lists it is")


class CatalogOut(BaseModel):
    """What training saw next to what is recommended to a sample of the users."""

    model: ModelRef
    catalog_size: int
    users: int = Field(description="of the sample", examples=[500])
    k: int = Field(description="items of each list", examples=[10])
    computed_at: Seconds
    consumed: ConcentrationOut
    recommended: ConcentrationOut | None = Field(description="null: the store has no users yet")
    groups: list[PopularityGroup]
    more: list[CatalogItem] = Field(description="items whose share of the recommendations exceeds that of the interactions most")
    less: list[CatalogItem] = Field(description="items of which the opposite holds")
    tail: list[CatalogItem] = Field(description="items of the tail that are recommended most")


class AudienceUser(BaseModel):
    """A user, and the rank that an item has for them."""

    user_id: OutputId
    events: int
    rank: int = Field(examples=[3])


class AudienceOut(BaseModel):
    """To whom an item would be recommended first."""

    item_id: OutputId
    model: ModelRef
    sampled_users: int
    k: int
    reached: int = Field(description="users of the sample who have the item among their first k")
    users: list[AudienceUser]


class MapOut(BaseModel):
    """All items as points; position i of the lists belongs to the same item."""

    model: ModelRef
    size: int = Field(description="coordinates are integers from 0 to this", examples=[65535])
    explained_variance: list[float] = Field(description="share of each of the two components", examples=[[0.21, 0.12]])
    x: list[int] = Field(examples=[[120, 64000]])
    y: list[int] = Field(examples=[[30000, 512]])
    training_interactions: list[int] = Field(examples=[[17, 3]])
    middle: int = Field(description="smallest count of the middle; items with fewer are the tail")
    head: int = Field(description="smallest count of the head")


class MapItem(BaseModel):
    """An item on the map."""

    index: int = Field(description="its position in the lists of the map", examples=[0])
    item_id: OutputId
    title: str | None


class MapItemsOut(BaseModel):
    """Items on the map."""

    model: ModelRef
    items: list[MapItem]


class LiveItem(BaseModel):
    """An item of a list."""

    item_id: OutputId
    title: str | None


class LiveEvent(BaseModel):
    """An event that was stored, as `event: interaction`."""

    user_id: OutputId
    item_id: OutputId
    title: str | None
    type: str
    timestamp: Seconds
    received: Seconds


class LiveAnswer(BaseModel):
    """An answer that was given, as `event: answer`."""

    recommendation_id: OutputId
    user_id: str | None = Field(description="null: the request contained a history")
    received: Seconds
    model: str
    variant: str
    source: str
    items: list[LiveItem] = Field(description="the first of the list")
