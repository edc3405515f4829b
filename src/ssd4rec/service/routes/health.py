"""Health, metrics, and the description of the API."""

from asyncio import wrap_future
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text

from ssd4rec.service import metrics
from ssd4rec.service.auth import requires
from ssd4rec.service.problems import unavailable
from ssd4rec.service.routes.common import ServiceDep, errors

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "live"}


@router.get("/health/ready", responses={503: errors(503)[503]})
async def ready(service: ServiceDep) -> dict[str, str]:
    """Whether a model is warm and the store can be written."""
    loaded = service.models.active
    if loaded is None:
        raise unavailable("no_model", "no model is loaded yet", retry_after=5)
    await wrap_future(service.writer.submit(lambda connection: connection.execute(text("UPDATE counters SET value = value"))))
    return {"status": "ready", "model": loaded.model.version}


@router.get("/metrics", dependencies=[Depends(requires("read"))], responses=errors(), response_class=Response)
async def prometheus(service: ServiceDep) -> Response:
    """Metrics in the text format of Prometheus."""
    metrics.QUEUE_DEPTH.labels("writer").set(service.writer.waiting)
    metrics.QUEUE_DEPTH.labels("scorer").set(service.scorer.waiting)
    return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", dependencies=[Depends(requires("read"))], include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """Return the description of the API."""
    document: dict[str, Any] = request.app.openapi()
    return JSONResponse(document)
