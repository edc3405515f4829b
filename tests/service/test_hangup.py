"""SIGHUP lets a running server look at active.json at once, with one process and with several."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from service_world import default_recommender, save_model, server
from ssd4rec.service.versions import FORCED, Versions

pytestmark = pytest.mark.thorough


def wait_for_version(process: subprocess.Popen[bytes], address: str, version: str, workers: int) -> None:
    """Ask until every worker has answered with a version."""
    deadline, processes = time.monotonic() + 60, set()
    while len(processes) < workers:
        assert time.monotonic() < deadline, f"{len(processes)} of {workers} processes answered with {version}"
        assert process.poll() is None
        answer = httpx.get(f"{address}/v1/users/u/recommendations", timeout=30, verify=False)
        assert answer.status_code == 200, answer.text
        if answer.json()["model"]["version"] == version:
            processes.add(answer.headers["x-process"])
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_switches_the_model_of_a_running_server(
    workers: int, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder / "v1")
    save_model(folder / "v2", default_recommender(), seed=1)
    Versions(folder).choose("v1", FORCED)
    monkeypatch.setenv("SSD4REC_POLL_SECONDS", "60")  # without the signal nothing would happen within the test
    with server(folder, f"sqlite:///{tmp_path / 'events.db'}", "--workers", str(workers)) as (process, address):
        wait_for_version(process, address, "v1", workers)
        Versions(folder).choose("v2", FORCED)
        time.sleep(1.5)
        answer = httpx.get(f"{address}/v1/users/u/recommendations", timeout=30, verify=False).json()
        assert answer["model"]["version"] == "v1"
        os.kill(process.pid, signal.SIGHUP)
        wait_for_version(process, address, "v2", workers)
