"""Errors as RFC 9457 problem documents (`application/problem+json`)."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from ssd4rec.errors import ArtifactError, DivergedError, SSD4RecError
from ssd4rec.service.store.connect import StoreError

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20  # of the single errors of one document
MAX_DETAIL = 600  # characters
WORDS = {  # by the type of an error of pydantic
    "missing": "it is required",
    "extra_forbidden": "it is not a field of this request",
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "expected a JSON object"),
    "list_type": "expected a list",
    "string_type": "expected a text",
    "string_unicode": "it must be valid Unicode",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    "finite_number": "expected a finite number",
    "literal_error": "expected {expected}",
    "greater_than_equal": "expected at least {ge:,}",
    "less_than_equal": "expected at most {le:,}",
    "too_short": "expected {min_length:,} or more elements",
    "too_long": "expected at most {max_length:,} elements, found {actual_length:,}",
    "string_too_short": "expected {min_length:,} or more characters",
    "string_too_long": "expected at most {max_length:,} characters",
}
OF_STATUS = {  # of errors that the framework raises: the code and what is wrong
    400: ("malformed_body", "the body cannot be read as JSON; send UTF-8 JSON as /openapi.json describes it"),
    404: ("route_not_found", "the route does not exist; /openapi.json lists all routes"),
    405: ("method_not_allowed", "the route does not take this method; /openapi.json lists what it takes"),
}

log = logging.getLogger(__name__)


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """An error that the client is answered with.

    Args:
        status: HTTP status.
        code: a stable name of the error, for programs.
        detail: one sentence for people.
        errors: for each part of the request that is wrong {"pointer", "detail"}.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers = tuple(errors), dict(headers or {})

    def document(self) -> dict[str, Any]:
        """Return the body of the answer."""
        document: dict[str, Any] = {
            "type": f"urn:ssd4rec:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": printable(self.detail),
            "code": self.code,
        }
        if self.errors:
            shown = self.errors[:MAX_ERRORS]
            document["errors"] = [{name: printable(text) for name, text in error.items()} for error in shown]
        return document

    def response(self) -> Response:
        """Return the answer."""
        body = json.dumps(self.document(), allow_nan=False)
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def printable(text: str) -> str:
    """Escape what is not valid UTF-8, and cut the text to `MAX_DETAIL` characters."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= MAX_DETAIL else f"{shown[: MAX_DETAIL - 1]}…"


def not_found(what: str, identifier: str) -> Problem:
    """Return the 404 for something that is named by an id."""
    return Problem(404, f"{what}_not_found", f"the {what} {identifier!r} does not exist")


def unavailable(code: str, detail: str, retry_after: int = 1) -> Problem:
    """Return a 503 with Retry-After."""
    return Problem(503, code, detail, headers={"Retry-After": str(retry_after)})


def as_problem(error: BaseException) -> Problem:
    """Translate an exception; those that nobody expected are logged, and become a 500 without a word about the inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StoreError):
        return unavailable(error.code, f"{error.public}; try again")
    if isinstance(error, DivergedError):
        return Problem(503, "model_diverged", str(error))
    if isinstance(error, ArtifactError):
        return Problem(409, "model_unusable", str(error))
    if isinstance(error, SSD4RecError):
        return Problem(422, "invalid_request", str(error))
    log.error("unexpected error", exc_info=error)
    return Problem(500, "internal_error", "the service failed; the cause is in its log")


def invalid(pointer: str, detail: str) -> Problem:
    """Return the problem of a request of which one part is wrong.

    Args:
        pointer: a JSON pointer into the body, or the place and name of a parameter, such as query:k.
        detail: what is wrong with it.
    """
    return Problem(422, "invalid_request", f"{pointer}: {detail}", [{"pointer": pointer, "detail": detail}])


@contextmanager
def pointing_to_query() -> Iterator[None]:
    """Let problems of a body that was made from a query point to parameters of the query in place of fields of the body.

    Raises:
        Problem: the one that was raised, with other pointers.
    """
    try:
        yield
    except Problem as error:
        moved = {each["pointer"]: f"query:{each['pointer'][1:]}" for each in error.errors if each["pointer"].startswith("/")}
        errors = [{**each, "pointer": moved.get(each["pointer"], each["pointer"])} for each in error.errors]
        pointer, separator, rest = error.detail.partition(": ")
        detail = f"{moved[pointer]}{separator}{rest}" if pointer in moved else error.detail
        raise Problem(error.status, error.code, detail, errors, error.headers) from error


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem document."""

    async def answer(_: Request, error: Exception) -> Response:
        return (_of_framework(error) or as_problem(error)).response()

    for kind in (Problem, SSD4RecError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer)


def _of_framework(error: Exception) -> Problem | None:
    if isinstance(error, HTTPException):
        code, detail = OF_STATUS.get(error.status_code, ("http_error", str(error.detail)))
        return Problem(error.status_code, code, detail, headers=error.headers)
    return _of_validation(error) if isinstance(error, RequestValidationError) else None


def _of_validation(error: RequestValidationError) -> Problem:
    problems = error.errors()
    if any(each["type"] == "json_invalid" for each in problems):
        reason = problems[0].get("ctx", {}).get("error", "syntax error")
        return Problem(400, "malformed_body", f"the body is not valid JSON: {reason}; send UTF-8 JSON")
    errors = [{"pointer": _pointer(each["loc"]), "detail": sentence(each)} for each in problems]
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, "invalid_request", f"{first['pointer'] or 'the body'}: {first['detail']}{more}", errors)


def _pointer(location: Sequence[object]) -> str:
    """A JSON pointer into the body, or the place and name of a parameter."""
    place, *rest = location
    steps = "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in rest)
    return steps if place == "body" else f"{place}:{steps.removeprefix('/')}"


def sentence(problem: Mapping[str, Any]) -> str:
    """Return what an error of pydantic says, with the value that was found, if that is short."""
    text = str(problem["msg"]).removeprefix("Value error, ")
    if (words := WORDS.get(problem["type"])) is not None:
        text = words.format(**problem.get("ctx", {}))
    value = problem.get("input")
    if isinstance(value, str | int | float | bool) and len(str(value)) <= 60:
        return f"{text}; found {value!r}"
    return text
