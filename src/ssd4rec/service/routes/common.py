"""Shared by the routes: the parts of the service, ids in paths, documented errors, Idempotency-Key."""

import hashlib
from asyncio import wrap_future
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

from fastapi import Depends, Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, BeforeValidator
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from ssd4rec.service.core import Service
from ssd4rec.service.ids import check_id, check_text
from ssd4rec.service.problems import MEDIA_TYPE, Problem
from ssd4rec.service.store.answers import find_answer, record_answer
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.items import stored_titles

_T = TypeVar("_T")
Made = tuple[BaseModel, Collection[int | None]]  # an answer, and the keys of users whom it is about; None: of nobody
TEXTS = {
    400: "The body or the path cannot be read",
    401: "No key, or a wrong one",
    403: "The key lacks the scope",
    404: "The resource does not exist",
    409: "In conflict with what is stored",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The request is well-formed and wrong",
    429: "Too many requests",
    503: "Try again after Retry-After seconds",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the errors of a route."""
    schema = {"$ref": "#/components/schemas/ProblemOut"}
    return {
        status: {"description": TEXTS[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({401, 403, 422, 429, 503, *statuses})
    }


async def _service(request: Request) -> Service:  # a plain function would be run in a thread
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]
PathId = Annotated[str, Path(min_length=1), BeforeValidator(unquote), AfterValidator(check_id)]
SearchText = Annotated[str, Query(max_length=512), AfterValidator(check_text)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=128,
        pattern=r"^[\x20-\x7e]+$",
        description="a repeat of the request with the same key is given the same answer",
    ),
]


async def read(service: Service, work: Callable[[Connection], _T]) -> _T:
    """Run a function with a connection in a thread."""

    def run() -> _T:
        with reading(service.engine) as connection:
            return work(connection)

    return await run_in_threadpool(run)


async def titles_of(service: Service, item_ids: Collection[str]) -> dict[str, str | None]:
    """Return the titles of items: those of the store, else those of the catalog of the active model."""
    stored = await read(service, lambda connection: stored_titles(connection, item_ids))
    return {item_id: stored.get(item_id) or service.models.catalog_title(item_id) for item_id in item_ids}


def json_response(body: BaseModel, status: int = 200) -> Response:
    """Return a model as JSON."""
    return Response(body.model_dump_json(), status, media_type="application/json")


async def answer_once(request: Request, service: Service, key: str | None, make: Callable[[], Awaitable[Made]]) -> Response:
    """Answer a POST; with an Idempotency-Key a repeat is given the stored answer.

    Args:
        request: its body is compared with that of the first request.
        service: of the request.
        key: of the header; None: there is none.
        make: makes the answer, and names the users whom it is about.

    Raises:
        Problem: 409, the key was used with another body.
    """
    if key is None:
        body, _ = await make()
        return json_response(body)
    scope = f"{request.state.caller.key_id} {request.url.path}"
    digest = hashlib.sha256(await request.body()).hexdigest()
    stored = await read(service, lambda connection: find_answer(connection, scope, key))
    if stored is None:
        body, user_keys = await make()
        text = body.model_dump_json()
        stored = await wrap_future(service.writer.submit(lambda c: record_answer(c, scope, key, digest, text, user_keys)))
    if stored.request_sha256 != digest:
        raise Problem(409, "idempotency_key_reused", "this Idempotency-Key was used with another body; use a new one")
    return Response(stored.body, stored.status, media_type="application/json")


def log_user(request: Request, user_id: str) -> None:
    """Let the line of the log name a user by a hash."""
    request.state.log = {"user": hashlib.sha256(user_id.encode()).hexdigest()[:16]}
