"""The catalog as a whole: what training saw next to what is recommended, who gets an item, and a map of the items."""

from asyncio import wrap_future
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from ssd4rec._csr import IntArray
from ssd4rec.evaluation.concentration import compare_groups, measure_concentration, popularity_thirds
from ssd4rec.service.auth import requires
from ssd4rec.service.ids import OutputId
from ssd4rec.service.insights import MAP_SIZE, TOP, Sample
from ssd4rec.service.problems import invalid, not_found
from ssd4rec.service.routes.common import PathId, ServiceDep, errors, json_response, read, titles_of
from ssd4rec.service.schemas import ModelRef, Out, StoredTime
from ssd4rec.service.store.users import existing_users

router = APIRouter(prefix="/v1", tags=["catalog"], dependencies=[Depends(requires("read"))])
LISTED = 8  # items of each list
MAX_NAMES = 50


class ConcentrationOut(Out):
    """How counts are spread over the items of the catalog."""

    total: int
    items: int = Field(description="items with a count above 0")
    coverage: float = Field(description="their share of the catalog", examples=[0.62])
    gini: float = Field(description="0: all items have the same count; near 1: one item has all", examples=[0.71])
    lorenz: list[list[float]] = Field(
        description="points of the Lorenz curve: share of the items, smallest counts first, and their share of the total",
        examples=[[[0.0, 0.0], [0.5, 0.1], [1.0, 1.0]]],
    )


class PopularityGroup(Out):
    """Items of similar popularity; head, middle and tail have a third of the training interactions each."""

    name: str = Field(examples=["head"])
    items: int
    consumed: float = Field(description="share of the training interactions", examples=[0.34])
    recommended: float = Field(description="share of the recommendations", examples=[0.51])


class CatalogItem(Out):
    """An item, with what training saw and what is recommended."""

    item_id: OutputId
    title: str | None
    training_interactions: int
    recommended: int = Field(description="in how many of the lists it is")


class CatalogOut(Out):
    """What training saw next to what is recommended to a sample of the users."""

    model: ModelRef
    catalog_size: int
    users: int = Field(description="of the sample", examples=[500])
    k: int = Field(description="items of each list", examples=[10])
    computed_at: StoredTime
    consumed: ConcentrationOut
    recommended: ConcentrationOut | None = Field(description="null: the store has no users yet")
    groups: list[PopularityGroup]
    more: list[CatalogItem] = Field(description="items whose share of the recommendations exceeds that of the interactions most")
    less: list[CatalogItem] = Field(description="items of which the opposite holds")
    tail: list[CatalogItem] = Field(description="items of the tail that are recommended most")


class AudienceUser(Out):
    """A user, and the rank that an item has for them."""

    user_id: OutputId
    events: int
    rank: int = Field(examples=[3])


class AudienceOut(Out):
    """To whom an item would be recommended first."""

    item_id: OutputId
    model: ModelRef
    sampled_users: int
    k: int
    reached: int = Field(description="users of the sample who have the item among their first k")
    users: list[AudienceUser]


class MapOut(Out):
    """All items as points; position i of the lists belongs to the same item."""

    model: ModelRef
    size: int = Field(description="coordinates are integers from 0 to this", examples=[65535])
    explained_variance: list[float] = Field(description="share of each of the two components", examples=[[0.21, 0.12]])
    x: list[int] = Field(examples=[[120, 64000]])
    y: list[int] = Field(examples=[[30000, 512]])
    training_interactions: list[int] = Field(examples=[[17, 3]])
    middle: int = Field(description="smallest count of the middle; items with fewer are the tail")
    head: int = Field(description="smallest count of the head")


class MapItem(Out):
    """An item on the map."""

    index: int = Field(description="its position in the lists of the map", examples=[0])
    item_id: OutputId
    title: str | None


class MapItemsOut(Out):
    """Items on the map."""

    model: ModelRef
    items: list[MapItem]


