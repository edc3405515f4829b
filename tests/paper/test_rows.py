"""results.json of this version and of earlier ones; those of benchmarks/results are of several."""

import json
from pathlib import Path

import pytest

from ssd4rec.paper.rows import Costs, Results, Row, Spread

COMMITTED = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*/results.json"))


def rows_of(path):
    studies = Results.model_validate_json(path.read_text(encoding="utf-8")).studies
    return [row for sections in studies.values() for section in sections.values() for row in section.rows]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_what_earlier_versions_wrote_is_read_and_nothing_is_lost_or_made_up(path):
    text = path.read_text(encoding="utf-8")
    assert Results.model_validate_json(text).as_dict() == json.loads(text)
    assert any(row.metrics for row in rows_of(path))


def test_a_spread_over_seeds_by_hand():
    """1, 2 and 4: mean 7/3, squares 16/9 + 1/9 + 25/9 over n - 1 = 2; of one seed there is none."""
    found = Spread.of([1.0, 2.0, 4.0])
    assert (found.mean, found.sd, found.n) == (pytest.approx(7 / 3), pytest.approx((7 / 3) ** 0.5), 3)
    assert Spread.of([5.0]) == Spread(mean=5.0, sd=None, n=1)


NO_COSTS = dict.fromkeys(Costs.model_fields)
TEST = {"baseline": "sasrec", "difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.05}


@pytest.mark.parametrize(
    ("written", "tests"),
    [
        ({"against_best_baseline": TEST}, [TEST]),
        ({"against_best_baseline": None}, []),
        ({"against_baselines": [TEST, {**TEST, "baseline": "gru4rec"}]}, [TEST, {**TEST, "baseline": "gru4rec"}]),
        ({}, []),
    ],
    ids=["earlier", "earlier, none", "now", "now, none"],
)
def test_the_only_test_of_an_earlier_version_is_one_of_the_tests(written, tests):
    unmeasured = dict.fromkeys(("x", "with_fusion", "parameters", "settings", "recipe", "published"))
    row = {"label": "ssd4rec", "model": "ssd4rec", **unmeasured, "metrics": {}, "costs": NO_COSTS, "seeds": [], **written}
    assert [test.model_dump() for test in Row.model_validate_json(json.dumps(row)).tests] == tests
