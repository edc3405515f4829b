"""A run as a process of its own: what it imports, and what is kept of its end."""

import json
import signal

import pytest

from ssd4rec.paper.processes import Processes
from ssd4rec.paper.runs import MEASURED, MEASURES, result_of

FINISHES = f"""
import json, random, sys
from pathlib import Path
result = {{name: {{}} for name in ("efficiency", *{MEASURES})}} | {{"measured": {MEASURED}, "drawn": random.random()}}
Path(sys.argv[1], "result.json").write_text(json.dumps(result))
"""


REFUSES = "import sys; sys.exit('Error: no such accelerator')"
ENDS = "import os; os._exit(3)"
KILLED = "import os, sys; sys.stderr.write('one pass: 7 targets\\n'); sys.stderr.flush(); os.kill(os.getpid(), {})"


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


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (REFUSES, "exit code 1\nError: no such accelerator"),
        (KILLED.format(9), "killed by signal 9\nfor want of memory perhaps"),
        (KILLED.format(11), f"killed by signal 11\n{signal.strsignal(11)}"),
        (ENDS, "exit code 3\nit said nothing"),
    ],
)
def test_the_reason_of_a_failure_is_that_of_the_last_attempt(attempt, code, reason):
    """What an earlier attempt said is no reason, nor is how far a killed one was; log.txt has both."""
    said = (attempt("import sys; sys.exit('Error: an earlier one')") / "failure.txt").read_text(encoding="utf-8")
    assert said == "exit code 1\nError: an earlier one"
    folder = attempt(code)
    assert (folder / "failure.txt").read_text(encoding="utf-8") == reason
    assert (folder / "log.txt").read_text(encoding="utf-8").startswith("Error: an earlier one")
