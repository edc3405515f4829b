"""Whatever is sent: a problem document in the library's words, nothing changed, nothing lost."""

import json
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, text
from starlette.testclient import TestClient

from service_world import running, same_answer, save_model, send, stored_history
from ssd4rec.artifact import load_artifact
from ssd4rec.errors import ArtifactError
from ssd4rec.service.store.connect import StoreError, open_engine
from ssd4rec.service.store.schema import check_schema, migrate
from ssd4rec.service.store.tables import metadata
from ssd4rec.serving.recommender import Recommender

PROBLEM = "application/problem+json"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def sqlite_client(models: Path, tmp_path_factory: pytest.TempPathFactory):
    with running(models, f"sqlite:///{tmp_path_factory.mktemp('bad') / 'events.db'}") as connected:
        send(connected, "u", "i3", "i4")
        yield connected


def problem(answer, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    document = answer.json()
    assert (document["status"], document["code"]) == (status, code), document
    assert document["type"] == f"urn:ssd4rec:problem:{code}"
    assert document["title"]
    assert document["detail"]
    assert_own_words(answer.text)
    return document


def assert_own_words(text: str) -> None:
    """The words of pydantic name types of Python, which a client does not know."""
    assert not any(words in text for words in ("Input should", "Value error", "Field required", "not permitted", "should have"))


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "invalid_request"),
        (b"{", 400, "malformed_body"),
        (b"nonsense", 400, "malformed_body"),
        (b'{"events": [}', 400, "malformed_body"),
        (b"\xff\xfe\x00", 400, "malformed_body"),
        (b"[" * 100_000, 400, "malformed_body"),
        (b'{"events": ' * 20_000, 400, "malformed_body"),
        (b"[]", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b"{}", 422, "invalid_request"),
        (b'{"events": {}}', 422, "invalid_request"),
        (b'{"events": []}', 422, "invalid_request"),
        (b'{"events": [], "more": 1}', 422, "invalid_request"),
        (json.dumps({"events": [{"user_id": "u", "item_id": "i1"}] * 1001}).encode(), 422, "invalid_request"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/events", "/v1/recommendations/batch"])
def test_bodies_that_are_not_what_they_should_be(
    sqlite_client: TestClient, path: str, content: bytes, status: int, code: str
) -> None:
    if path.endswith("batch"):
        content = content.replace(b"events", b"requests")
    problem(sqlite_client.post(path, content=content, headers=JSON), status, code)
    assert stored_history(sqlite_client, "u") == ["i3", "i4"]


@pytest.mark.parametrize(
    "event", [17, None, [], {"user_id": "u"}, {"user_id": ["u"], "item_id": "i"}, {"user_id": True, "item_id": "i"}]
)
def test_events_of_wrong_types_are_rejected_one_by_one(sqlite_client: TestClient, event: object) -> None:
    answer = sqlite_client.post("/v1/events", json={"events": [event]})
    assert (answer.json()["accepted"], [each["index"] for each in answer.json()["rejected"]]) == (0, [0])
    assert_own_words(answer.text)


@pytest.mark.parametrize(
    "body",
    [
        {"user_id": "u", "k": 0},
        {"user_id": "u", "k": -1},
        {"user_id": "u", "k": 10**9},
        {"user_id": "u", "k": 10**40},
        {"user_id": "u", "k": 2.5},
        {"user_id": "u", "k": "3"},
        {"user_id": "u", "k": True},
        {},
        {"user_id": "u", "history": []},
        {"history": "i1"},
        {"history": [["i1"]]},
        {"history": ["i1"], "as_of": 100},
        {"user_id": "u", "as_of": 1.7e12},
        {"user_id": "u", "as_of": "yesterday"},
        {"user_id": "u\x00"},
        {"user_id": "x" * 257},
        {"user_id": "u", "unknown_items": "maybe"},
        {"user_id": "u", "categories": {"all": ["a"]}},
        {"user_id": "u", "explain": "poetry"},
        {"user_id": "u", "nonsense": 1},
        {"user_id": "u", "context": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}}},
        {"user_id": "u", "context": {str(n): n for n in range(2000)}},
        {"history": ["i1"] * 10_001},
        {"user_id": "u", "deny": ["i1"] * 10_001},
        {"user_id": "u", "allow": ["i1"] * 100_000},
    ],
)
def test_requests_that_make_no_sense(sqlite_client: TestClient, body: dict) -> None:
    document = problem(sqlite_client.post("/v1/recommendations", json=body), 422, "invalid_request")
    assert document["errors"][0].keys() == {"pointer", "detail"}


