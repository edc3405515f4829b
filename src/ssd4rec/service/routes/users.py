"""Users: what is stored about them, their events, their erasure."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from sqlalchemy import Connection

from ssd4rec.service.auth import requires
from ssd4rec.service.ids import MICROSECONDS, seconds
from ssd4rec.service.problems import invalid, not_found
from ssd4rec.service.routes.common import PathId, SearchText, ServiceDep, errors, json_response, log_user, read, wait
from ssd4rec.service.schemas import MAX_EVENT_PAGE, EventPage, StoredEvent, UserOut, UsersOut
from ssd4rec.service.store.items import stored_titles
from ssd4rec.service.store.removal import erase_user, erased_on_disk
from ssd4rec.service.store.users import find_user, page_of_events, search_users

router = APIRouter(prefix="/v1/users", tags=["users"])
READ = [Depends(requires("read"))]


@router.get("", response_model=UsersOut, dependencies=READ, responses=errors())
async def get_users(
    service: ServiceDep,
    prefix: SearchText = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Response:
    """Search users by the start of their ids."""
    rows = await read(service, lambda connection: search_users(connection, prefix, limit))
    return json_response(UsersOut(users=[_user(row) for row in rows]))


@router.get("/{user_id}", response_model=UserOut, dependencies=READ, responses=errors(404))
async def get_user(request: Request, service: ServiceDep, user_id: PathId) -> Response:
    """Return what is stored about a user."""
    log_user(request, user_id)
    row = await read(service, lambda connection: find_user(connection, user_id))
    if row is None:
        raise not_found("user", user_id)
    return json_response(_user(row))


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
        StoredEvent(
            event_id=row.event_id,
            item_id=row.item_id,
            title=titles.get(row.item_id) or service.models.catalog_title(row.item_id),
            type=row.type,
            timestamp=seconds(row.timestamp),
            value=row.value,
            recommendation_id=row.recommendation_id,
            properties=None if row.properties is None else json.loads(row.properties),
        )
        for row in rows
    ]
    return json_response(EventPage(events=events, next=following))


def _user(row: Any) -> UserOut:
    last = None if row.last_timestamp is None else seconds(row.last_timestamp)
    return UserOut(user_id=row.user_id, events=row.events, last_timestamp=last)


@router.delete(
    "/{user_id}", status_code=204, response_class=Response, dependencies=[Depends(requires("admin"))], responses=errors(404)
)
async def delete_user(request: Request, service: ServiceDep, user_id: PathId) -> Response:
    """Erase a user: events, stored recommendations and answers, in one transaction; cached states with it."""
    log_user(request, user_id)
    newest_model = round(max(service.models.saved_at().values(), default=0.0) * MICROSECONDS)
    erased = await wait(
        service.writer.submit(
            lambda connection: erase_user(connection, user_id, newest_model),
            alone=True,
            after=lambda: erased_on_disk(service.engine),
        )
    )
    if erased is None:
        raise not_found("user", user_id)
    key, _ = erased
    await wait(service.forget([key]))
    return Response(status_code=204)
