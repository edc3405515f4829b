"""The API keeps its own description: requests that it allows and forbids, made by schemathesis, never break it."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import load_all_checks

from service_world import free_port
from service_world import settings as service_settings
from ssd4rec.service.app import create_app

pytestmark = [
    pytest.mark.thorough,
    # The server is a thread of this process, and its types are checked by samples (beartype); hypothesis sees the random numbers.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

ROUTES = 24
FEW, MANY = 8, 550  # examples of each route; the slow test makes 10,000 requests
load_all_checks()
CHECKS = [
    schemathesis.checks.CHECKS.get_one(name)
    for name in ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
]


@pytest.fixture(scope="module")
def address(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a thread of this process."""
    folder = tmp_path_factory.mktemp("contract")
    app = create_app(service_settings(models, f"sqlite:///{folder / 'events.db'}"))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", proxy_headers=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False) as client:
        for user in ("0", "u", "a/b"):
            client.post("/v1/events", json={"events": [{"user_id": user, "item_id": f"i{n}"} for n in range(5)]})
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def fuzz(address: str, examples: int, mode: schemathesis.GenerationMode) -> int:
    """Send requests to every route; return how many."""
    document = httpx.get(f"{address}/openapi.json", verify=False).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = address
    sent = 0
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= ROUTES
    for operation in operations:
        if operation.path == "/v1/live":  # a stream without an end; test_feed.py reads it
            continue

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            nonlocal sent
            sent += 1
            response = case.call(base_url=address)
            if response.status_code >= 400:
                assert response.headers["content-type"] == ["application/problem+json"], case.as_curl_command()
                assert response.json().keys() >= {"type", "title", "status", "detail", "code"}
            case.validate_response(response, checks=CHECKS)

        with suppress(Unsatisfiable):  # a route without parameters takes nothing wrong
            send()
    assert httpx.get(f"{address}/health/ready", verify=False).status_code == 200
    return sent


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_route_keeps_its_description(address: str, mode: schemathesis.GenerationMode) -> None:
    assert fuzz(address, FEW, mode) >= ROUTES


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_ten_thousand_requests(address: str, mode: schemathesis.GenerationMode) -> None:
    assert fuzz(address, MANY // 2, mode) > 2000
