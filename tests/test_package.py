"""What `import ssd4rec` gives, and what it does not wait for."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import ssd4rec
from ssd4rec.__main__ import main


def test_every_name_of_the_package_is_there():
    """`__all__` holds what can be had, each from its own module; the version is the installed one."""
    names = [name for name in ssd4rec.__all__ if name != "__version__"]
    assert all(getattr(ssd4rec, name).__name__ == name for name in names)
    assert ssd4rec.__version__ == metadata.version("ssd4rec")
    assert set(ssd4rec.__all__) <= set(dir(ssd4rec))


def test_a_type_checker_sees_the_names_that_are_there():
    """Imports for it, `__all__` and the modules that the names are taken from agree: each says every name once."""
    source = ast.parse(Path(ssd4rec.__file__).read_text(encoding="utf-8"))
    (for_checkers,) = [node for node in source.body if isinstance(node, ast.If)]
    seen = {
        name.name: each.module.removeprefix("ssd4rec.")
        for each in for_checkers.body
        if isinstance(each, ast.ImportFrom)
        for name in each.names
    }
    assert seen == ssd4rec._HOMES
    assert sorted([*seen, "__version__"]) == ssd4rec.__all__


def test_a_name_that_is_not_there_is_an_attribute_error():
    """As in any module; `from ssd4rec.cli import _render` goes on finding submodules."""
    with pytest.raises(AttributeError, match="module 'ssd4rec' has no attribute 'Recomender'"):
        _ = ssd4rec.Recomender


def test_importing_the_package_does_not_import_torch():
    """Nor does importing the command line: --help must not wait for it."""
    code = "import sys, ssd4rec, ssd4rec.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ctrl_c_while_the_command_is_imported_ends_it_with_130(monkeypatch):
    """As at any other time: no traceback."""

    def interrupted(_):
        raise KeyboardInterrupt

    importing = ModuleType("ssd4rec.cli")
    importing.__getattr__ = interrupted
    monkeypatch.setitem(sys.modules, "ssd4rec.cli", importing)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
