"""Start the server: one process, or several that share a listening socket."""

import ctypes
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from ssd4rec.artifact import load_artifact
from ssd4rec.errors import ConfigError
from ssd4rec.service.app import create_app
from ssd4rec.service.auth import is_loopback
from ssd4rec.service.core import Service
from ssd4rec.service.metrics import MULTIPROCESS
from ssd4rec.service.settings import ServiceSettings, as_environment, load_settings
from ssd4rec.service.store.connect import open_engine
from ssd4rec.service.store.schema import migrate
from ssd4rec.service.versions import Versions

GRACE_SECONDS = 30  # for accepted requests after SIGTERM
BACKLOG = 2048
MALLOC = {-8: 1, -3: 2**25, -1: 2**28}  # M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
SWITCH_SECONDS = 0.0005  # for which a thread that reads a history may keep the event loop from the interpreter

log = logging.getLogger(__name__)


class _JsonLines(logging.Formatter):
    """One JSON object a line; lines of requests are JSON already."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        line: dict[str, object] = {"time": self.formatTime(record), "level": record.levelname.lower()}
        if record.name == "ssd4rec.service.access":
            return json.dumps(line | json.loads(message))
        line |= {"logger": record.name, "message": message}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging() -> None:
    """Write the log as JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in ("ssd4rec", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("ssd4rec").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _tune_process() -> None:
    """Give the event loop the interpreter soon, and let glibc keep the memory of long histories for the next one.

    To return it to the system and to take it again takes a third of the time of reading a history of 10,000 events.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    with suppress(AttributeError, OSError, TypeError):  # another C library
        for option, value in MALLOC.items():
            ctypes.CDLL(None).mallopt(option, value)


def serve(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or Ctrl-C; accepted requests are finished, and what was acknowledged is on disk.

    Raises:
        ConfigError: the address cannot be listened on.
        StoreError: the store cannot be opened, or is of another version.
        ArtifactError: the chosen model is damaged.
    """
    configure_logging()
    _tune_process()
    listener = _listen(settings.host, settings.port)
    port = listener.getsockname()[1]
    log.info("settings: %s", json.dumps(settings.shown()))
    if not Versions(settings.models).names():
        log.warning("%s contains no model yet; recommendations are answered with 503 until there is one", settings.models)
    if not is_loopback(settings.host):
        log.warning("listening on %s: every request from another machine needs a key (ssd4rec keys create)", settings.host)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    if settings.workers == 1:
        service = Service(settings)
        service.settle()
        app = create_app(settings, service)
        config = _config(app)
        _on_hangup(app)
        log.info("listening on http://%s:%d", shown, port)
        uvicorn.Server(config).run(sockets=[listener])
        return
    _check(settings)
    folder = tempfile.mkdtemp(prefix="ssd4rec-metrics-")  # in which the workers add up their metrics
    os.environ.update(as_environment(settings) | {MULTIPROCESS: folder})
    try:
        config = _config("ssd4rec.service.run:worker_app", workers=settings.workers)
        log.info("listening on http://%s:%d with %d workers", shown, port, settings.workers)
        _Workers(config, sockets=[listener]).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Workers(Multiprocess):
    """The processes of a service; SIGHUP lets each of them look at active.json, in place of a restart."""

    def handle_hup(self) -> None:
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)


def _on_hangup(app: FastAPI) -> None:
    """Look at active.json at once on SIGHUP."""

    def look(*_: object) -> None:
        service: Service | None = getattr(app.state, "service", None)
        if service is not None:
            service.models.look_soon()

    signal.signal(signal.SIGHUP, look)


def worker_app() -> FastAPI:
    """Return the application of a worker process, whose settings are in its environment."""
    configure_logging()
    _tune_process()
    app = create_app(load_settings())
    _on_hangup(app)
    return app


def _config(app: object, workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        factory=isinstance(app, str),
        workers=workers,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who asks is decided by auth.py
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=30,
        timeout_worker_healthcheck=60,  # a worker that loads a large model answers late
        lifespan="on",
        loop="asyncio" if find_spec("uvloop") is None else "ssd4rec.service.loops:AcceptingLoop",
        http="ssd4rec.service.protocol:RefusingProtocol",
    )


def _check(settings: ServiceSettings) -> None:
    """Find before the workers start what would stop each of them."""
    engine = open_engine(settings.store, settings.store_timeout_seconds)
    try:
        migrate(engine)
    finally:
        engine.dispose()
    versions = Versions(settings.models)
    if (version := versions.chosen()) is not None:
        load_artifact(versions.folder(version))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --host or --port"
        ) from error
    listener.listen(BACKLOG)
    listener.set_inheritable(True)
    return listener
