"""Authentication: keys with scopes, local programs without a key as long as no key exists, and a rate limit for each key."""

import ipaddress
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from ssd4rec.service.problems import Problem
from ssd4rec.service.settings import ServiceSettings
from ssd4rec.service.store.connect import reading
from ssd4rec.service.store.keys import PREFIX, SCOPES, list_keys, matches

CACHE_SECONDS = 1.0  # a revoked key is refused after this time at the latest
COOKIE = "ssd4rec_session"
PAGE_HEADER = "x-ssd4rec-page"  # a form of another site cannot send it
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# Not declared as dependencies of the routes: FastAPI would take longer to resolve them than the model takes to score.
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key: ssd4rec keys create"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same key in another header"},
}


@dataclass(frozen=True)
class Caller:
    """The sender of a request."""

    key_id: str  # "loopback" without a key
    scopes: frozenset[str]


class KeyRing:
    """The keys of the store, read again every second, and a token bucket for each of them.

    Args:
        engine: of the store.
        settings: of the service.
    """

    def __init__(self, engine: Engine, settings: ServiceSettings) -> None:
        self._engine, self._require_key, self._rate = engine, settings.require_key, settings.rate_limit
        self._keys: dict[str, Any] = {}
        self._read_at = float("-inf")
        self._buckets: dict[str, tuple[float, float]] = {}  # key id: tokens left, and the time of that
        self._lock = threading.Lock()

    async def caller(self, request: Request, token: str | None) -> Caller:
        """Return the sender of a request.

        Raises:
            Problem: 401, no key or a wrong one; 429, too many requests; 503, the keys cannot be read.
        """
        if time.monotonic() - self._read_at > CACHE_SECONDS:
            await run_in_threadpool(self._refresh)
        caller = self._with_token(token) if token else self._without_token(request)
        self._spend(caller)
        return caller

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() - self._read_at <= CACHE_SECONDS:
                return
            with reading(self._engine) as connection:
                self._keys = {row.key_id: row for row in list_keys(connection)}
            self._read_at = time.monotonic()

    def _with_token(self, token: str) -> Caller:
        prefix, _, rest = token.partition("_")
        key = self._keys.get(rest.partition("_")[0]) if prefix == PREFIX else None
        if key is None or not matches(token, key.sha256) or key.revoked is not None:
            raise _unauthorized("the key is not valid; `ssd4rec keys list` shows the valid ones")
        scopes = frozenset(key.scopes.split())
        return Caller(key.key_id, frozenset(SCOPES) if "admin" in scopes else scopes)

    def _without_token(self, request: Request) -> Caller:
        open_to_loopback = not self._require_key and not any(row.revoked is None for row in self._keys.values())
        if open_to_loopback and _is_local_program(request):
            return Caller("loopback", frozenset(SCOPES))
        raise _unauthorized("send a key as Authorization: Bearer KEY or X-API-Key: KEY; `ssd4rec keys create` makes one")

    def _spend(self, caller: Caller) -> None:
        if not self._rate:
            return
        burst, moment = 2 * self._rate, time.monotonic()
        tokens, then = self._buckets.get(caller.key_id, (burst, moment))
        tokens = min(burst, tokens + (moment - then) * self._rate)
        if tokens < 1.0:
            raise Problem(429, "rate_limited", f"more than {self._rate:g} requests per second", headers={"Retry-After": "1"})
        self._buckets[caller.key_id] = (tokens - 1.0, moment)


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def is_loopback(host: str) -> bool:
    """Return whether an address is one of this machine that no other machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local_program(request: Request) -> bool:
    """Whether a program on this machine sent the request: not a proxy for another machine, not a page of another site."""
    local = request.client is not None and is_loopback(request.client.host)
    host = request.headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    direct = not any(header in request.headers for header in FORWARDED)
    site = request.headers.get("sec-fetch-site", "none")
    return local and direct and name.lower() in LOCAL_NAMES and site in {"none", "same-origin"}


def _token(request: Request) -> str | None:
    """Return the key of a request: its bearer token, its X-API-Key header, or the session of the page."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if token and scheme.lower() == "bearer":
        return token.strip()
    if key := request.headers.get("x-api-key"):
        return key
    if (session := request.cookies.get(COOKIE)) is not None:
        _check_page(request)
    return session


def _check_page(request: Request) -> None:
    """Check that a request with a session of the page was sent by the page, not by another site."""
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site != "same-origin" or PAGE_HEADER not in request.headers:
        raise Problem(403, "cross_site", f"a session works only from the page; send the header {PAGE_HEADER}, or a key")


def requires(scope: str) -> Callable[..., Awaitable[Caller]]:
    """Return a dependency that lets only callers with a scope pass."""

    async def check(request: Request) -> Caller:
        return await admit(request, scope)

    return check


async def admit(request: Request, scope: str) -> Caller:
    """Return who asks, if they have a scope.

    Raises:
        Problem: 401, no key or a wrong one; 403, the key lacks the scope; 429, too many requests; 503, the keys cannot be read.
    """
    keys: KeyRing = request.app.state.service.keys
    caller = await keys.caller(request, _token(request))
    request.state.caller = caller
    if scope not in caller.scopes:
        have = ", ".join(sorted(caller.scopes))
        raise Problem(403, "forbidden", f"the key has the scopes {have}; this route needs {scope}")
    return caller
