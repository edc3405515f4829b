"""Settings of the service: defaults, a TOML file, SSD4REC_ environment variables and flags, in rising order of precedence."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ssd4rec.errors import ConfigError

PREFIX = "SSD4REC_"
SCHEMES = ("sqlite", "postgresql")


class ServiceSettings(BaseModel):
    """Everything that `ssd4rec serve` can be configured with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Path = Field(description="folder of one model, or of version folders with an active.json")
    store: str = Field("sqlite:///events.db", description="address of the event store, sqlite:///… or postgresql+psycopg://…")
    host: str = Field("127.0.0.1", description="address to listen on; anything but loopback demands a key")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 chooses a free one")
    workers: int = Field(1, ge=1, le=64, description="number of processes")
    threads: int = Field(1, ge=1, description="threads of PyTorch in one process; more take more CPU and rarely less time")
    require_key: bool = Field(default=False, description="demand a key from loopback clients too")
    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1024, description="larger request bodies are refused")
    max_k: int = Field(1000, ge=1, le=100_000, description="largest number of items in one answer")
    max_list: int = Field(10_000, ge=1, le=1_000_000, description="longest list of ids in a request")
    max_future_seconds: int = Field(86_400, ge=0, description="events further in the future than this are rejected")
    queue_events: int = Field(20_000, ge=1000, description="events that wait for a commit before more are refused")
    max_in_flight: int = Field(128, ge=1, description="requests that one process answers at a time; more are refused with 503")
    queue_requests: int = Field(512, ge=1, description="histories that wait to be read before more are refused with 503")
    queue_seconds: float = Field(
        1.0, gt=0.0, le=60.0, description="a request that waited longer for its turn is refused with 503"
    )
    batch_size: int = Field(32, ge=1, le=1024, description="requests that are scored together")
    state_memory_mb: int = Field(512, ge=1, description="memory of the cached user states of one process")
    keep_answers: bool = Field(default=True, description="answer the same question to the same state again without scoring")
    rate_limit: float = Field(1000.0, ge=0.0, description="requests a second of one key in one process; 0: no limit")
    poll_seconds: float = Field(1.0, gt=0.0, le=60.0, description="how often a process looks at active.json")
    snapshot_events: int | None = Field(
        300, ge=1, description="users with so many events have a stored state, so that a cold read takes a millisecond; none: off"
    )
    warm_users: int = Field(
        1000, ge=0, description="recently active users whose states a new model reads before it answers, if there is time"
    )
    warm_seconds: float = Field(180.0, ge=0.0, le=600.0, description="longest time for that; at the start a ninetieth of it")
    warm_share: float = Field(
        0.2, ge=0.0, le=0.9, description="time of a thread that reads the states of the other recent users meanwhile; 0: off"
    )
    prequential_share: float = Field(
        0.1, ge=0.0, le=1.0, description="time of the scoring thread for ranking incoming events before they are read; 0: off"
    )
    live_hours: float = Field(24.0, gt=0.0, le=2160.0, description="window of the live metrics")
    gate_margin: float = Field(
        0.01, ge=0.0, le=1.0, description="a version whose NDCG@10 is lower than that of the active one by more is not activated"
    )
    recommendation_days: float = Field(30.0, gt=0.0, description="age at which stored recommendations are removed")
    retention_days: float | None = Field(None, gt=0.0, description="age at which events are removed; none: never")
    retention_events: int | None = Field(None, ge=1, description="newest events of a user that are kept; none: all")
    store_timeout_seconds: float = Field(5.0, gt=0.0, le=60.0, description="longest wait for a lock or a connection of the store")
    log_requests: bool = Field(default=True, description="one JSON line a request on standard error")
    page: bool = Field(default=True, description="serve the page at /")

    @field_validator("snapshot_events", "retention_days", "retention_events", mode="before")
    @classmethod
    def _may_be_none(cls, value: object) -> object:
        return None if value == "none" else value

    @field_validator("store")
    @classmethod
    def _is_store(cls, value: str) -> str:
        return check_address(value)

    def shown(self) -> dict[str, Any]:
        """The settings without secrets, for a start-up message."""
        return {**self.model_dump(mode="json"), "store": hide_password(self.store)}


def check_address(address: str) -> str:
    """Return the address of a store with its driver.

    Raises:
        ValueError: it is not the address of a SQLite or PostgreSQL database.
    """
    expected = "expected sqlite:///events.db or postgresql+psycopg://user:password@host/database"
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise ValueError(f"the store {address!r} is not an address; {expected}") from error
    backend = url.get_backend_name()
    if backend not in SCHEMES:
        raise ValueError(f"the store is of the kind {backend!r}; {expected}")
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ValueError("the store is a SQLite database in memory, which keeps nothing; name a file, sqlite:///events.db")
        return address
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def hide_password(address: str) -> str:
    """Return an address with *** in place of its password."""
    return make_url(address).render_as_string(hide_password=True)


def load_settings(
    file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> ServiceSettings:
    """Merge the sources of settings.

    Args:
        file: TOML with the names of `ServiceSettings`; None: no file.
        environment: SSD4REC_ variables; unknown ones are ignored. None: that of the process.
        flags: from the command line; None values are left out.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or has a bad value.
    """
    values: dict[str, object] = {}
    if file is not None:
        values.update(_from_file(file))
    environment = os.environ if environment is None else environment
    for name in ServiceSettings.model_fields:
        if (value := environment.get(f"{PREFIX}{name.upper()}")) is not None:
            values[name] = value
    values.update({name: value for name, value in (flags or {}).items() if value is not None})
    if "models" not in values:
        raise ConfigError("no model is named; write ssd4rec serve DIR, the folder of a model or of several versions")
    try:
        return ServiceSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        problem = (
            "is not a setting of the service"
            if first["type"] == "extra_forbidden"
            else str(first["msg"]).removeprefix("Value error, ")
        )
        raise ConfigError(f"{name}: {problem}; see ssd4rec serve --help") from error


def _from_file(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the settings {file} cannot be read: {error.strerror or error}; give another file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings {file} are not valid TOML: {error}") from error


def as_environment(settings: ServiceSettings) -> dict[str, str]:
    """Return the settings as environment variables, for the worker processes."""
    values = settings.model_dump(mode="json")
    return {f"{PREFIX}{name.upper()}": "none" if value is None else str(value) for name, value in values.items()}
