"""Engines for the two databases: durable commits, short waits, one clear error for everything that a database refuses."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from ssd4rec.errors import SSD4RecError
from ssd4rec.service.settings import check_address, hide_password

POSTGRESQL_RETRY = frozenset({"40001", "40P01"})  # serialization failure, deadlock
KINDS = (  # what a message of a database contains: the code, what it means, what to do
    (
        ("locked", "busy", "lock timeout"),
        ("store_locked", "the store is locked by another program", "wait until it has finished"),
    ),
    (("full", "no space"), ("store_full", "the disk of the store is full", "free some space")),
    (("readonly", "read-only"), ("store_read_only", "the store cannot be written", "check its permissions")),
    (("not a database",), ("store_error", "the file is not a SQLite database", "name another file")),
    (
        ("unable to open",),
        ("store_unavailable", "the store cannot be opened", "check that its folder exists and who may write to it"),
    ),
)


class StoreError(SSD4RecError):
    """The event store is away, full, locked, or of another schema version.

    Args:
        code: a stable name of the error, for programs.
        message: for the operator, with the address.
        public: for clients, without it.
    """

    def __init__(self, code: str, message: str, public: str = "the store cannot be used") -> None:
        super().__init__(message)
        self.code, self.public = code, public


def open_engine(address: str, timeout: float = 5.0) -> Engine:
    """Return an engine whose commits are on disk when they return.

    SQLite: WAL, synchronous=FULL, secure_delete, transactions that write from their start (BEGIN IMMEDIATE).
    PostgreSQL: synchronous_commit=on.

    Args:
        address: sqlite:///… or postgresql+psycopg://….
        timeout: seconds to wait for a lock or a connection.

    Raises:
        StoreError: the address is of no such database.
    """
    try:
        address = check_address(address)
    except ValueError as error:
        raise StoreError("store_unusable", str(error)) from error
    is_sqlite = make_url(address).get_backend_name() == "sqlite"
    arguments: dict[str, Any]
    if is_sqlite:
        arguments = {"timeout": timeout, "check_same_thread": False}
    else:
        options = f"-c synchronous_commit=on -c lock_timeout={int(timeout * 1000)} -c statement_timeout=0"
        arguments = {"connect_timeout": max(1, int(timeout)), "options": options, "application_name": "ssd4rec"}
    engine = create_engine(
        address,
        connect_args=arguments,
        poolclass=QueuePool,
        pool_size=5,
        max_overflow=5,
        pool_timeout=timeout,
        pool_use_lifo=True,
    )
    if is_sqlite:
        _configure_sqlite(engine)
    return engine


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # transactions are ours: the driver would begin them deferred
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.execute("PRAGMA temp_store=MEMORY")
        cursor.execute("PRAGMA cache_size=-32000")  # 32 MB: the pages that a batch of many users changes
        cursor.execute("PRAGMA wal_autocheckpoint=4000")  # a page that changes often is copied to the file less often
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("reads", False):
            connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection on which each statement sees one consistent state, the newest that is committed."""
    options: dict[str, Any] = {"reads": True} if engine.dialect.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
    with translated(engine), engine.connect().execution_options(**options) as connection:
        yield connection


class Reader:
    """A connection that is kept open for reading by one thread, opened again after a failure.

    Args:
        engine: of the store.
        patient: wait for a lock of SQLite as long as the engine does; else not at all.
    """

    def __init__(self, engine: Engine, *, patient: bool = True) -> None:
        self._engine, self._patient = engine, patient
        self._stack = ExitStack()
        self._connection: Connection | None = None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield the connection; see `reading`."""
        if self._connection is None:
            self._connection = self._stack.enter_context(reading(self._engine))
            if not self._patient:
                self._connection.detach()  # nobody else is given the connection
                self._connection.exec_driver_sql("PRAGMA busy_timeout=0")
        try:
            with translated(self._engine):
                yield self._connection
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back."""
        self._connection = None
        with suppress(StoreError):  # the connection may be what failed
            self._stack.close()


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction that is on disk after the block, or undone by an error."""
    with translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Raise what a database refuses as `StoreError`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise as_store_error(error, engine) from error


def as_store_error(error: SQLAlchemyError, engine: Engine) -> StoreError:
    """Say what is wrong with the store, in one sentence without secrets."""
    where = hide_password(engine.url.render_as_string(hide_password=False))
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[:1]
    text = reason[0] if reason else type(error).__name__
    code, public, advice = _kind(error, text.lower())
    return StoreError(code, f"{public}: {where} ({text}); {advice}", public)


def _kind(error: SQLAlchemyError, text: str) -> tuple[str, str, str]:
    for words, kind in KINDS:
        if any(word in text for word in words):
            return kind
    if isinstance(error, OperationalError) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return "store_unavailable", "the store cannot be reached", "check that it runs and who may use it"
    return "store_error", "the store refused a statement", "see its log"


def is_transient(error: SQLAlchemyError) -> bool:
    """Whether a transaction that was not committed may succeed when it is tried again.

    It may after a deadlock, a race for the same id, or the loss of the connection.
    """
    if getattr(getattr(error, "orig", None), "sqlstate", None) in POSTGRESQL_RETRY or isinstance(error, IntegrityError):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated
