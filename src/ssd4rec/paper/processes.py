"""Runs as processes of their own, several at once, all ended with the sweep."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ssd4rec._io import write_atomically
from ssd4rec.paper.runs import FAILURE, SPEC, result_of

Tell = Callable[[str], None]
LOG = "log.txt"
ERROR_LINES = 12
SECONDS_DEAF = 0.2


class Processes:
    """As many processes as may run at once; leaving the block early ends those under way and begins no other.

    A process ends when its standard input is closed, and so with this one, however it ends. A terminal's Ctrl-C reaches this
    process alone.

    Args:
        jobs: processes at once.
        threads: of each; None: as many as each takes by itself.
    """

    def __init__(self, jobs: int, threads: int | None) -> None:
        self.jobs, self.threads = jobs, threads
        self._pool = ThreadPoolExecutor(jobs)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None:
            with self._lock:
                self._over = True
                for process in self._running:
                    process.kill()
        self._pool.shutdown(cancel_futures=kind is not None)

    def begin(self, folder: Path, spec: dict[str, Any], tell: Tell) -> Future[None]:
        """Put a run into the queue; failure.txt says why where it gives no result.

        Args:
            folder: of the run.
            spec: what the worker reads.
            tell: receives each line of the worker, in a thread of its own.
        """
        return self._pool.submit(self._make, folder, spec, tell)

    def ended(self, waiting: Iterable[Future[None]]) -> Iterator[Future[None]]:
        """Each as it ends. Waits are short: after polars is imported, a wait without an end would not hear Ctrl-C."""
        left = set(waiting)
        while left:
            done, left = wait(left, SECONDS_DEAF, FIRST_COMPLETED)
            yield from done

    def _make(self, folder: Path, spec: dict[str, Any], tell: Tell) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE).unlink(missing_ok=True)
        write_atomically(folder / SPEC, json.dumps({**spec, "jobs": self.jobs}, indent=1))
        with (folder / LOG).open("ab") as log:
            begins = log.tell()  # what an earlier attempt wrote is no reason of this one
            process = self._start(folder, log.fileno())
            if process is None:
                return
            try:
                for line in process.stdout or ():
                    tell(f"{spec['title']}: {line.strip()}")
                process.wait()
            finally:
                self._end(process)
        if (process.returncode != 0 or result_of(folder) is None) and not self._over:
            said = (folder / LOG).read_bytes()[begins:].decode(errors="replace").splitlines()
            write_atomically(folder / FAILURE, "\n".join(_reason(process.returncode, said)))

    def _start(self, folder: Path, log: int) -> subprocess.Popen[str] | None:
        # -P: a random.py in the current folder is not Python's; PYTHONPATH holds on
        command = [sys.executable, "-P", "-m", "ssd4rec.paper.worker", str(folder.resolve())]
        count = {"OMP_NUM_THREADS": str(self.threads), "POLARS_MAX_THREADS": str(self.threads)} if self.threads else {}
        with self._lock:
            if self._over:
                return None
            process = subprocess.Popen(  # noqa: S603 - ours
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **count},
                process_group=0,  # a new session would have its own share of the processor, whatever nice says
            )
            self._running.add(process)
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        with self._lock:
            self._running.discard(process)


def _reason(code: int, said: Sequence[str]) -> list[str]:
    """First what ended the process, last why: an error's last line, or what its signal means."""
    if code >= 0:
        return [f"exit code {code}", *(said[-ERROR_LINES:] or ["it said nothing"])]
    # the last that it said is how far it was
    meaning = "for want of memory perhaps" if code == -signal.SIGKILL else signal.strsignal(-code) or "unknown here"
    return [f"killed by signal {-code}", meaning]
