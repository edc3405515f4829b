"""Erasures, and which served models may have read the erased events."""

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from ssd4rec.service.auth import requires
from ssd4rec.service.ids import MICROSECONDS, seconds
from ssd4rec.service.routes.common import ServiceDep, errors, json_response, read
from ssd4rec.service.schemas import Erasure, ErasuresOut
from ssd4rec.service.store.removal import list_erasures

router = APIRouter(prefix="/v1", tags=["users"], dependencies=[Depends(requires("admin"))])


@router.get("/erasures", response_model=ErasuresOut, responses=errors())
async def get_erasures(service: ServiceDep) -> Response:
    """Return the erasures, the newest first. A model that was saved before one may have been trained on the erased events."""
    rows = await read(service, list_erasures)
    saved = service.models.saved_at()
    erasures = [
        Erasure(
            erased_at=seconds(row.erased_at),
            events=row.events,
            models_trained_before=[name for name, at in saved.items() if row.events and at * MICROSECONDS < row.erased_at],
        )
        for row in rows
    ]
    return json_response(ErasuresOut(erasures=erasures))
