"""Model versions."""

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from ssd4rec.artifact import REPORT
from ssd4rec.service.auth import requires
from ssd4rec.service.core import Service
from ssd4rec.service.gate import Check
from ssd4rec.service.live import Live, live_metrics
from ssd4rec.service.problems import Problem, not_found
from ssd4rec.service.routes.common import IdempotencyKey, Made, PathId, ServiceDep, answer_once, errors, json_response, read
from ssd4rec.service.schemas import ModelRef, Out, Seconds
from ssd4rec.service.store.live import series, totals

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(requires("admin"))])


class LivePoint(Live):
    """Five minutes."""

    at: Seconds


class LiveOut(Out):
    """Live metrics of a model over time, the oldest first."""

    model: ModelRef
    points: list[LivePoint]


class ModelOut(Out):
    """A model version."""

    version: str
    active: bool
    loaded: bool
    fingerprint: str | None
    catalog_size: int | None
    incremental: bool | None
    error: str | None = Field(None, description="why the version could not be loaded")
    live: Live | None = Field(None, description="of the last hours (`live_hours`); null: the version is not loaded")
    checks: list[Check] | None = Field(None, description="of the gate, after an activation")


class ModelsOut(Out):
    """All versions."""

    models: list[ModelOut]


class ModelReportOut(Out):
    """What `ssd4rec train` reported of a version."""

    version: str
    report: dict[str, Any] = Field(
        description="the keys are those of report.json; a version that was saved without a report has none",
        examples=[{"test": {"ndcg@10": 0.0967}, "intervals": {"model": {"ndcg@10": [0.079, 0.114]}}}],
    )


@router.get("", response_model=ModelsOut, responses=errors())
async def get_models(service: ServiceDep) -> Response:
    """Return all versions of the model, which one answers, and what happened with the loaded ones in the last hours."""
    names = await run_in_threadpool(service.models.versions.names)
    since = int(time.time() - service.settings.live_hours * 3600)
    sums = await read(service, lambda connection: totals(connection, since))
    return json_response(ModelsOut(models=[_model(service, name, sums) for name in names]))


@router.get("/{version}/live", response_model=LiveOut, responses=errors(404))
async def get_live(
    service: ServiceDep, version: PathId, hours: Annotated[float, Query(gt=0, le=2160, description="how far back")] = 24.0
) -> Response:
    """Return the live metrics of a loaded version over time, in steps of five minutes."""
    await run_in_threadpool(service.models.versions.folder, version)
    if (loaded := service.models.is_loaded(version)) is None:
        raise Problem(404, "model_not_loaded", f"the model {version!r} is not loaded; live metrics are of loaded models")
    model = loaded.model
    sums = await read(service, lambda connection: series(connection, model.key, int(time.time() - hours * 3600)))
    points = [LivePoint(at=at, **live_metrics(values, model.popularity[1]).model_dump()) for at, values in sums.items()]
    return json_response(LiveOut(model=model, points=points))


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
async def activate(
    request: Request,
    service: ServiceDep,
    version: PathId,
    key: IdempotencyKey = None,
    *,
    force: Annotated[bool, Query(description="activate the version whatever the gate would say")] = False,
) -> Response:
    """Load a version, let it pass the gate, warm it, then let it answer. On an error the active version stays.

    The gate: finite scores; an item in common with the active version; NDCG@10 on the last events of recent users not below
    that of the active version by more than `gate_margin`; the newest recorded requests are answered.
    The other processes follow within `poll_seconds`.
    """

    async def make() -> Made:
        await run_in_threadpool(service.models.switch, version, force=force)
        return _model(service, version, {}), []

    return await answer_once(request, service, key, make)


def _model(service: Service, version: str, sums: Mapping[str, Mapping[str, float]]) -> ModelOut:
    active, loaded = service.models.active, service.models.is_loaded(version)
    model = None if loaded is None else loaded.model
    values = None if model is None else sums.get(model.key)
    return ModelOut(
        version=version,
        active=active is not None and active.model.version == version,
        loaded=model is not None,
        fingerprint=None if model is None else model.fingerprint,
        catalog_size=None if model is None else len(model.ids),
        incremental=None if model is None else model.incremental,
        error=service.models.failures.get(version),
        live=None if values is None or model is None else live_metrics(values, model.popularity[1]),
        checks=service.models.checks.get(version),
    )
