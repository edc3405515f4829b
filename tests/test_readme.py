"""What the README says is true."""

import re
from pathlib import Path

import worlds

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

IMPORTS = """
from ssd4rec.artefact import save_artefact
from ssd4rec.backbones.make import make_backbone
from ssd4rec.data.histories import build_histories
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.split import leave_last_out
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.experiment import training_counts
from ssd4rec.model import NextItemModel
from ssd4rec.serving.recommender import Recommender
from ssd4rec.training.fit import fit
"""


def test_the_path_in_eight_lines_runs(tmp_path, monkeypatch):
    """The lines are run as they stand, on a small file; the model is written and recommends."""
    (lines,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(lines.splitlines()) == 8
    monkeypatch.chdir(tmp_path)
    worlds.frame(worlds.cycle()).write_csv("plays.csv")
    names = {"config": worlds.config(max_epochs=2)}
    exec(IMPORTS + lines, names)  # noqa: S102 - the README's own lines
    assert len(names["ranking"].ranks) == 60
    assert (tmp_path / "model" / "manifest.json").is_file()


def test_every_file_of_the_tree_exists_and_is_named():
    """The README's tree and the package agree, both ways."""
    package = Path(__file__).parent.parent / "src" / "ssd4rec"
    tree = README[README.index("src/ssd4rec/\n") : README.index("docs/        ")]
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    files = {path.name for path in package.rglob("*.py") if path.name != "__init__.py" and path.parent.name != "triton"}
    assert named == files
