"""The two busiest requests, answered without the framework: one user's recommendations, and events.

Routing, dependencies and validation of FastAPI take longer than the model takes to score. These functions recognize the usual
form of the two requests and answer it with the functions that the routes call; whatever looks unusual is left to the routes,
which define every answer. Scopes, errors, headers, metrics and the log are the same.
"""

import json
import re
from types import SimpleNamespace
from urllib.parse import unquote

from fastapi.responses import Response
from starlette.requests import Request
from starlette.types import Scope

from ssd4rec.service.auth import admit
from ssd4rec.service.ids import check_id
from ssd4rec.service.problems import pointing_to_query
from ssd4rec.service.recommending import recommend
from ssd4rec.service.routes.common import json_response, log_user
from ssd4rec.service.routes.events import MAX_EVENTS, store_events
from ssd4rec.service.schemas import RecommendationsIn

_RECOMMENDATIONS = re.compile(rb"/v1/users/([^/]+)/recommendations")
_QUERY = re.compile(rb"(?:k=([1-9][0-9]{0,5}))?(?:(?:^|(?<=[0-9])&)exclude_seen=(true|false))?")
# The part of the two routes that the metrics read.
_GET_RECOMMENDATIONS = SimpleNamespace(path="/v1/users/{user_id}/recommendations")
_POST_EVENTS = SimpleNamespace(path="/v1/events")


async def recommendations(scope: Scope) -> Response | None:
    """Answer GET /v1/users/{id}/recommendations; None: it is another request, or an unusual form of this one.

    Raises:
        Problem: the request is refused.
    """
    path = scope.get("raw_path")
    if scope["method"] != "GET" or path is None or (match := _RECOMMENDATIONS.fullmatch(path)) is None or _has_body(scope):
        return None
    query = _QUERY.fullmatch(scope["query_string"])
    try:
        user_id = check_id(unquote(match[1].decode("ascii"), errors="strict"))
    except ValueError:  # the route says what is wrong with it
        return None
    if query is None:
        return None
    scope["route"] = _GET_RECOMMENDATIONS
    request = Request(scope)
    await admit(request, "read")
    log_user(request, user_id)
    body = RecommendationsIn(user_id=user_id, k=int(query[1] or 10), exclude_seen=query[2] != b"false")
    with pointing_to_query():
        answered, _ = await recommend(scope["app"].state.service, body)
    return json_response(answered)


async def events(scope: Scope, body: bytes) -> Response | None:
    """Answer POST /v1/events; None: it is another request, or an unusual form of this one.

    Raises:
        Problem: the request is refused.
    """
    if scope["method"] != "POST" or scope["path"] != "/v1/events" or scope["query_string"]:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    values = value.get("events") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_EVENTS:
        return None
    scope["route"] = _POST_EVENTS
    await admit(Request(scope), "events")
    return json_response(await store_events(scope["app"].state.service, values, atomic=False))


def _has_body(scope: Scope) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in scope["headers"])