@pytest.mark.parametrize("content", [b'{"user_id": "u", "context": {"a": NaN}}', b'{"user_id": "u", "context": {"a": 1e999}}'])
def test_numbers_that_are_not_finite(sqlite_client: TestClient, content: bytes) -> None:
    problem(sqlite_client.post("/v1/recommendations", content=content, headers=JSON), 422, "invalid_request")


@pytest.mark.parametrize("name", [b"\\ud800", b"a\\udfffb", b"\\u0000"])
def test_texts_that_no_database_holds(sqlite_client: TestClient, name: bytes) -> None:
    content = b'{"user_id": "' + name + b'"}'
    problem(sqlite_client.post("/v1/recommendations", content=content, headers=JSON), 422, "invalid_request")
    content = b'{"history": ["i1"], "context": {"' + name + b'": 1}}'
    problem(sqlite_client.post("/v1/recommendations", content=content, headers=JSON), 422, "invalid_request")
    content = b'{"events": [{"user_id": "u", "item_id": "i1", "properties": {"a": "' + name + b'"}}]}'
    assert sqlite_client.post("/v1/events", content=content, headers=JSON).json()["accepted"] == 0
    content = b'{"title": "' + name + b'"}'
    problem(sqlite_client.put("/v1/items/i1", content=content, headers=JSON), 422, "invalid_request")


@pytest.mark.parametrize("query", ["k=0", "k=-5", "k=1000000000", "k=ten", "k=1.5", "exclude_seen=perhaps", "at=noon"])
def test_queries_that_make_no_sense(sqlite_client: TestClient, query: str) -> None:
    document = problem(sqlite_client.get(f"/v1/users/u/recommendations?{query}"), 422, "invalid_request")
    pointer = f"query:{query.partition('=')[0]}"
    assert document["errors"][0]["pointer"] == pointer
    assert document["detail"].startswith(f"{pointer}: ")


def test_bodies_that_are_too_large(sqlite_client: TestClient) -> None:
    problem(sqlite_client.post("/v1/events", content=b"x" * (10 * 2**20), headers=JSON), 413, "body_too_large")
    in_parts = (b" " * 2**20 for _ in range(10))  # no content-length
    problem(sqlite_client.post("/v1/events", content=in_parts, headers=JSON), 413, "body_too_large")


