"""The public names of the package, and what importing it costs."""

import os
import subprocess
import sys
from importlib import metadata
from types import ModuleType

import pytest

import explained
import ssd4rec
from ssd4rec import __main__
from ssd4rec.__main__ import main


def test_every_public_name_can_be_imported():
    """Each name of `__all__` is found in its module; the version is the installed one."""
    names = [name for name in ssd4rec.__all__ if name != "__version__"]
    assert len(names) > 20
    assert all(getattr(ssd4rec, name).__name__ == name for name in names)
    assert ssd4rec.__version__ == metadata.version("ssd4rec")
    assert set(ssd4rec.__all__) <= set(dir(ssd4rec))


def test_an_unknown_name_is_an_attribute_error():
    """As in any module."""
    with pytest.raises(AttributeError, match=r"No ssd4rec attribute Recomender"):
        _ = ssd4rec.Recomender


@pytest.mark.thorough
def test_importing_the_package_does_not_import_torch():
    """Neither does importing the command line, so that --help is fast."""
    code = "import sys, ssd4rec, ssd4rec.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("running", "given", "expected"),
    [("1/200", None, None), ("2/200", None, "PASSIVE"), ("9/200", "ACTIVE", "ACTIVE"), ("?", None, None), (None, None, None)],
)
def test_threads_wait_without_spinning_on_a_busy_machine(monkeypatch, tmp_path, running, given, expected):
    """With other work, spinning takes several times the time; the user's own choice is kept."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    if running:
        (tmp_path / "loadavg").write_text(f"0.00 0.00 0.00 {running} 4711\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(__main__, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(sys, "argv", ["ssd4rec", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ.get("OMP_WAIT_POLICY") == expected
    os.environ.pop("OMP_WAIT_POLICY", None)


NOT_FOR_ONE_HISTORY = (
    "faiss filelock jinja2 matplotlib numba onnx pandas pyarrow rich.progress scipy sqlalchemy sympy torch._dynamo "
    "torch._inductor triton yaml ssd4rec.datasets ssd4rec.explain ssd4rec.ops.numba.kernels ssd4rec.pipeline "
    "ssd4rec.reports ssd4rec.service ssd4rec.training"
)
RECOMMEND = f"""
import atexit, gc, sys
from ssd4rec.__main__ import main
unwanted = lambda: print([name for name in {NOT_FOR_ONE_HISTORY.split()!r} if name in sys.modules])
atexit.register(lambda: (unwanted(), print(gc.isenabled(), gc.get_freeze_count() > 100_000)))
main()
"""


@pytest.mark.thorough
def test_recommending_for_one_history_imports_only_what_it_takes(tmp_path):
    """Nor does the garbage collector look through the objects of torch when the process ends."""
    explained.recommender(repeat_logits="popularity", input_fade=0.5).save(tmp_path / "model")
    command = [sys.executable, "-c", RECOMMEND, "recommend", tmp_path / "model", "--history", "1,5", "-k", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "True True"], done.stdout


def test_ctrl_c_during_import_exits_with_130(monkeypatch):
    """As at any other time: no traceback."""

    def interrupted(_):
        raise KeyboardInterrupt

    importing = ModuleType("ssd4rec.cli")
    importing.__getattr__ = interrupted
    monkeypatch.setitem(sys.modules, "ssd4rec.cli", importing)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
