"""GET /v1/live: events and answers as they happen, as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from ssd4rec.service.auth import requires
from ssd4rec.service.core import Service
from ssd4rec.service.feed import Message
from ssd4rec.service.ids import OutputId
from ssd4rec.service.routes.common import ServiceDep, errors, titles_of
from ssd4rec.service.schemas import Out, StoredTime

router = APIRouter(prefix="/v1", tags=["live"], dependencies=[Depends(requires("read"))])
QUIET_SECONDS = 15.0  # between two lines that keep a quiet connection open
EXAMPLE = (
    'event: interaction\ndata: {"user_id": "u7", "item_id": "m318", "title": null, "type": "view", "timestamp": 1767200000, '
    '"received": 1767200000.5}\n\n'
)
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`event: interaction` with a LiveEvent, `event: answer` with a LiveAnswer, and `event: dropped` with the "
        "number of messages that a slow reader lost",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
    }
}


class LiveItem(Out):
    """An item of a list."""

    item_id: OutputId
    title: str | None


class LiveEvent(Out):
    """An event that was stored, as `event: interaction`."""

    user_id: OutputId
    item_id: OutputId
    title: str | None
    type: str
    timestamp: StoredTime
    received: StoredTime


class LiveAnswer(Out):
    """An answer that was given, as `event: answer`."""

    recommendation_id: OutputId
    user_id: str | None = Field(description="null: the request contained a history")
    received: StoredTime
    model: str
    variant: str
    source: str
    items: list[LiveItem] = Field(description="the first of the list")


@router.get("/live", response_class=StreamingResponse, responses={**errors(), **STREAM})
async def get_live(
    service: ServiceDep,
    limit: Annotated[int | None, Query(ge=0, description="end after so many messages; without it, never")] = None,
) -> StreamingResponse:
    """Follow the events and answers of all processes from now on, at most half a second late.

    At most 200 messages of each kind are sent every half second, the newest ones.
    """
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # the second: a proxy must not wait for more
    return StreamingResponse(_lines(service, limit), media_type="text/event-stream", headers=headers)


async def _lines(service: Service, limit: int | None) -> AsyncIterator[str]:
    sent = 0
    yield "retry: 1000\n\n"
    if limit == 0:
        return
    async for messages, dropped in service.feed.messages(QUIET_SECONDS):
        if dropped:
            yield _line("dropped", str(dropped))
        if not messages:
            yield ": nothing happened\n\n"
        ids = {item for each in messages for item in (each.values.get("items") or [each.values["item_id"]])}
        titles = await titles_of(service, ids)
        for message in messages:
            yield _line(message.kind, _body(message, titles).model_dump_json())
            sent += 1
            if sent == limit:
                return


def _line(kind: str, data: str) -> str:
    return f"event: {kind}\ndata: {data}\n\n"


def _body(message: Message, titles: dict[str, str | None]) -> BaseModel:
    values = message.values
    if message.kind == "answer":
        items = [LiveItem(item_id=item, title=titles.get(item)) for item in values["items"]]
        return LiveAnswer(**{**values, "items": items})
    return LiveEvent(**values, title=titles.get(values["item_id"]))
