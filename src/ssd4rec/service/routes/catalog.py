"""The catalog as a whole: what training saw next to what is recommended, who gets an item, and a map of the items."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from ssd4rec._csr import IntArray
from ssd4rec.evaluation.concentration import GROUPS, measure_concentration, popularity_groups, popularity_thirds
from ssd4rec.service.auth import requires
from ssd4rec.service.ids import seconds
from ssd4rec.service.insights import MAP_SIZE, TOP, Sample
from ssd4rec.service.problems import invalid, not_found
from ssd4rec.service.routes.common import PathId, ServiceDep, errors, json_response, model_ref, read, titles_of, wait
from ssd4rec.service.schemas_catalog import (
    AudienceOut,
    AudienceUser,
    CatalogItem,
    CatalogOut,
    ConcentrationOut,
    MapItem,
    MapItemsOut,
    MapOut,
    PopularityGroup,
)
from ssd4rec.service.store.users import existing_users

router = APIRouter(prefix="/v1", tags=["catalog"], dependencies=[Depends(requires("read"))])
LISTED = 8  # items of each list
MAX_NAMES = 50


@router.get("/catalog", response_model=CatalogOut, responses=errors())
async def get_catalog(service: ServiceDep) -> Response:
    """Compare what training saw with what is recommended to a sample of the users: coverage, concentration, popularity.

    The sample holds up to 500 users, those whose events arrived last, and is drawn again after five minutes.
    """
    loaded = service.models.loaded(None)
    sample = await wait(service.insights.sample(loaded))
    counts = loaded.model.recommender.artifact.training_counts[1:]
    lists = _lists(counts, sample.recommended)
    titles = await titles_of(service, loaded.model, {index for indices in lists.values() for index in indices})

    def item(index: int) -> CatalogItem:
        return CatalogItem(
            item_id=loaded.model.ids[index - 1],
            title=titles[index],
            training_interactions=int(counts[index - 1]),
            recommended=int(sample.recommended[index - 1]),
        )

    return json_response(
        CatalogOut(
            model=model_ref(loaded),
            catalog_size=len(counts),
            users=len(sample.jobs),
            k=TOP,
            computed_at=seconds(sample.created),
            consumed=_concentration(counts),
            recommended=_concentration(sample.recommended) if sample.jobs else None,
            groups=_groups(counts, sample.recommended),
            more=[item(index) for index in lists["more"]],
            less=[item(index) for index in lists["less"]],
            tail=[item(index) for index in lists["tail"]],
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
    sample: Sample = await wait(service.insights.sample(loaded))
    users, reached = await wait(service.insights.run(lambda: sample.audience(index, k)))
    present = await read(service, lambda connection: existing_users(connection, [user for user, _, _ in users]))
    return json_response(
        AudienceOut(
            item_id=item_id,
            model=model_ref(loaded),
            sampled_users=len(sample.jobs),
            k=TOP,
            reached=reached,
            users=[AudienceUser(user_id=user, events=events, rank=rank) for user, events, rank in users if user in present],
        )
    )


@router.get("/map", response_model=MapOut, responses=errors())
async def get_map(service: ServiceDep) -> Response:
    """Return all items as points: their vectors on the first two principal components, in integer coordinates.

    The position in the lists is the item's index; `/v1/map/items` names items.
    """
    loaded = service.models.loaded(None)
    item_map = await wait(service.insights.item_map(loaded))
    counts = loaded.model.recommender.artifact.training_counts[1:]
    middle, head = popularity_thirds(counts)
    body = MapOut(
        model=model_ref(loaded),
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
    loaded = service.models.loaded(None)
    model, size = loaded.model, len(loaded.model.ids)
    if outside := [each for each in index or [] if not 0 <= each < size]:
        raise invalid("query:index", f"the map has the positions 0 to {size - 1:,}, found {outside[0]}")
    indices = [each + 1 for each in index or []] + [model.index_of[each] for each in item_id or [] if each in model.index_of]
    titles = await titles_of(service, model, set(indices))
    items = [MapItem(index=each - 1, item_id=model.ids[each - 1], title=titles[each]) for each in indices]
    return json_response(MapItemsOut(model=model_ref(loaded), items=items))


def _concentration(counts: IntArray) -> ConcentrationOut:
    measured = measure_concentration(counts)
    return ConcentrationOut(
        total=measured.total,
        items=measured.items,
        coverage=measured.coverage,
        gini=measured.gini,
        lorenz=[list(point) for point in measured.lorenz],
    )


def _groups(counts: IntArray, recommended: IntArray) -> list[PopularityGroup]:
    """The groups of the catalog, the most popular first; one without items is left out."""
    groups = popularity_groups(counts)
    return [
        PopularityGroup(
            name=GROUPS[group],
            items=int((groups == group).sum()),
            consumed=float(counts[groups == group].sum() / max(counts.sum(), 1)),
            recommended=float(recommended[groups == group].sum() / max(recommended.sum(), 1)),
        )
        for group in range(len(GROUPS) - 1, -1, -1)
        if (groups == group).any()
    ]


def _lists(counts: IntArray, recommended: IntArray) -> dict[str, list[int]]:
    """Item indices: recommended more than consumed, less than consumed, and the items of the tail that are recommended most."""
    if not recommended.any():
        return {"more": [], "less": [], "tail": []}
    difference = recommended / recommended.sum() - counts / max(counts.sum(), 1)
    rising = np.argsort(difference, kind="stable")
    middle, _ = popularity_thirds(counts)
    tail = np.flatnonzero((counts < middle) & (recommended > 0))
    tail = tail[np.argsort(-recommended[tail], kind="stable")]
    more, less = rising[::-1][:LISTED], rising[:LISTED]
    chosen: dict[str, IntArray] = {
        "more": more[difference[more] > 0],
        "less": less[difference[less] < 0],
        "tail": tail[:LISTED],
    }
    return {name: (indices + 1).tolist() for name, indices in chosen.items()}
