"""Model versions."""

import json
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from ssd4rec.artifact import REPORT
from ssd4rec.service.auth import requires
from ssd4rec.service.core import Service
from ssd4rec.service.problems import not_found
from ssd4rec.service.routes.common import IdempotencyKey, PathId, ServiceDep, answer_once, errors, json_response
from ssd4rec.service.schemas import ModelOut, ModelReportOut, ModelsOut

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(requires("admin"))])


@router.get("", response_model=ModelsOut, responses=errors())
async def get_models(service: ServiceDep) -> Response:
    """Return all versions of the model, and which one answers."""
    names = await run_in_threadpool(service.models.versions.names)
    return json_response(ModelsOut(models=[_model(service, name) for name in names]))


@router.get("/{version}/report", response_model=ModelReportOut, responses=errors(404))
async def get_report(service: ServiceDep, version: PathId) -> Response:
    """Return the report of a version's training: data, metrics next to baselines with intervals, training history."""

    def read_report() -> dict[str, Any]:
        report: dict[str, Any] = json.loads((service.models.versions.folder(version) / REPORT).read_text(encoding="utf-8"))
        return report

    try:
        report = await run_in_threadpool(read_report)
    except (OSError, ValueError) as error:
        raise not_found("report", version) from error
    return json_response(ModelReportOut(version=version, report=report))


@router.post("/{version}/activate", response_model=ModelOut, responses=errors(404, 409))
async def activate(request: Request, service: ServiceDep, version: PathId, key: IdempotencyKey = None) -> Response:
    """Load a version, try and warm it, then let it answer. On an error the active version stays.

    The other processes follow within `poll_seconds`.
    """

    async def make() -> tuple[BaseModel, Iterable[int]]:
        await run_in_threadpool(service.models.switch, version)
        return _model(service, version), []

    return await answer_once(request, service, key, make)


def _model(service: Service, version: str) -> ModelOut:
    active, loaded = service.models.active, service.models.is_loaded(version)
    model = None if loaded is None else loaded.model
    return ModelOut(
        version=version,
        active=active is not None and active.model.version == version,
        loaded=model is not None,
        fingerprint=None if model is None else model.fingerprint,
        catalog_size=None if model is None else len(model.ids),
        incremental=None if model is None else model.incremental,
        error=service.models.failure(version),
    )
