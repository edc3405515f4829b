"""From a request for recommendations to its answer."""

import asyncio
import json
import random
import secrets
from dataclasses import dataclass, replace
from typing import Any

from starlette.concurrency import run_in_threadpool

from ssd4rec.explain.results import Level
from ssd4rec.service import metrics
from ssd4rec.service.answering import Answer, ItemRow, Query, ignored_time
from ssd4rec.service.core import Service
from ssd4rec.service.experiments import EVERYBODY, Arm, team_draft
from ssd4rec.service.explaining import reasons_of
from ssd4rec.service.ids import now, seconds
from ssd4rec.service.live import ANSWERS, POPULAR
from ssd4rec.service.problems import invalid
from ssd4rec.service.schemas import ModelRef, RecommendationsIn, RecommendationsOut, RecommendedItem
from ssd4rec.service.store.answers import RecommendationRecord

MAX_EXPLAINED = 100  # items of one answer


def check_limits(service: Service, body: RecommendationsIn) -> None:
    """Refuse what is larger than the settings allow.

    Raises:
        Problem: 422.
    """
    largest = service.settings.max_k
    if body.k > largest:
        raise invalid("/k", f"at most {largest:,} items can be requested, found {body.k:,}")
    if body.explain != "none" and body.k > MAX_EXPLAINED:
        raise invalid("/k", f"at most {MAX_EXPLAINED} items can be explained in one answer, found {body.k:,}")
    check_lists(service, history=body.history, allow=body.allow, deny=body.deny)


def check_lists(service: Service, **lists: list[str] | None) -> None:
    """Refuse lists of ids that are longer than the settings allow.

    Raises:
        Problem: 422.
    """
    longest = service.settings.max_list
    for name, values in lists.items():
        if values is not None and len(values) > longest:
            raise invalid(f"/{name}", f"a list has at most {longest:,} ids, found {len(values):,}")


@dataclass(frozen=True)
class Result:
    """The items of an answer before it has an id."""

    answer: Answer  # of the control where two lists are interleaved
    rows: list[ItemRow]
    arm: Arm
    teams: dict[str, int] | None = None  # of interleaved items: 0 control, 1 treatment
    warnings: tuple[str, ...] = ()  # that one of the models did not read the time


async def recommend(service: Service, body: RecommendationsIn) -> tuple[RecommendationsOut, list[int | None]]:
    """Answer one request; return the answer, and the key of the user; None: of nobody.

    Raises:
        Problem: the request is refused, or the service cannot answer.
    """
    check_limits(service, body)
    query = Query(body, now())
    arm = service.experiments.arm_of(body.user_id) if body.as_of is None else None
    result = await answer_query(service, query, arm or EVERYBODY)
    answered = as_body(service, query, result)
    if body.explain != "none":
        await _add_reasons(answered, result, body.explain)
    return answered, [result.answer.prepared.user_key]


async def answer_query(service: Service, query: Query, arm: Arm) -> Result:
    """Answer with the version of the query, with that of an arm, or with two interleaved lists.

    Raises:
        Problem: the service cannot answer.
    """
    if len(arm.versions) < 2:
        answer = await service.direct.answer(replace(query, version=arm.versions[0]) if arm.versions else query)
        return Result(answer, answer.rows, arm, warnings=tuple(ignored_time(answer.model, query.body.at)))
    control, treatment = await asyncio.gather(*(service.direct.answer(replace(query, version=each)) for each in arm.versions))
    ignored = [tuple(ignored_time(answer.model, query.body.at)) for answer in (control, treatment)]
    if {control.best.source, treatment.best.source} != {"model"}:
        return Result(control, control.rows, EVERYBODY, warnings=ignored[0])  # popular items compare nothing
    lists = [{row.item_id: row for row in answer.rows} for answer in (control, treatment)]
    drafted = team_draft(list(lists[0]), list(lists[1]), query.body.k, random.SystemRandom())
    rows = [lists[team][item] for item, team in drafted]
    return Result(control, rows, arm, dict(drafted), (*ignored[0], *ignored[1]))


