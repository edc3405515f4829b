"""Models, stores and clients of the tests of the service."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import service_world
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.schema import migrate
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


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on SQLite with its tables: a copy of it takes a service half the time that making them takes."""
    path = tmp_path_factory.mktemp("store") / "events.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.thorough)])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store without tables, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
def store(new_store: str, empty_store: Path) -> str:
    """The address of an empty store, of either kind."""
    if new_store.startswith("sqlite"):
        shutil.copyfile(empty_store, new_store.removeprefix("sqlite:///"))
    return new_store


@pytest.fixture
def client(models: Path, store: str) -> Iterator[TestClient]:
    """A client of a service on either store."""
    with service_world.running(models, store) as connected:
        yield connected
