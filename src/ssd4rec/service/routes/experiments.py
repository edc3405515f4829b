"""Experiments: compare the active model with another version on live traffic."""

from asyncio import wrap_future
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from ssd4rec.service.auth import requires
from ssd4rec.service.ids import Id, now
from ssd4rec.service.problems import Problem, invalid, not_found
from ssd4rec.service.results import ExperimentOut, experiment_result, no_results
from ssd4rec.service.routes.common import IdempotencyKey, Made, PathId, ServiceDep, answer_once, errors, json_response, read
from ssd4rec.service.schemas import Body, Out
from ssd4rec.service.store.experiments import (
    Experiment,
    end_experiment,
    find_experiment,
    list_experiments,
    start_experiment,
)

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], dependencies=[Depends(requires("admin"))])
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", examples=["longer-histories"])]


class ExperimentIn(Body):
    """A comparison of the active model with another version."""

    name: Name = Field(description="of the experiment; users are assigned by it")
    kind: Literal["shadow", "ab", "interleaving"] = Field(
        description="shadow: the treatment ranks incoming events only; ab: it answers a share of the users; "
        "interleaving: a share of the users is given lists drafted from both"
    )
    treatment: Id = Field(description="version of the model")
    share: float = Field(0.5, gt=0.0, le=1.0, description="of the users who are given the treatment or interleaved lists")


class ExperimentsOut(Out):
    """All experiments, the newest first."""

    experiments: list[ExperimentOut]


@router.get("", response_model=ExperimentsOut, responses=errors())
async def get_experiments(service: ServiceDep) -> Response:
    """Return all experiments with their results so far."""
    await run_in_threadpool(service.maintenance.store_sums)

    def work(connection: Connection) -> list[ExperimentOut]:
        return [experiment_result(connection, each) for each in list_experiments(connection)]

    return json_response(ExperimentsOut(experiments=await read(service, work)))


@router.post("", response_model=ExperimentOut, responses=errors(400, 404, 409, 413, 415))
async def post_experiment(request: Request, service: ServiceDep, body: ExperimentIn, key: IdempotencyKey = None) -> Response:
    """Start an experiment: the active model is the control. One experiment runs at a time.

    The other processes follow within a second. Users are assigned by a hash of the name and their id.
    """

    async def make() -> Made:
        control = service.models.loaded(None).model.version
        if body.treatment == control:
            raise invalid("/treatment", f"{control!r} is the active version; name another one")
        await run_in_threadpool(service.models.versions.folder, body.treatment)
        experiment = Experiment(body.name, body.kind, control, body.treatment, body.share, now())
        await run_in_threadpool(service.models.require, (control, body.treatment))
        await wrap_future(service.writer.submit(lambda connection: _start(connection, experiment), alone=True))
        await run_in_threadpool(service.experiments.refresh)
        return no_results(experiment), []

    return await answer_once(request, service, key, make)


def _start(connection: Connection, experiment: Experiment) -> None:
    if find_experiment(connection, experiment.name) is not None:
        raise Problem(409, "experiment_exists", f"there is an experiment {experiment.name!r} already; choose another name")
    if (running := start_experiment(connection, experiment)) is not None:
        raise Problem(409, "experiment_running", f"the experiment {running.name!r} is running; end it first")


@router.post("/{name}/end", response_model=ExperimentOut, responses=errors(404, 409))
async def post_end(request: Request, service: ServiceDep, name: PathId, key: IdempotencyKey = None) -> Response:
    """End an experiment: everybody is answered by the active model again. The results stay."""

    async def make() -> Made:
        await run_in_threadpool(service.maintenance.store_sums)
        await wrap_future(service.writer.submit(lambda connection: end_experiment(connection, name), alone=True))
        shown = await read(service, lambda connection: _one(connection, name))
        await run_in_threadpool(service.experiments.refresh)
        return shown, []

    return await answer_once(request, service, key, make)


def _one(connection: Connection, name: str) -> ExperimentOut:
    experiment = find_experiment(connection, name)
    if experiment is None:
        raise not_found("experiment", name)
    return experiment_result(connection, experiment)
