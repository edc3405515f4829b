"""POST /v1/explanations: why an item is recommended, or is not."""

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from ssd4rec.service.answering import ignored_time, moment_of
from ssd4rec.service.auth import requires
from ssd4rec.service.explaining import explain_item
from ssd4rec.service.ids import now
from ssd4rec.service.problems import not_found
from ssd4rec.service.recommending import check_lists
from ssd4rec.service.routes.common import IdempotencyKey, ServiceDep, answer_once, errors, log_user, read
from ssd4rec.service.schemas import ExplanationOut, ExplanationsIn, ModelRef
from ssd4rec.service.store.users import History, read_history

router = APIRouter(prefix="/v1", tags=["explanations"], dependencies=[Depends(requires("read"))])


@router.post("/explanations", response_model=ExplanationOut, responses=errors(400, 404, 409, 413, 415))
async def post_explanation(request: Request, service: ServiceDep, body: ExplanationsIn, key: IdempotencyKey = None) -> Response:
    """Explain the score of an item for a stored user or after a history; the item need not be recommended."""
    check_lists(service, history=body.history)
    if body.user_id is not None:
        log_user(request, body.user_id)

    async def make() -> tuple[BaseModel, Iterable[int]]:
        model = service.models.loaded(None).model
        user_key, history = None, History(body.history or [], body.last_event)
        if body.user_id is not None:
            user_key, history = await read(service, lambda connection: _history(connection, body.user_id or ""))
        moment = moment_of(model, body.at, now(), history.last_event)
        values: dict[str, Any] = await run_in_threadpool(
            explain_item, model, model.indices(history.items), body.item_id, body.level, moment
        )
        ref = ModelRef(version=model.version, fingerprint=model.fingerprint)
        warnings = ignored_time(model, body.at)
        return ExplanationOut(model=ref, explanation=values, warnings=warnings), [] if user_key is None else [user_key]

    return await answer_once(request, service, key, make)


def _history(connection: Connection, user_id: str) -> tuple[int | None, History]:
    user_key, _, history = read_history(connection, user_id)
    if user_key is None:
        raise not_found("user", user_id)
    return user_key, history
