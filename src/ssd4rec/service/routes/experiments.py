"""Experiments: compare the active model with another version on live traffic."""

from collections.abc import Iterable

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from ssd4rec.service.auth import requires
from ssd4rec.service.ids import now, seconds
from ssd4rec.service.problems import Problem, invalid, not_found
from ssd4rec.service.results import ExperimentResult, experiment_result
from ssd4rec.service.routes.common import IdempotencyKey, PathId, ServiceDep, answer_once, errors, json_response, read, wait
from ssd4rec.service.schemas_models import ArmOut, ExperimentIn, ExperimentOut, ExperimentsOut, InterleavingOut, PairedOut
from ssd4rec.service.store.experiments import (
    Experiment,
    end_experiment,
    find_experiment,
    list_experiments,
    start_experiment,
)

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], dependencies=[Depends(requires("admin"))])


@router.get("", response_model=ExperimentsOut, responses=errors())
async def get_experiments(service: ServiceDep) -> Response:
    """Return all experiments with their results so far."""
    await run_in_threadpool(service.maintenance.store_sums)

    def work(connection: Connection) -> list[ExperimentOut]:
        return [_shown(each, experiment_result(connection, each)) for each in list_experiments(connection)]

    return json_response(ExperimentsOut(experiments=await read(service, work)))


@router.post("", response_model=ExperimentOut, responses=errors(400, 404, 409, 413, 415))
async def post_experiment(request: Request, service: ServiceDep, body: ExperimentIn, key: IdempotencyKey = None) -> Response:
    """Start an experiment: the active model is the control. One experiment runs at a time.

    The other processes follow within a second. Users are assigned by a hash of the name and their id.
    """

    async def make() -> tuple[BaseModel, Iterable[int]]:
        control = service.models.loaded(None).model.version
        if body.treatment == control:
            raise invalid("/treatment", f"{control!r} is the active version; name another one")
        await run_in_threadpool(service.models.versions.folder, body.treatment)
        experiment = Experiment(body.name, body.kind, control, body.treatment, body.share, now())
        await run_in_threadpool(service.models.require, (control, body.treatment))
        await wait(service.writer.submit(lambda connection: _start(connection, experiment), alone=True))
        await run_in_threadpool(service.experiments.refresh)
        return _shown(experiment, ExperimentResult()), []

    return await answer_once(request, service, key, make)


def _start(connection: Connection, experiment: Experiment) -> None:
    if find_experiment(connection, experiment.name) is not None:
        raise Problem(409, "experiment_exists", f"there is an experiment {experiment.name!r} already; choose another name")
    if (running := start_experiment(connection, experiment)) is not None:
        raise Problem(409, "experiment_running", f"the experiment {running.name!r} is running; end it first")


@router.post("/{name}/end", response_model=ExperimentOut, responses=errors(404, 409))
async def post_end(request: Request, service: ServiceDep, name: PathId, key: IdempotencyKey = None) -> Response:
    """End an experiment: everybody is answered by the active model again. The results stay."""

    async def make() -> tuple[BaseModel, Iterable[int]]:
        await run_in_threadpool(service.maintenance.store_sums)
        await wait(service.writer.submit(lambda connection: end_experiment(connection, name), alone=True))
        shown = await read(service, lambda connection: _one(connection, name))
        await run_in_threadpool(service.experiments.refresh)
        return shown, []

    return await answer_once(request, service, key, make)


def _one(connection: Connection, name: str) -> ExperimentOut:
    experiment = find_experiment(connection, name)
    if experiment is None:
        raise not_found("experiment", name)
    return _shown(experiment, experiment_result(connection, experiment))


def _shown(experiment: Experiment, result: ExperimentResult) -> ExperimentOut:
    paired, wins = result.paired, result.interleaving
    return ExperimentOut(
        name=experiment.name,
        kind=experiment.kind,
        control=experiment.control,
        treatment=experiment.treatment,
        share=experiment.share,
        started=seconds(experiment.started),
        ended=None if experiment.ended is None else seconds(experiment.ended),
        arms=[
            ArmOut(
                arm=arm.arm,
                answers=arm.answers,
                users=arm.users,
                clicked=arm.clicked,
                click_through_interval=arm.click_through_interval,
                followed=arm.followed,
                hits=arm.hits,
                hit_rate_interval=arm.hit_rate_interval,
            )
            for arm in result.arms
        ],
        click_through_difference=result.difference,
        interleaving=None
        if wins is None
        else InterleavingOut(
            control_wins=wins.control_wins,
            treatment_wins=wins.treatment_wins,
            ties=wins.ties,
            treatment_share_interval=wins.interval,
        ),
        prequential=PairedOut(
            ranked_events=result.ranked_events,
            difference=None if paired is None else paired.mean,
            interval=None if paired is None else paired.interval,
            p_value=None if paired is None else paired.p_value,
        ),
    )
