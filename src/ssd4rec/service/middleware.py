"""What happens to every request: its path is decoded exactly, its body is bounded, its answer is counted and logged."""

import json
import logging
import secrets
import time
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssd4rec.errors import SSD4RecError
from ssd4rec.service import metrics, short_routes
from ssd4rec.service.overload import UNCOUNTED, Overload
from ssd4rec.service.problems import Problem, as_problem

access = logging.getLogger("ssd4rec.service.access")
log = logging.getLogger(__name__)

PROCESS = secrets.token_hex(4)  # of several workers, which one answered
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
}
HEADERS = [(name.encode(), value.encode()) for name, value in {**SECURITY_HEADERS, "x-process": PROCESS}.items()]


class RequestGate:
    """The outermost application.

    Args:
        app: what answers.
        max_body: bytes of a body.
        log_requests: write one JSON line a request.
        overload: says which requests are refused because others wait.
        short_routes: answer the busiest requests without the framework.
    """

    def __init__(self, app: ASGIApp, max_body: int, overload: Overload, *, log_requests: bool, short_routes: bool = True) -> None:
        self._app, self._max_body, self._log, self._short = app, max_body, log_requests, short_routes
        self._overload = overload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = secrets.token_hex(8)
        status = 500
        started = False

        async def answer(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message = {**message, "headers": all_headers(message.get("headers", ()), scope["path"], request_id)}
            await send(message)

        is_counted = scope.get("state", {}).pop("is_counted", False)  # by `RefusingProtocol`, when the request arrived
        try:
            if not is_counted and scope["path"] not in UNCOUNTED:
                self._overload.admit()
                is_counted = True
            await self._answer(scope, receive, answer)
        except Exception as error:
            if not isinstance(error, Problem | SSD4RecError):
                log.exception("request %s failed", request_id)
                if started:
                    raise
            await as_problem(error).response()(scope, receive, answer)
        finally:
            if is_counted:
                self._overload.leave()
            count_request(scope, status, time.perf_counter() - began, request_id, log_requests=self._log)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await short_routes.recommendations(scope) if self._short else None
        body = b""
        if response is None:
            scope["path"] = _decoded(scope)
            body = await _read_body(scope, receive, self._max_body)
            response = await short_routes.events(scope, body) if self._short else None
        if response is None:
            await self._app(scope, _replay(body, receive), send)
        else:
            await response(scope, receive, send)


def all_headers(headers: Iterable[tuple[bytes, bytes]], path: str, request_id: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with those that every answer has."""
    result = list(headers)
    present = {name.lower() for name, _ in result}
    result += [each for each in HEADERS if each[0] not in present]
    result.append((b"x-request-id", request_id.encode()))
    if path.startswith("/v1/") and b"cache-control" not in present:
        result.append((b"cache-control", b"no-store"))
    return result


def count_request(scope: Scope, status: int, seconds: float, request_id: str, *, log_requests: bool) -> None:
    """Add an answered request to the metrics, and to the log."""
    route = getattr(scope.get("route"), "path", "unknown")
    metrics.REQUEST_SECONDS.labels(scope["method"], route, str(status)).observe(seconds)
    if log_requests:
        line = {
            "request_id": request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
            **scope.get("state", {}).get("log", {}),
        }
        access.info(json.dumps(line))


def _decoded(scope: Scope) -> str:
    """Decode a path segment by segment, so that a slash inside an id stays inside: it is %2F there, and % is %25."""
    raw = scope.get("raw_path") or scope["path"].encode()
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in raw.split(b"?")[0].split(b"/")]
    except UnicodeDecodeError as error:
        raise Problem(400, "malformed_path", "the path is not UTF-8; percent-encode ids as UTF-8") from error
    return "/".join(segment.replace("%", "%25").replace("/", "%2F") for segment in segments)


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    headers = dict(scope["headers"])
    too_large = Problem(413, "body_too_large", f"the body has more than {limit:,} bytes; send it in parts")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise too_large
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
        if not message.get("more_body", False):
            break
    if size:
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json" and not kind.endswith(b"+json"):
            shown = kind.decode("latin-1") or "none"
            raise Problem(415, "not_json", f"the content type is {shown}; send application/json")
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay
