"""POST /v1/events: answered after the events are on disk."""

from asyncio import wrap_future
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from pydantic import ConfigDict, Field, ValidationError

from ssd4rec.service import metrics
from ssd4rec.service.auth import requires
from ssd4rec.service.core import Service
from ssd4rec.service.ids import MICROSECONDS, now
from ssd4rec.service.problems import Problem, printable, sentence
from ssd4rec.service.routes.common import ServiceDep, errors, json_response
from ssd4rec.service.schemas import Body, Event, Out

router = APIRouter(prefix="/v1", tags=["events"])
MAX_EVENTS = 1000  # of one request


class EventsIn(Body):
    """Up to 1,000 events. Each is checked by itself, so that a bad one does not cost the others."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"event_id": "e1", "user_id": "u7", "item_id": "m318", "timestamp": 1767200000}]}]
        }
    )

    events: list[Any] = Field(
        min_length=1, max_length=MAX_EVENTS, json_schema_extra={"items": {"$ref": "#/components/schemas/Event"}}
    )


class RejectedEvent(Out):
    """Why an event was not stored."""

    index: int = Field(description="position in the request, from 0")
    code: str
    detail: str


class EventsOut(Out):
    """The answer to events, sent after they are on disk."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]


@router.post("/events", response_model=EventsOut, dependencies=[Depends(requires("events"))], responses=errors(400, 413, 415))
async def post_events(
    service: ServiceDep,
    body: EventsIn,
    *,
    atomic: Annotated[bool, Query(description="store all events, or none if one is rejected")] = False,
) -> Response:
    """Store events. When the answer comes they are on disk and the next recommendation reflects them.

    An event whose `event_id` is stored already is a duplicate and changes nothing: send a batch again if no answer came.
    """
    return json_response(await store_events(service, body.events, atomic=atomic))


async def store_events(service: Service, values: list[Any], *, atomic: bool) -> EventsOut:
    """Check events one by one and store those that are right.

    Raises:
        Problem: 422, one of them is wrong and all or none were to be stored; 503, too many wait, or the store is away.
    """
    accepted, rejected = _check(values, now() + service.settings.max_future_seconds * MICROSECONDS)
    metrics.EVENTS_REJECTED.inc(len(rejected))
    if atomic and rejected:
        raise Problem(
            422,
            "events_rejected",
            f"{len(rejected)} of {len(values)} events cannot be stored, so none was",
            [{"pointer": f"/events/{each.index}", "detail": each.detail} for each in rejected],
        )
    duplicates = 0
    if accepted:
        appended = await wrap_future(service.writer.append(accepted))
        duplicates = appended.duplicates
        service.prequential.offer(appended.new_items)
    metrics.EVENTS_ACCEPTED.inc(len(accepted) - duplicates)
    metrics.EVENTS_DUPLICATE.inc(duplicates)
    return EventsOut(accepted=len(accepted) - duplicates, duplicates=duplicates, rejected=rejected)


def _check(values: list[Any], latest: int) -> tuple[list[Event], list[RejectedEvent]]:
    accepted, rejected = [], []
    for index, value in enumerate(values):
        try:
            event = Event.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            text = sentence(first)
            detail = f"{place}: {text}" if place else text
            rejected.append(RejectedEvent(index=index, code="invalid_event", detail=printable(detail)))
            continue
        if event.timestamp is not None and event.timestamp > latest:
            detail = "timestamp: it is in the future; timestamps are seconds since 1970, check the unit and the clock"
            rejected.append(RejectedEvent(index=index, code="timestamp_in_future", detail=detail))
            continue
        accepted.append(event)
    return accepted, rejected
