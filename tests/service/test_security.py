"""Keys, scopes, loopback, limits: fail closed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from service_world import running
from ssd4rec.service import auth
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.keys import create_key, revoke_key
from ssd4rec.service.store.schema import migrate

OPEN = {"/health/live", "/health/ready", "/v1/session"}  # a session is opened with a key in the body
PROBLEM = "application/problem+json"


def make_key(store: str, *scopes: str) -> tuple[str, str]:
    engine = open_engine(store)
    migrate(engine)
    with engine.begin() as connection:
        key = create_key(connection, "test", scopes)
    engine.dispose()
    return key


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'events.db'}"


@pytest.fixture
def remote(models: Path, sqlite: str) -> Iterator[TestClient]:
    """A client on another machine."""
    with running(models, sqlite, client="192.0.2.7") as connected:
        yield connected


def operations(client: TestClient) -> list[tuple[str, str]]:
    """Every method and path of the API's own description, with values in the places of parameters."""
    document = client.app.openapi()
    values = {"{user_id}": "u", "{item_id}": "i1", "{version}": "first", "{recommendation_id}": "r", "{name}": "e"}
    calls = []
    for path, methods in document["paths"].items():
        filled = path
        for name, value in values.items():
            filled = filled.replace(name, value)
        calls += [(method.upper(), filled) for method in methods]
    return calls


def test_every_route_but_health_demands_a_key(remote: TestClient) -> None:
    calls = operations(remote)
    assert len(calls) > 15
    described = remote.app.openapi()["paths"]
    assert {path for path, methods in described.items() if any("security" not in each for each in methods.values())} == OPEN
    for method, path in [*calls, ("GET", "/openapi.json"), ("GET", "/metrics")]:
        if path in OPEN:
            continue
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "ssd4rec_abc_def"}, {"Cookie": f"{auth.COOKIE}=x"}):
            content = "{}" if method in {"POST", "PUT"} else None
            kind = {"Content-Type": "application/json"} if content else {}
            answer = remote.request(method, path, content=content, headers=kind | headers)
            assert (answer.status_code, answer.headers["content-type"]) in [(401, PROBLEM), (403, PROBLEM)], (method, path)
            if answer.status_code == 403:
                assert "Cookie" in headers


def test_loopback_needs_no_key_until_there_is_one(models: Path, sqlite: str) -> None:
    with running(models, sqlite) as client:
        assert client.get("/v1/models").status_code == 200
        _, token = make_key(sqlite, "read")
        client.app.state.service.keys._read_at = float("-inf")
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/items/i1", headers={"X-API-Key": token}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "192.0.2.7"},
        {"Forwarded": "for=192.0.2.7"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_loopback_is_not_a_proxy_nor_a_page_of_another_site(models: Path, sqlite: str, headers: dict[str, str]) -> None:
    with running(models, sqlite) as client:
        assert client.get("/v1/items/i1").status_code == 200
        assert client.get("/v1/items/i1", headers=headers).status_code == 401


def test_require_key_holds_for_loopback(models: Path, sqlite: str) -> None:
    with running(models, sqlite, require_key=True) as client:
        assert client.get("/v1/items/i1").status_code == 401
        assert client.get("/health/live").status_code == 200


def test_scopes(remote: TestClient, sqlite: str) -> None:
    keys = {scope: make_key(sqlite, scope)[1] for scope in ("events", "read", "admin")}
    remote.app.state.service.keys._read_at = float("-inf")
    calls = {
        "events": ("POST", "/v1/events", {"events": [{"user_id": "u", "item_id": "i1"}]}),
        "read": ("GET", "/v1/users/u/recommendations", None),
        "admin": ("DELETE", "/v1/users/u", None),
    }
    for needed, (method, path, body) in calls.items():
        for scope, token in keys.items():
            answer = remote.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
            allowed = scope in {needed, "admin"}
            assert (answer.status_code < 400) == allowed, (needed, scope, answer.text)
            if not allowed:
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            if needed == "admin" and allowed:
                break


def test_a_revoked_key_is_refused(remote: TestClient, sqlite: str) -> None:
    key_id, token = make_key(sqlite, "read")
    remote.app.state.service.keys._read_at = float("-inf")
    headers = {"X-API-Key": token}
    assert remote.get("/v1/items/i1", headers=headers).status_code == 200
    engine = open_engine(sqlite)
    with engine.begin() as connection:
        assert revoke_key(connection, key_id)
        assert not revoke_key(connection, key_id)
        stored = connection.execute(text("SELECT * FROM api_keys")).all()
    engine.dispose()
    assert token not in repr(stored)
    remote.app.state.service.keys._read_at = float("-inf")
    assert remote.get("/v1/items/i1", headers=headers).status_code == 401


def test_the_session_of_the_page(remote: TestClient, sqlite: str) -> None:
    _, token = make_key(sqlite, "admin")
    remote.app.state.service.keys._read_at = float("-inf")
    assert remote.post("/v1/session", json={"key": "wrong"}).status_code == 401
    opened = remote.post("/v1/session", json={"key": token})
    cookie = opened.headers["set-cookie"]
    assert opened.status_code == 204
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert remote.get("/v1/items/i1").status_code == 200
    assert remote.put("/v1/items/i1", json={}).status_code == 403
    assert remote.put("/v1/items/i1", json={}, headers={auth.PAGE_HEADER: "1"}).status_code == 200
    cross = {auth.PAGE_HEADER: "1", "Sec-Fetch-Site": "cross-site"}
    assert remote.put("/v1/items/i1", json={}, headers=cross).status_code == 403
    assert remote.delete("/v1/session").status_code == 204
    assert remote.get("/v1/items/i1").status_code == 401


def test_too_many_requests(models: Path, sqlite: str) -> None:
    with running(models, sqlite, rate_limit=2.0) as client:
        statuses = [client.get("/v1/items/i1").status_code for _ in range(10)]
        assert statuses[:4] == [200] * 4
        assert 429 in statuses
        refused = next(a for a in iter(lambda: client.get("/v1/items/i1"), None) if a.status_code == 429)
        assert refused.headers["retry-after"] == "1"


def test_headers_of_every_answer(remote: TestClient) -> None:
    for path in ("/health/live", "/nope", "/v1/models"):
        headers = remote.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert headers["x-request-id"]
