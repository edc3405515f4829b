"""Recommendations: for a user, after a history, the next page, many at once."""

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import Field, ValidationError

from ssd4rec.service import answering
from ssd4rec.service.auth import requires
from ssd4rec.service.core import Service
from ssd4rec.service.experiments import Arm
from ssd4rec.service.ids import QueryTimestamp
from ssd4rec.service.problems import Problem, as_problem, not_found, pointing_to_query, sentence
from ssd4rec.service.recommending import answer_query, as_body, check_limits, recommend
from ssd4rec.service.routes.common import (
    IdempotencyKey,
    Made,
    PathId,
    ServiceDep,
    answer_once,
    errors,
    json_response,
    log_user,
    read,
)
from ssd4rec.service.schemas import AT, Body, Out, RecommendationsIn, RecommendationsOut
from ssd4rec.service.store.answers import find_recommendation

router = APIRouter(prefix="/v1", tags=["recommendations"], dependencies=[Depends(requires("read"))])
RECORD_TRIES, RECORD_WAIT = 50, 0.02  # an answer of another process may not be recorded yet

K = Annotated[int, Query(ge=1, description="number of items at most")]
MAX_BATCH = 256  # requests of one batch


class BatchIn(Body):
    """Up to 256 requests; a bad one is answered by a problem object and does not cost the others."""

    requests: list[Any] = Field(
        min_length=1, max_length=MAX_BATCH, json_schema_extra={"items": {"$ref": "#/components/schemas/RecommendationsIn"}}
    )


class BatchAnswer(Out):
    """One answer of a batch."""

    status: int
    body: dict[str, Any] = Field(description="an answer as of POST /v1/recommendations, or a problem object")


class BatchOut(Out):
    """The answers of a batch, in the order of its requests."""

    answers: list[BatchAnswer]


@router.get("/users/{user_id}/recommendations", response_model=RecommendationsOut, responses=errors())
async def get_recommendations(
    request: Request,
    service: ServiceDep,
    user_id: PathId,
    k: K = 10,
    *,
    exclude_seen: Annotated[bool, Query(description="leave out items of the history")] = True,
    at: Annotated[QueryTimestamp | None, Query(description=f"{AT}; missing: now", examples=[1767200000])] = None,
) -> Response:
    """Recommend items to a stored user; a user without events is given the most popular items."""
    log_user(request, user_id)
    body = RecommendationsIn(user_id=user_id, k=k, exclude_seen=exclude_seen).model_copy(update={"at": at})
    with pointing_to_query():
        answered, _ = await recommend(service, body)
    return json_response(answered)


@router.post("/recommendations", response_model=RecommendationsOut, responses=errors(400, 404, 409, 413, 415))
async def post_recommendations(
    request: Request, service: ServiceDep, body: RecommendationsIn, key: IdempotencyKey = None
) -> Response:
    """Recommend items to a stored user, or after a history, among the items that the filters leave."""
    if body.user_id is not None:
        log_user(request, body.user_id)

    return await answer_once(request, service, key, lambda: recommend(service, body))


@router.get("/recommendations/{recommendation_id}/next", response_model=RecommendationsOut, responses=errors(404, 409))
async def get_next(
    service: ServiceDep, recommendation_id: Annotated[str, Path(min_length=1, max_length=64)], k: K = 10
) -> Response:
    """Continue an answer: the same model, history and filters, without the items of earlier pages."""
    record = await _find(service, recommendation_id)
    stored = json.loads(record.request)
    values = stored["body"]
    if record.user_key is not None:
        values["user_id"] = "of the key"  # the record names no user; the history is found by the key
    body = RecommendationsIn.model_validate(values).model_copy(update={"k": k})
    with pointing_to_query():
        check_limits(service, body)
    earlier, asked = tuple(json.loads(record.items)), stored.get("asked", record.created)
    query = answering.Query(body, asked, record.model, record.user_key, record.position, earlier)
    service.models.loaded(record.model, stored["fingerprint"])  # or it has been replaced
    result = await answer_query(service, query, Arm(record.variant, tuple(stored.get("versions", ()))))
    return json_response(as_body(service, query, result))


@router.post("/recommendations/batch", response_model=BatchOut, responses=errors(400, 409, 413, 415))
async def post_batch(request: Request, service: ServiceDep, body: BatchIn, key: IdempotencyKey = None) -> Response:
    """Answer up to 256 requests; each is answered by recommendations or by a problem object."""

    async def make() -> Made:
        results = await asyncio.gather(*(_one(service, value) for value in body.requests))
        return BatchOut(answers=[each for each, _ in results]), [key for _, keys in results for key in keys]

    return await answer_once(request, service, key, make)


async def _one(service: Service, value: Any) -> tuple[BatchAnswer, list[int | None]]:
    try:
        answered, user_keys = await recommend(service, _parsed(value))
    except Exception as error:  # noqa: BLE001 - each request has its own fate
        problem = as_problem(error)
        return BatchAnswer(status=problem.status, body=problem.document()), []
    return BatchAnswer(status=200, body=answered.model_dump(mode="json")), user_keys


def _parsed(value: Any) -> RecommendationsIn:
    try:
        return RecommendationsIn.model_validate(value)
    except ValidationError as error:
        problems = [
            {"pointer": "".join(f"/{step}" for step in each["loc"]), "detail": sentence(each)}
            for each in error.errors(include_url=False, include_input=False)
        ]
        first = problems[0]
        detail = f"{first['pointer'] or 'the request'}: {first['detail']}"
        raise Problem(422, "invalid_request", detail, problems) from error


async def _find(service: Service, recommendation_id: str) -> Any:
    """The record of an answer; that of a moment ago may still be on its way to the store."""
    for attempt in range(RECORD_TRIES):
        row = await read(service, lambda connection: find_recommendation(connection, recommendation_id))
        if row is not None:
            return row
        if not recommendation_id.startswith("r") or len(recommendation_id) != 25:
            break
        if attempt == 0:
            await asyncio.wrap_future(service.writer.flush())
        else:
            await asyncio.sleep(RECORD_WAIT)
    raise not_found("recommendation", recommendation_id)