@pytest.mark.thorough
def test_a_list_of_a_million_ids(models: Path, tmp_path: Path) -> None:
    with running(models, f"sqlite:///{tmp_path / 'events.db'}", max_body_bytes=50 * 2**20) as client:
        body = {"user_id": "u", "deny": ["i1"] * 10**6}
        document = problem(client.post("/v1/recommendations", json=body), 422, "invalid_request")
        assert "10,000" in document["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""])
def test_bodies_of_another_kind(sqlite_client: TestClient, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    problem(sqlite_client.post("/v1/events", content=b'{"events": []}', headers=headers), 415, "not_json")


def test_unknown_routes_and_methods(sqlite_client: TestClient) -> None:
    for path in ("/v1", "/v1/nope", "/nope", "/v1/user", "/v1/recommendations/x/y/z", "/v1/users//events", "/docs"):
        problem(sqlite_client.get(path), 404, "route_not_found")
    refused = sqlite_client.put("/v1/events", json={})
    problem(refused, 405, "method_not_allowed")
    assert "POST" in refused.headers["allow"]
    problem(sqlite_client.get("/v1/users/%FF"), 400, "malformed_path")
    problem(sqlite_client.get("/v1/users/%00"), 422, "invalid_request")
    problem(sqlite_client.get("/v1/recommendations/rnone/next"), 404, "recommendation_not_found")
    problem(sqlite_client.post("/v1/models/none/activate"), 404, "model_not_found")


def test_no_model_yet(models: Path, store: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with running(folder, store) as client:
        problem(client.get("/health/ready"), 503, "no_model")
        refused = client.get("/v1/users/u/recommendations")
        problem(refused, 503, "no_model")
        assert refused.headers["retry-after"]
        assert send(client, "u", "i3")["accepted"] == 1  # events are taken all the same
        recommender = Recommender.load(models)
        save_model(folder / "v1", recommender)
        activated = client.post("/v1/models/v1/activate")
        assert activated.json()["active"], activated.text
        assert client.get("/v1/users/u/recommendations").json()["source"] == "model"


def test_a_damaged_model_stops_the_start_and_not_the_old_model(models: Path, recommender: Recommender, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    folder = tmp_path / "models"
    save_model(folder / "v1", recommender)
    save_model(folder / "v2", Recommender(load_artifact(models)))
    weights = folder / "v2" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="is damaged"), running(folder, store):
        pass
    (folder / "active.json").write_text('{"version": "v1"}')
    with running(folder, store) as client:
        document = problem(client.post("/v1/models/v2/activate"), 409, "model_unusable")
        assert "is damaged" in document["detail"]
        send(client, "u", "i3")
        same_answer(client.get("/v1/users/u/recommendations").json(), recommender.recommend(["i3"]))
        versions = client.get("/v1/models").json()["models"]
        assert [(each["version"], each["active"], each["error"] is None) for each in versions] == [
            ("v1", True, True),
            ("v2", False, False),
        ]
    (folder / "active.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"active\.json is damaged"), running(folder, store):
        pass


def test_a_full_store(models: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'events.db'}"
    with running(models, store) as client:
        send(client, "u", "i3")
        engine = client.app.state.service.engine
        pages = []

        def limit(connection, _) -> None:
            count = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={count}")
            pages.append(count)

        engine.dispose()
        event.listen(engine, "connect", limit)
        events = [{"user_id": "u", "item_id": "i" * 200, "event_id": f"e{n}" + "x" * 200} for n in range(1000)]
        refused = client.post("/v1/events", json={"events": events})
        document = problem(refused, 503, "store_full")
        assert str(tmp_path) not in document["detail"]
        assert refused.headers["retry-after"]
        assert client.get("/v1/users/u").json()["events"] == 1
        event.remove(engine, "connect", limit)
        engine.dispose()
        assert client.post("/v1/events", json={"events": events}).json()["accepted"] == 1000
        assert pages


def test_a_locked_store(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with running(models, f"sqlite:///{path}", store_timeout_seconds=0.2) as client:
        send(client, "u", "i3")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refused = client.post("/v1/events", json={"events": [{"user_id": "u", "item_id": "i4"}]})
        problem(refused, 503, "store_locked")
        assert client.get("/v1/users/u/recommendations").status_code == 200  # readers do not wait
        other.execute("ROLLBACK")
        other.close()
        send(client, "u", "i4")
        assert stored_history(client, "u") == ["i3", "i4"]


@pytest.mark.parametrize(("version", "message"), [("0000", "does not know"), ("9999", "newer version")])
def test_a_store_of_another_version(new_store: str, version: str, message: str) -> None:
    engine = open_engine(new_store)
    with pytest.raises(StoreError, match="schema none"):
        check_schema(engine)
    migrate(engine)
    migrate(engine)  # a second time changes nothing
    check_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
    with pytest.raises(StoreError, match=message):
        migrate(engine)
    with pytest.raises(StoreError, match=f"schema {version}"):
        check_schema(engine)
    engine.dispose()


def test_a_store_of_the_version_before_is_updated(models: Path, store: str, recommender: Recommender) -> None:
    with running(models, store) as client:
        send(client, "u", "i3", "i4")
    engine = open_engine(store)
    with engine.begin() as connection:
        for statement in (
            "DROP TABLE snapshots",
            "DROP TABLE experiments",
            "DROP TABLE live_sums",
            "DROP INDEX events_by_recommendation",
            "DROP INDEX recommendations_by_variant",
            "UPDATE alembic_version SET version_num = '0001'",
        ):
            connection.execute(text(statement))
    with pytest.raises(StoreError, match="schema 0001"):
        check_schema(engine)
    with running(models, store) as client:
        check_schema(engine)
        same_answer(client.get("/v1/users/u/recommendations").json(), recommender.recommend(["i3", "i4"]))
        assert client.get("/v1/experiments").json() == {"experiments": []}
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []  # the migrations make exactly the tables that the code reads and writes


def test_a_database_of_another_program(new_store: str) -> None:
    engine = open_engine(new_store)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE users (name TEXT)"))
    with pytest.raises(StoreError, match="did not create"):
        migrate(engine)
    engine.dispose()


@pytest.mark.parametrize("address", ["mysql://x/y", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_addresses_that_are_no_store(address: str) -> None:
    with pytest.raises(StoreError):
        open_engine(address)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_text("not a database " * 100)
    engine = open_engine(f"sqlite:///{tmp_path / 'events.db'}")
    with pytest.raises(StoreError, match="not a database"):
        migrate(engine)
