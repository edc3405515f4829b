"""`--devices N`: start N processes that train one model together, and end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from ssd4rec.cli import console
from ssd4rec.errors import ConfigError

GRACE = 30.0  # seconds that the others have to notice a process that failed, and to say so
DISTRIBUTED = "training.random_numbers=sequence"


def devices_settings(devices: int | None, settings: list[str]) -> list[str]:
    """Return the settings of a distributed training, after starting its processes if this is the command of a person.

    Args:
        devices: `--devices`; None: the environment decides, as torchrun sets it.
        settings: those of the command line.

    Returns:
        Settings to add. With more than one process, only their processes return.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if devices is None and world == 1:
        return []
    if world == 1 and devices is not None and devices > 1:
        raise typer.Exit(_run_processes(devices))
    if devices not in (None, world):
        raise ConfigError(f"--devices {devices} does not match the {world} processes that torchrun started; leave out --devices")
    if int(os.environ.get("RANK", "0")) > 0:
        console.out.quiet = console.err.quiet = True  # the first process speaks for all
    return [] if any(each.startswith("training.random_numbers") for each in settings) else [DISTRIBUTED]


def _run_processes(count: int) -> int:
    """Run this command in several processes; return the exit code.

    The first one has the terminal. The errors of the others are printed when all have ended, each once.
    """
    with TemporaryDirectory(prefix="ssd4rec-") as folder:
        processes = [_start(rank, count, Path(folder)) for rank in range(count)]
        try:
            _wait(processes)
        except (KeyboardInterrupt, SystemExit):
            pass  # Ctrl-C reached them too, and SIGTERM is passed on
        finally:
            _end(processes)
        codes = [process.returncode for process in processes]
        if 130 not in codes and 143 not in codes:
            _report(processes, Path(folder))
    failed = [code for code in codes if code]
    return next((code for code in failed if code > 0), 1 if failed else 0)


def _start(rank: int, count: int, folder: Path) -> "subprocess.Popen[bytes]":
    if rank == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
    }
    command = [sys.executable, "-m", "ssd4rec", *sys.argv[1:]]
    if rank == 0:
        return subprocess.Popen(command, env=environment)  # noqa: S603 - this command again
    with (folder / str(rank)).open("wb") as errors:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)  # noqa: S603


def _wait(processes: list["subprocess.Popen[bytes]"]) -> None:
    """Wait until all processes have ended, or some time after the first one failed."""
    deadline = None
    while any(process.poll() is None for process in processes):
        if deadline is None and any(process.returncode for process in processes):
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _end(processes: list["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _report(processes: list["subprocess.Popen[bytes]"], folder: Path) -> None:
    shown = set()
    for rank, process in enumerate(processes):
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            hint = ", possibly out of memory" if name == "SIGKILL" else ""
            console.err.print(f"process {rank} of {len(processes)} was killed by {name}{hint}")
        elif rank and process.returncode:
            for line in (folder / str(rank)).read_text(encoding="utf-8", errors="replace").splitlines():
                if line not in shown:
                    console.err.print(f"process {rank}: {line}")
                    shown.add(line)
