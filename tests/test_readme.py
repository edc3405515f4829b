"""What the README says is true."""

import re
from pathlib import Path

import worlds

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_path_in_eight_lines_runs(tmp_path, monkeypatch):
    """The block is run as it stands, on a small file; the model is written and recommends."""
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    *_, path = block.split("\n\n")  # imports, settings, the path
    assert len(path.splitlines()) == 8
    monkeypatch.chdir(tmp_path)
    worlds.frame(worlds.cycle()).write_csv("plays.csv")
    names = {}
    exec(block, names)  # noqa: S102 - the README's own lines
    assert len(names["ranking"].ranks) == 60
    assert (tmp_path / "model" / "manifest.json").is_file()


def test_every_file_of_the_tree_exists_and_is_named():
    """The README's tree and the package agree, both ways."""
    package = Path(__file__).parent.parent / "src" / "ssd4rec"
    tree = README[README.index("src/ssd4rec/\n") : README.index("docs/        ")]
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    files = {path.name for path in package.rglob("*.py") if path.name != "__init__.py" and path.parent.name != "triton"}
    assert named == files
