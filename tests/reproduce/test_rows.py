"""results.json of this version and of earlier ones; those of benchmarks/results are of several."""

import json
from pathlib import Path

import pytest

from ssd4rec.reproduce.rows import Results

COMMITTED = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*/results.json"))


def rows_of(path):
    studies = Results.model_validate_json(path.read_text(encoding="utf-8")).studies
    return [row for sections in studies.values() for section in sections.values() for row in section.rows]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_what_earlier_versions_wrote_is_read_and_nothing_is_lost_or_made_up(path):
    text = path.read_text(encoding="utf-8")
    assert Results.model_validate_json(text).as_dict() == json.loads(text)
    assert any(row.metrics for row in rows_of(path))


def test_the_only_test_of_an_earlier_version_is_one_of_the_tests():
    """It stands under another name there; rows without tests have none."""
    rows = [row for path in COMMITTED for row in rows_of(path)]
    earlier = [row for row in rows if row.against_best_baseline]
    assert [len(row.tests) for row in earlier] == [1, 1]
    assert [row.tests[0] for row in earlier] == [row.against_best_baseline for row in earlier]
    assert {len(row.tests) for row in rows} == {0, 1, 2, 3}