async def _add_reasons(answered: RecommendationsOut, result: Result, level: Level) -> None:
    answer = result.answer
    if result.teams is not None:
        answered.warnings.append("no reasons: the answer interleaves the lists of two models")
    elif answer.best.source != "model":
        answered.warnings.append("no reasons: the items are popular, nothing in the history was read")
    else:
        items = answer.best.items.tolist()
        reasons = await run_in_threadpool(reasons_of, answer.model, answer.state.indices, items, level, answer.prepared.moment)
        for item, each in zip(answered.items, reasons, strict=True):
            item.reasons = each


def as_body(service: Service, query: Query, result: Result) -> RecommendationsOut:
    """Give an answer its id, record it, and return its body.

    The record is written in the background: an answer does not wait for the disk. `next` waits for it.
    """
    body, answer, model, arm = query.body, result.answer, result.answer.model, result.arm
    recommendation_id = f"r{secrets.token_hex(12)}"
    source, moment = answer.best.source, answer.prepared.moment
    items = [
        RecommendedItem(item_id=row.item_id, title=row.title, score=row.score, rank=rank)
        for rank, row in enumerate(result.rows, start=len(query.earlier) + 1)
    ]
    # the next pages answer for the time of the first one
    stored: dict[str, Any] = {"body": _stored(body, answer), "fingerprint": model.fingerprint, "asked": query.now}
    if result.teams is not None:
        stored |= {"teams": result.teams, "versions": arm.versions}
    record = RecommendationRecord(
        recommendation_id=recommendation_id,
        user_key=answer.prepared.user_key,
        position=answer.prepared.position,
        created=now(),
        model=model.version,
        variant=arm.variant,
        source=source,
        request=_dumps(stored),
        items=_dumps([*query.earlier, *(row.item_id for row in result.rows)]),
    )
    service.writer.record(record)
    metrics.RECOMMENDATIONS.labels(arm.variant, source).inc()
    service.sums.add(model.key, {ANSWERS: 1.0, POPULAR: float(source == "popular")})
    full = len(items) == body.k
    return RecommendationsOut(
        recommendation_id=recommendation_id,
        model=ModelRef(version=model.version, fingerprint=model.fingerprint),
        variant=arm.variant,
        source=source,
        at=seconds(moment.at) if moment and source == "model" else None,
        items=items,
        warnings=[*_warnings(body, answer, len(items)), *result.warnings],
        next=f"/v1/recommendations/{recommendation_id}/next?k={body.k}" if full else None,
    )


def _warnings(body: RecommendationsIn, answer: Answer, items: int) -> list[str]:
    warnings, events, unknown = [], len(answer.state.indices), answer.state.unknown
    if unknown:
        effect = "skipped" if answer.best.source == "model" else "not read"
        warnings.append(f"{unknown} of {events} items of the history are not in the catalog and were {effect}")
    if answer.best.source == "popular":
        reason = "the history is empty" if not events else "nothing in the history is known"
        if events > unknown:
            reason = "the history contains unknown items"
        warnings.append(f"{reason}: these are the most popular items")
    if ignored := answer.prepared.ignored:
        warnings.append(f"{ignored} ids of allow are not in the catalog and were ignored")
    if items < body.k:
        warnings.append(f"only {items} candidates were left, {body.k} were requested")
    if body.context is not None:
        warnings.append("context is stored; the model does not read it yet")
    return warnings


def _stored(body: RecommendationsIn, answer: Answer) -> dict[str, Any]:
    """The request as it is recorded. It names no user: an erasure finds it by the user's key, or there is nothing to find."""
    times = {"as_of": body.as_of, "at": body.at, "last_event": body.last_event}
    values = body.model_dump(mode="json", exclude_defaults=True, exclude={"user_id", *times})
    if body.user_id is not None and answer.prepared.user_key is None:
        return {"history": []} | {name: value for name, value in values.items() if name != "context"}
    return values | {name: seconds(value) for name, value in times.items() if value is not None}


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
