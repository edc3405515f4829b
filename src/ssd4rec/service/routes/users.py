"""Users: what is stored about them, their events, their erasure."""

import json
from asyncio import wrap_future
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field
from sqlalchemy import Connection

from ssd4rec.service.auth import requires
from ssd4rec.service.ids import MICROSECONDS, OutputId
from ssd4rec.service.problems import invalid, not_found
from ssd4rec.service.routes.common import PathId, SearchText, ServiceDep, errors, json_response, log_user, read
from ssd4rec.service.schemas import Out, StoredTime
from ssd4rec.service.store.items import stored_titles
from ssd4rec.service.store.removal import erase_user, erased_on_disk, list_erasures
from ssd4rec.service.store.users import find_user, page_of_events, search_users

router = APIRouter(prefix="/v1/users", tags=["users"])
erasures = APIRouter(prefix="/v1/erasures", tags=["users"], dependencies=[Depends(requires("admin"))])
READ = [Depends(requires("read"))]
MAX_EVENT_PAGE = 1000


class UserOut(Out):
    """A user of the store."""

    user_id: OutputId
    events: int
    last_timestamp: StoredTime | None


class UsersOut(Out):
    """Some users."""

    users: list[UserOut]


class StoredEvent(Out):
    """An event as it is stored."""

    event_id: str | None
    item_id: OutputId
    title: str | None = Field(description="of the item, where the store or the active model knows it")
    type: str
    timestamp: StoredTime
    value: float | None
    recommendation_id: str | None
    properties: Annotated[dict[str, Any], BeforeValidator(json.loads)] | None


class EventPage(Out):
    """Events of a user in the order of the history, oldest first."""

    events: list[StoredEvent]
    next: str | None = Field(description="cursor of the next page; null on the last one")


class Erasure(Out):
    """One deletion of a user; whose it was is not stored."""

    erased_at: StoredTime
    events: int
    models_trained_before: list[str] = Field(description="served versions whose training may have read the deleted events")


class ErasuresOut(Out):
    """Deletions, the newest first."""

    erasures: list[Erasure]


@router.get("", response_model=UsersOut, dependencies=READ, responses=errors())
async def get_users(
    service: ServiceDep,
    prefix: SearchText = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Response:
    """Search users by the start of their ids."""
    rows = await read(service, lambda connection: search_users(connection, prefix, limit))
    return json_response(UsersOut(users=rows))


@router.get("/{user_id}", response_model=UserOut, dependencies=READ, responses=errors(404))
async def get_user(request: Request, service: ServiceDep, user_id: PathId) -> Response:
    """Return what is stored about a user."""
    log_user(request, user_id)
    row = await read(service, lambda connection: find_user(connection, user_id))
    if row is None:
        raise not_found("user", user_id)
    return json_response(UserOut.model_validate(row))


@router.get("/{user_id}/events", response_model=EventPage, dependencies=READ, responses=errors(404))
async def get_events(
    request: Request,
    service: ServiceDep,
    user_id: PathId,
    cursor: Annotated[str | None, Query(max_length=100, description="of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENT_PAGE)] = 100,
    order: Annotated[str, Query(pattern="^(asc|desc)$", description="asc: the oldest first")] = "asc",
) -> Response:
    """Return the events of a user, in the order in which the model reads them."""
    log_user(request, user_id)

    def work(connection: Connection) -> tuple[list[Any], dict[str, str], str | None]:
        user = find_user(connection, user_id)
        if user is None:
            raise not_found("user", user_id)
        try:
            rows, following = page_of_events(connection, user.user_key, limit, cursor, newest_first=order == "desc")
        except ValueError as error:
            raise invalid("query:cursor", str(error)) from error
        return rows, stored_titles(connection, {row.item_id for row in rows}), following

    rows, titles, following = await read(service, work)
    events = [
        StoredEvent(**row._asdict(), title=titles.get(row.item_id) or service.models.catalog_title(row.item_id)) for row in rows
    ]
    return json_response(EventPage(events=events, next=following))


@router.delete(
    "/{user_id}", status_code=204, response_class=Response, dependencies=[Depends(requires("admin"))], responses=errors(404)
)
async def delete_user(request: Request, service: ServiceDep, user_id: PathId) -> Response:
    """Erase a user: events, stored recommendations and answers, in one transaction; cached states with it."""
    log_user(request, user_id)
    newest_model = round(max(service.models.saved_at().values(), default=0.0) * MICROSECONDS)
    work = partial(erase_user, user_id=user_id, after=newest_model)
    key = await wrap_future(service.writer.submit(work, alone=True, after=lambda: erased_on_disk(service.engine)))
    if key is None:
        raise not_found("user", user_id)
    await wrap_future(service.forget([key]))
    return Response(status_code=204)


@erasures.get("", response_model=ErasuresOut, responses=errors())
async def get_erasures(service: ServiceDep) -> Response:
    """Return the erasures, the newest first. A model that was saved before one may have been trained on the erased events."""
    rows = await read(service, list_erasures)
    saved = service.models.saved_at()
    shown = [
        Erasure(
            erased_at=row.erased_at,
            events=row.events,
            models_trained_before=[name for name, at in saved.items() if row.events and at * MICROSECONDS < row.erased_at],
        )
        for row in rows
    ]
    return json_response(ErasuresOut(erasures=shown))
