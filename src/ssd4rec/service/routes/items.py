"""Items: metadata that filters recommendations, and neighbors."""

import json
from asyncio import wrap_future
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from ssd4rec.service.auth import requires
from ssd4rec.service.core import Service
from ssd4rec.service.ids import OutputId
from ssd4rec.service.problems import invalid, not_found
from ssd4rec.service.routes.common import PathId, SearchText, ServiceDep, errors, json_response, read, titles_of
from ssd4rec.service.schemas import ItemIn, ModelRef, Out, StoredTime
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.items import find_item, items_version, put_item

router = APIRouter(prefix="/v1/items", tags=["items"])
READ = [Depends(requires("read"))]


class ItemOut(Out):
    """An item."""

    item_id: OutputId
    title: str | None
    categories: list[str]
    hidden: bool
    available_from: StoredTime | None
    available_until: StoredTime | None
    in_catalog: bool = Field(description="whether the active model can recommend it")
    training_interactions: int | None


class ItemMatch(Out):
    """An item of the catalog that a search matched."""

    item_id: OutputId
    title: str | None
    training_interactions: int


class ItemMatchesOut(Out):
    """Items of the catalog, the best match first."""

    items: list[ItemMatch]


class SimilarItem(Out):
    """A neighbor of an item."""

    item_id: OutputId
    title: str | None
    score: float = Field(description="cosine of the item vectors")
    rank: int


class SimilarOut(Out):
    """The nearest items by item vector."""

    item_id: OutputId
    model: ModelRef
    items: list[SimilarItem]


@router.get("", response_model=ItemMatchesOut, dependencies=READ, responses=errors())
async def search(
    service: ServiceDep,
    query: SearchText = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Response:
    """Search the catalog by a part of the title or the start of the id; among equals the more frequent item comes first."""
    model = service.models.loaded(None).model
    counts = model.recommender.artifact.training_counts
    matches = await run_in_threadpool(model.search, query, limit)
    ids = [model.ids[index - 1] for index in matches]
    titles = await titles_of(service, ids)
    items = [
        ItemMatch(item_id=item_id, title=titles[item_id], training_interactions=int(counts[index]))
        for item_id, index in zip(ids, matches, strict=True)
    ]
    return json_response(ItemMatchesOut(items=items))


@router.get("/{item_id}", response_model=ItemOut, dependencies=READ, responses=errors(404))
async def get_item(service: ServiceDep, item_id: PathId) -> Response:
    """Return an item of the catalog or of the store."""
    row = await read(service, lambda connection: find_item(connection, item_id))
    return json_response(_item(service, item_id, row))


@router.put("/{item_id}", response_model=ItemOut, dependencies=[Depends(requires("admin"))], responses=errors(400, 413, 415))
async def put(service: ServiceDep, item_id: PathId, body: ItemIn) -> Response:
    """Store the metadata of an item, in place of what was stored. The next recommendation of any process reflects it."""
    if body.available_from is not None and body.available_until is not None and body.available_until <= body.available_from:
        raise invalid("/available_until", "it must be later than available_from")

    def work(connection: Connection) -> Any:
        put_item(connection, item_id, body)
        return find_item(connection, item_id)

    row = await wrap_future(service.writer.submit(work, alone=True))
    return json_response(_item(service, item_id, row))


@router.get("/{item_id}/similar", response_model=SimilarOut, dependencies=READ, responses=errors(404))
async def get_similar(service: ServiceDep, item_id: PathId, k: Annotated[int, Query(ge=1, le=1000)] = 10) -> Response:
    """Return the items whose vectors are nearest; hidden ones are left out."""
    loaded = service.models.loaded(None)
    model = loaded.model
    index = model.index_of.get(item_id)
    if index is None:
        raise not_found("item", item_id)

    def work() -> list[SimilarItem]:
        with reading(service.engine) as connection:
            loaded.filters.refresh(connection, items_version(connection))
        nearest = model.similar(index, k, loaded.filters.excluded())
        return [
            SimilarItem(item_id=model.ids[each - 1], title=loaded.filters.title(each), score=score, rank=rank)
            for rank, (each, score) in enumerate(nearest, start=1)
        ]

    items = await wrap_future(service.scorer.call(work))
    return json_response(SimilarOut(item_id=item_id, model=model, items=items))


def _item(service: Service, item_id: str, row: Any) -> ItemOut:
    active = service.models.active
    index = None if active is None else active.model.index_of.get(item_id)
    if row is None and index is None:
        raise not_found("item", item_id)
    stored = ItemIn().model_dump() if row is None else {**row._asdict(), "categories": json.loads(row.categories)}
    known = {
        "item_id": item_id,
        "title": stored["title"] or service.models.catalog_title(item_id),
        "in_catalog": index is not None,
        "training_interactions": None
        if active is None or index is None
        else int(active.model.recommender.artifact.training_counts[index]),
    }
    return ItemOut(**{**stored, **known})