@router.get("/catalog", response_model=CatalogOut, responses=errors())
async def get_catalog(service: ServiceDep) -> Response:
    """Compare what training saw with what is recommended to a sample of the users: coverage, concentration, popularity.

    The sample holds up to 500 users, those whose events arrived last, and is drawn again after five minutes.
    """
    loaded = service.models.loaded(None)
    sample = await wrap_future(service.insights.sample(loaded))
    counts = loaded.model.recommender.artifact.training_counts[1:]
    lists = _lists(counts, sample.recommended)
    titles = await titles_of(service, {loaded.model.ids[place] for places in lists.values() for place in places})

    def item(place: int) -> CatalogItem:
        item_id, count, recommended = loaded.model.ids[place], int(counts[place]), int(sample.recommended[place])
        return CatalogItem(item_id=item_id, title=titles[item_id], training_interactions=count, recommended=recommended)

    return json_response(
        CatalogOut(
            model=loaded.model,
            catalog_size=len(counts),
            users=len(sample.jobs),
            k=TOP,
            computed_at=sample.created,
            consumed=measure_concentration(counts),
            recommended=measure_concentration(sample.recommended) if sample.jobs else None,
            groups=compare_groups(counts, sample.recommended),
            **{name: [item(place) for place in places] for name, places in lists.items()},
        )
    )


@router.get("/items/{item_id}/audience", response_model=AudienceOut, responses=errors(404))
async def get_audience(service: ServiceDep, item_id: PathId, k: Annotated[int, Query(ge=1, le=100)] = 12) -> Response:
    """Return the users of a sample to whom an item would be recommended first, with its rank for each.

    The rank is that among the items that may be recommended to the user; an item of the user's history has none.
    """
    loaded = service.models.loaded(None)
    index = loaded.model.index_of.get(item_id)
    if index is None:
        raise not_found("item", item_id)
    sample: Sample = await wrap_future(service.insights.sample(loaded))
    users, reached = await wrap_future(service.insights.run(lambda: sample.audience(index, k)))
    present = await read(service, lambda connection: existing_users(connection, [user.user_id for user, _ in users]))
    return json_response(
        AudienceOut(
            item_id=item_id,
            model=loaded.model,
            sampled_users=len(sample.jobs),
            k=TOP,
            reached=reached,
            users=[
                AudienceUser(user_id=user.user_id, events=user.events, rank=rank)
                for user, rank in users
                if user.user_id in present
            ],
        )
    )


@router.get("/map", response_model=MapOut, responses=errors())
async def get_map(service: ServiceDep) -> Response:
    """Return all items as points: their vectors on the first two principal components, in integer coordinates.

    The position in the lists is the item's index; `/v1/map/items` names items.
    """
    loaded = service.models.loaded(None)
    item_map = await wrap_future(service.insights.item_map(loaded))
    counts = loaded.model.recommender.artifact.training_counts[1:]
    middle, head = popularity_thirds(counts)
    body = MapOut(
        model=loaded.model,
        size=MAP_SIZE,
        explained_variance=list(item_map.explained),
        x=item_map.x.tolist(),
        y=item_map.y.tolist(),
        training_interactions=counts.tolist(),
        middle=middle,
        head=head,
    )
    return await run_in_threadpool(json_response, body)


@router.get("/map/items", response_model=MapItemsOut, responses=errors())
async def get_map_items(
    service: ServiceDep,
    index: Annotated[list[int] | None, Query(max_length=MAX_NAMES, description="positions in the map's lists")] = None,
    item_id: Annotated[list[str] | None, Query(max_length=MAX_NAMES, description="ids of items")] = None,
) -> Response:
    """Name the items at some positions of the map, and find the positions of some items; unknown ones are left out."""
    model = service.models.loaded(None).model
    size = len(model.ids)
    if outside := [each for each in index or [] if not 0 <= each < size]:
        raise invalid("query:index", f"the map has the positions 0 to {size - 1:,}, found {outside[0]}")
    places = [*(index or []), *(model.index_of[each] - 1 for each in item_id or [] if each in model.index_of)]
    titles = await titles_of(service, {model.ids[each] for each in places})
    items = [MapItem(index=each, item_id=model.ids[each], title=titles[model.ids[each]]) for each in places]
    return json_response(MapItemsOut(model=model, items=items))


def _lists(counts: IntArray, recommended: IntArray) -> dict[str, list[int]]:
    """Places in the catalog: recommended more than consumed, less than consumed, and of the tail those recommended most."""
    if not recommended.any():
        return {"more": [], "less": [], "tail": []}
    difference = recommended / recommended.sum() - counts / max(counts.sum(), 1)
    rising = np.argsort(difference, kind="stable")
    middle, _ = popularity_thirds(counts)
    tail = np.flatnonzero((counts < middle) & (recommended > 0))
    tail = tail[np.argsort(-recommended[tail], kind="stable")]
    more, less = rising[::-1][:LISTED], rising[:LISTED]
    return {
        "more": more[difference[more] > 0].tolist(),
        "less": less[difference[less] < 0].tolist(),
        "tail": tail[:LISTED].tolist(),
    }
