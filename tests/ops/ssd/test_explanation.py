"""The code of docs/explanation/ssd.md runs and equals the reference."""

from pathlib import Path
from typing import Any

import pytest

from packed import cu_seqlens_of, relative_error, scan_inputs
from ssd4rec.ops.ssd.reference import scan

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "ssd.md"


def code_of_page() -> str:
    blocks = PAGE.read_text(encoding="utf-8").split('```python linenums="1"\n')[1:]
    assert len(blocks) == 1
    return blocks[0].split("```")[0]


def run_page(name: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(code_of_page(), str(PAGE), "exec"), namespace)  # noqa: S102 - the page's own code
    return namespace


@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_page_equals_the_reference(chunk: int) -> None:
    """Sequences shorter and longer than a chunk, in float64."""
    lengths = [1, 20, 8, 70]
    inputs, cu_seqlens = scan_inputs(lengths), cu_seqlens_of(lengths)
    assert relative_error(run_page("page")["ssd"](*inputs, cu_seqlens, chunk), scan(*inputs, cu_seqlens)[0]) < 1e-12


def test_example_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """The example at the end prints the shape that the page shows."""
    run_page("__main__")
    assert capsys.readouterr().out == "torch.Size([150, 2, 4])\n"


def test_page_has_about_60_lines() -> None:
    """The title of the page promises about 60 lines of code."""
    assert 50 <= len(code_of_page().splitlines()) <= 65
