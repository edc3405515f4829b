"""POST /v1/explanations: why an item is recommended, or is not."""

from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import Field, model_validator
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from ssd4rec.service.answering import ignored_time, moment_of
from ssd4rec.service.auth import requires
from ssd4rec.service.explaining import explain
from ssd4rec.service.ids import Id, Timestamp, now
from ssd4rec.service.problems import not_found
from ssd4rec.service.recommending import check_lists
from ssd4rec.service.routes.common import IdempotencyKey, Made, ServiceDep, answer_once, errors, log_user, read
from ssd4rec.service.schemas import AT, LAST_EVENT, Body, ModelRef, Out, check_history
from ssd4rec.service.store.users import History, read_history

router = APIRouter(prefix="/v1", tags=["explanations"], dependencies=[Depends(requires("read"))])


class ExplanationsIn(Body):
    """A request for the explanation of one item."""

    user_id: Id | None = None
    history: list[Id] | None = None
    item_id: Id
    level: Literal["parts", "weights", "effects", "counterfactual"] = "effects"
    at: Timestamp | None = Field(None, description=f"{AT}; missing: now")
    last_event: Timestamp | None = Field(None, description=LAST_EVENT)

    @model_validator(mode="after")
    def _one_of_both(self) -> "ExplanationsIn":
        check_history(self.user_id, self.history, self.at, self.last_event)
        return self


class ExplanationOut(Out):
    """An explanation; its fields depend on the level."""

    model: ModelRef
    explanation: dict[str, Any]
    warnings: list[str]


@router.post("/explanations", response_model=ExplanationOut, responses=errors(400, 404, 409, 413, 415))
async def post_explanation(request: Request, service: ServiceDep, body: ExplanationsIn, key: IdempotencyKey = None) -> Response:
    """Explain the score of an item for a stored user or after a history; the item need not be recommended."""
    check_lists(service, history=body.history)
    if body.user_id is not None:
        log_user(request, body.user_id)

    async def make() -> Made:
        model = service.models.loaded(None).model
        user_key, history = None, History(body.history or [], body.last_event)
        if body.user_id is not None:
            user_key, history = await read(service, lambda connection: _history(connection, body.user_id or ""))
        moment = moment_of(model, body.at, now(), history.last_event)
        if (index := model.index_of.get(body.item_id)) is None:
            raise not_found("item", body.item_id)
        (values,) = await run_in_threadpool(explain, model, model.indices(history.items), [index], body.level, moment)
        return ExplanationOut(model=model, explanation=values, warnings=ignored_time(model, body.at)), [user_key]

    return await answer_once(request, service, key, make)


def _history(connection: Connection, user_id: str) -> tuple[int | None, History]:
    user_key, _, history = read_history(connection, user_id)
    if user_key is None:
        raise not_found("user", user_id)
    return user_key, history
