"""A run as a process of its own: what it imports, and what is kept of its end."""

import json

import pytest

from ssd4rec.reproduce.processes import Processes
from ssd4rec.reproduce.runs import MEASURED, result_of

FINISHES = f"""
import json, random, sys
from pathlib import Path
Path(sys.argv[1], "result.json").write_text(json.dumps({{"measured": {MEASURED}, "drawn": random.random()}}))
"""


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """A run whose worker is the given code: its folder, where all is as `Processes` left it."""
    package = tmp_path / "packages" / "ssd4rec" / "reproduce"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))

    def run(code):
        (package / "worker.py").write_text(code)
        with Processes(1, None) as processes:
            processes.begin(tmp_path / "run", {"title": "a run"}, lambda _: None).result()
        return tmp_path / "run"

    return run


def test_a_module_in_the_current_folder_is_not_pythons(attempt, tmp_path, monkeypatch):
    """A person's own random.py is not imported by the worker; what PYTHONPATH names is."""
    (tmp_path / "random.py").write_text("raise ImportError('not the random of Python')")
    monkeypatch.chdir(tmp_path)
    assert 0 <= result_of(attempt(FINISHES))["drawn"] < 1
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"title": "a run", "jobs": 1}
