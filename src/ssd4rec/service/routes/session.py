"""The session of the page: a key becomes a cookie that scripts cannot read and other sites cannot send."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from ssd4rec.service.auth import COOKIE
from ssd4rec.service.routes.common import ServiceDep, errors
from ssd4rec.service.schemas import Body

router = APIRouter(prefix="/v1/session", tags=["session"])


class SessionIn(Body):
    """A key."""

    key: str = Field(min_length=1, max_length=200)


@router.post("", status_code=204, response_class=Response, responses=errors(400, 413, 415))
async def open_session(request: Request, service: ServiceDep, body: SessionIn) -> Response:
    """Open a session of the page with a key."""
    await service.keys.caller(request, body.key)
    response = Response(status_code=204)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, body.key, httponly=True, samesite="strict", secure=secure, path="/")
    return response


@router.delete("", status_code=204, response_class=Response)
async def close_session() -> Response:
    """Close the session of the page."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response
