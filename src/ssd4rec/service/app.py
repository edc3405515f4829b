"""The application: parts, routes, errors, page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from ssd4rec.service import problems
from ssd4rec.service.auth import SECURITY_SCHEMES
from ssd4rec.service.core import Service
from ssd4rec.service.examples import add_examples
from ssd4rec.service.feed import close_on_signal
from ssd4rec.service.middleware import RequestGate
from ssd4rec.service.overload import Overload
from ssd4rec.service.routes import ROUTERS
from ssd4rec.service.routes.live import LiveAnswer, LiveEvent
from ssd4rec.service.schemas import Event, ProblemOut
from ssd4rec.service.settings import ServiceSettings

PAGE = Path(__file__).parent / "page"
DESCRIPTION = """
Events go in, the next request already reflects them. Ids are text; an integer in a request is read as its decimal digits.
Timestamps are seconds since 1970. Errors are RFC 9457 problem documents.
"""


def create_app(settings: ServiceSettings, service: Service | None = None, *, short_routes: bool = True) -> FastAPI:
    """Return the application. Its parts start with its lifespan and stop with it.

    Args:
        settings: all of them.
        service: parts that are running already; None: they are started.
        short_routes: answer the busiest requests without the framework, which is the same answer sooner.
    """
    overload = Overload(settings.max_in_flight) if service is None else service.overload

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        app.state.service = service or await run_in_threadpool(Service, settings, overload)
        if settings.workers > 1:
            app.state.service.settle()
        close_on_signal(app.state.service.feed)
        try:
            yield {"overload": overload, "log_requests": settings.log_requests}  # for `RefusingProtocol`
        finally:
            await run_in_threadpool(app.state.service.close)

    app = FastAPI(
        title="ssd4rec",
        version=metadata.version("ssd4rec"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # it loads scripts of another site
        redoc_url=None,
        openapi_url=None,  # routes/health.py serves it behind a key
    )
    problems.install(app)
    _complete_description(app)
    for router in ROUTERS:
        app.include_router(router)
    if settings.page and (PAGE / "index.html").is_file():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    app.add_middleware(
        RequestGate,
        max_body=settings.max_body_bytes,
        overload=overload,
        log_requests=settings.log_requests,
        short_routes=short_routes,
    )
    return app


def _complete_description(app: FastAPI) -> None:
    """Add the schemas that FastAPI does not find: events and requests of a batch are checked one by one, errors by nobody."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schemas = document["components"]["schemas"]
        for model in (Event, LiveAnswer, LiveEvent, ProblemOut):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        document["components"]["securitySchemes"] = SECURITY_SCHEMES
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if "401" in operation["responses"] and path != "/v1/session":
                    operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
        add_examples(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
