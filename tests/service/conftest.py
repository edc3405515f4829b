"""Models, stores and clients of the tests of the service."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import service_world
from ssd4rec.serving.recommender import Recommender


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one model."""
    folder = tmp_path_factory.mktemp("service") / "first"
    service_world.save_model(folder, service_world.default_recommender())
    return folder


@pytest.fixture(scope="session")
def recommender(models: Path) -> Recommender:
    """The library's recommender of the same folder: what the answers must equal."""
    return Recommender.load(models)


@pytest.fixture(scope="session")
def postgres() -> Iterator[service_world.PostgresServer]:
    """A PostgreSQL server; required in CI, elsewhere its tests are skipped where it is missing."""
    if not service_world.POSTGRES_BINARIES:
        message = "PostgreSQL is missing; apt-get install postgresql"
        if os.environ.get("SSD4REC_REQUIRE_POSTGRESQL"):
            pytest.fail(message)
        pytest.skip(message)
    server = service_world.PostgresServer()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.thorough)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
def client(models: Path, store: str) -> Iterator[TestClient]:
    """A client of a service on either store."""
    with service_world.running(models, store) as connected:
        yield connected
