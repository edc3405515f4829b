"""Results on disk, paired tests, published rows, and what a report says."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ssd4rec.config import load_config
from ssd4rec.errors import DataError
from ssd4rec.evaluation.metrics import ndcg
from ssd4rec.paper.published import highest_published, published_rows
from ssd4rec.paper.report import render
from ssd4rec.paper.results import Results, Section, Spread, load_ranks, load_results, run_key, save_results
from ssd4rec.paper.significance import add_tests, paired_bootstrap

COMMITTED = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("reproduce*/results.json"))
METRICS = {"ndcg@10": 0.5, "hr@10": 1.0, "mrr@10": 1 / 3}
RANKS = np.full(9, 3)  # NDCG@10 = 0.5
PROTOCOL = {
    "split": "leave-last-out", "candidates": "whole catalog, 9 items", "exclude_seen": False, "ties": "worst rank", "k_core": 1,
    "tie_order": "file", "max_length": None, "targets": 9,
}  # fmt: skip
SETTINGS = {
    "data": {"max_length": None},
    "backbone": {"dropout": 0.1, "layers": 1},
    "training": {
        "objective": "all-positions", "token_budget": 64, "learning_rate": 0.001, "schedule": "cosine", "mask_ratio": 0.1,
        "max_epochs": 3, "patience": 3, "seed": 1, "batch_size": None, "prefixes_per_sequence": None,
    },
}  # fmt: skip


def run_of(key, ndcg_at_10=0.5, **fields):
    test = METRICS | {"ndcg@10": ndcg_at_10}
    return {"status": "finished", "key": key, "seed": 1, "test": test, "protocol": PROTOCOL, "epochs": 3, **fields}


def row_of(label, *runs, **fields):
    return {"label": label, "model": label, "settings": SETTINGS, "runs": list(runs), **fields}


def section_of(*rows, study="accuracy", **fields):
    counts = {"users": 9, "items": 9, "interactions": 99, "mean_length": 11.0, "longest": 20}
    data = {"name": "log.csv", "known": None, "fingerprint": "f", **counts} | fields.pop("data", {})
    budget = {"name": "small", "width": 32, "epochs": 3, "seeds": 1}
    section = {
        "study": study,
        "title": "log.csv",
        "data": data,
        "budget": budget,
        "commands": ["ssd4rec reproduce"],
        "rows": rows,
    }
    return Section.model_validate_json(json.dumps(section | fields))


def text_of(*sections):
    return render(Results(sections=sections), "report.md")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_results_can_be_read_extended_and_hold_no_path(path):
    """Their settings are valid in this version: rename a setting here as well. Ranks give the metrics."""
    results, ranks = load_results(path.parent), load_ranks(path.parent)
    runs = [run for section in results.sections for run in section.finished]
    assert len(results.finished_runs()) == len({run.key for run in runs}) > 0
    for run in runs:
        if (run.key, "model") in ranks:
            assert ndcg(ranks[run.key, "model"], 10) == pytest.approx(run.test["ndcg@10"])
    for name in ("results.json", "report.md", "report.html"):
        text = (path.parent / name).read_text(encoding="utf-8")
        assert not any(folder in text for folder in ("/home/", "/tmp/", "/root/", "/work"))  # noqa: S108 - must not be there


def test_results_and_ranks_are_read_back_as_written(tmp_path):
    results = Results(commit="c0ffee", sections=(section_of(row_of("sasrec", run_of("a"), run_of("b", seed=2))),))
    ranks = {
        ("a", "model"): RANKS,
        ("a", "fusion"): np.arange(1, 10),
        ("b", "model"): np.full(9, 70_000),
        ("gone", "model"): RANKS,
    }
    save_results(results, ranks, tmp_path)
    assert load_results(tmp_path) == results
    loaded = load_ranks(tmp_path)
    assert set(loaded) == set(ranks) - {("gone", "model")}  # no run has it
    assert all((loaded[each] == ranks[each]).all() for each in loaded)


def test_an_empty_folder_has_no_results(tmp_path):
    assert load_results(tmp_path) == Results()
    assert load_ranks(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": 4, "studies": {}}', "format: "),
        ('{"format": 1, "sections": [{"study": "accuracy"}]}', r"sections\.0\.title: Field required"),
        ('{"format": 1, "other": 1}', "other: Extra inputs"),
        ("", "Invalid JSON"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_stays(tmp_path, text, reason):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=f"is not a results file of this version .*{reason}.*choose another --out"):
        load_results(tmp_path)
    assert (tmp_path / "results.json").read_text() == text


def test_a_section_is_extended_by_rows_and_replaced_row_by_row():
    """Another model is added, the same one replaced; another budget is another section; both commands stay."""
    results = Results(sections=(section_of(row_of("sasrec", run_of("a")), row_of("caser", run_of("b"))),))
    later = section_of(row_of("caser", run_of("c")), row_of("sigma", run_of("d")), commands=["second"])
    (merged,) = results.with_section(later).sections
    assert [(row.label, row.finished[0].key) for row in merged.rows] == [("sasrec", "a"), ("caser", "c"), ("sigma", "d")]
    assert merged.commands == ("ssd4rec reproduce", "second")
    wider = later.model_copy(update={"budget": replace(later.budget, width=64)})
    seeds = later.model_copy(update={"budget": replace(later.budget, seeds=3)})
    assert [len(results.with_section(each).sections) for each in (wider, seeds)] == [2, 1]


def test_a_run_is_found_by_its_settings_whatever_its_stored_key():
    """A key of an older version does not matter; settings that are not valid any more do."""
    settings = load_config("quick").model_dump(mode="json")
    rows = (row_of("sasrec", run_of("old", seed=7), settings=settings), row_of("x", run_of("y"), settings={"data": {"no": 1}}))
    reusable = Results(sections=(section_of(*rows),)).finished_runs()
    settings["training"]["seed"] = 7
    assert {key: run.key for key, run in reusable.items()} == {run_key("sasrec", "f", settings): "old"}
    assert run_key("popularity", "f", settings) == run_key("popularity", "f", {**settings, "backbone": {}})


def test_a_spread_over_seeds_by_hand():
    """1, 2 and 4: mean 7/3, squares 16/9 + 1/9 + 25/9 over n - 1 = 2; a single seed has none."""
    assert Spread.of([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx((7 / 3) ** 0.5))
    assert Spread.of([5.0]) == (5.0, None)


def test_a_paired_test_by_hand():
    """Half of 400 users gain 1: 0.5 +- 1.96 * 0.5 / 20. Of 25, 15 gain 1 and 10 lose it: p is twice Binomial(25, 0.6) <= 12."""
    best, last = 1, 10**6
    test = paired_bootstrap([np.repeat([best, last], 200)], [np.full(400, last)])
    assert test["difference"] == pytest.approx(0.5)
    assert (test["low"], test["high"]) == pytest.approx((0.451, 0.549), abs=0.006)
    assert test["p"] == pytest.approx(2 / 2001)
    mixed = paired_bootstrap([np.repeat([best, last], [15, 10])], [np.repeat([last, best], [15, 10])])
    at_most = sum(math.comb(25, gains) * 0.6**gains * 0.4 ** (25 - gains) for gains in range(13))
    assert mixed["p"] == pytest.approx(2 * at_most, abs=0.05)


def test_a_paired_test_takes_the_mean_over_seeds_of_each_user():
    """Two seeds, ranks 1 and 3, against one of rank 3: (1 + 1/2) / 2 - 1/2; a model against itself differs by 0."""
    assert paired_bootstrap([np.full(9, 1), np.full(9, 3)], [np.full(9, 3)])["difference"] == pytest.approx(0.25)
    assert paired_bootstrap([RANKS], [RANKS])["p"] == 1.0


def test_our_models_are_tested_against_the_best_others_and_a_part_against_the_whole():
    """1 against 3 is a difference of one half. The first of our models also against our others and Mamba4Rec."""
    places = {"top": 1, "none": 3, "sasrec": 3, "caser": 7, "mamba": 7}
    models = {"top": "ssd4rec", "none": "ssd4rec-none", "mamba": "mamba4rec"}
    ranks = {(key, "model"): np.full(20, rank) for key, rank in places.items()}

    def tested(study, *labels):
        rows = [
            row_of(label, run_of(label, 1 / math.log2(places[label] + 1)), model=models.get(label, label)) | {"label": name}
            for label, name in labels
        ]
        section = section_of(*rows, study=study)
        (after,) = add_tests(Results(sections=(section,)), {section.identity}, ranks).sections
        return {row.label: [(test.baseline, test.variant, test.difference) for test in row.tests] for row in after.rows}

    assert tested("accuracy", *zip(places, places, strict=True)) == {
        "top": [("sasrec", "model", 0.5), ("none", "model", 0.5), ("mamba", "model", pytest.approx(2 / 3))],
        "none": [("sasrec", "model", 0.0)],
        "sasrec": [], "caser": [], "mamba": [],
    }  # fmt: skip
    parts = tested("ablation", ("top", "SSD4Rec"), ("none", "no mask"))
    assert parts == {"SSD4Rec": [], "no mask": [("SSD4Rec", "model", -0.5)]}

    curve = tested("length", ("top", "whole"), ("none", "whole"))
    assert curve["whole"] == [("ssd4rec", "model", -0.5)]  # of the second model, next to the first


@pytest.mark.thorough
def test_tests_are_made_for_every_variant_with_ranks_in_both_rows():
    section = section_of(
        row_of("ssd4rec", run_of("a", test_exclude_seen=METRICS)), row_of("sasrec", run_of("b", test_exclude_seen=METRICS))
    )
    ranks = {(key, variant): RANKS for key in "ab" for variant in ("model", "model_exclude_seen")} | {("a", "fusion"): RANKS}
    (after,) = add_tests(Results(sections=(section,)), {section.identity}, ranks).sections
    assert [test.variant for test in after.rows[0].tests] == ["model", "model_exclude_seen"]
    assert "alone, seen items excluded" in text_of(after)


def test_ranks_of_other_metrics_are_refused():
    section = section_of(row_of("ssd4rec", run_of("a", 1.0)), row_of("sasrec", run_of("b")))
    ranks = {("a", "model"): RANKS, ("b", "model"): RANKS}
    with pytest.raises(DataError, match=r"gives ndcg@10 0\.500000 for run a, but results\.json has 1\.000000; restore both"):
        add_tests(Results(sections=(section,)), {section.identity}, ranks)


def test_published_rows_name_protocol_and_request_time():
    """HSTU knows the time of the event it predicts, so it is never the highest to compare with."""
    assert [row.metrics["ndcg@10"] for row in published_rows("kuairand-pure", "ssd4rec-all")] == [0.0593]
    assert not published_rows("kuairand-pure", "ssd4rec-none")  # nobody published it
    assert not published_rows(None, "ssd4rec")
    assert highest_published("ml-1m", exclude_seen=True).model == "lrurec"
    assert highest_published("amazon-beauty", exclude_seen=True).metrics["ndcg@10"] == 0.0614
    assert highest_published("amazon-beauty", exclude_seen=False).metrics["ndcg@10"] == 0.0477
    assert {row.model for row in published_rows("ml-1m") if row.request_time} == {"hstu", "hstu-large"}


@pytest.mark.thorough
def test_each_published_row_is_compared_with_our_metrics_of_the_same_protocol():
    run = run_of("a", 0.05, test_exclude_seen={"ndcg@10": 0.06, "hr@10": 0.1})
    section = section_of(row_of("sasrec", run), data={"known": "amazon-beauty"})
    text = text_of(section)
    assert "| sasrec | NDCG@10 | kept | 0.0500 | 0.0447 | +0.0053 | +11.9 |" in text
    assert "| sasrec | NDCG@10 | excluded | 0.0600 | 0.0595 | +0.0005 | +0.8 |" in text
    by_time = run | {"protocol": PROTOCOL | {"split": "time, test from 2014"}}
    assert "### Published" not in text_of(section_of(row_of("sasrec", by_time), data={"known": "amazon-beauty"}))


@pytest.mark.parametrize(("targets", "warned"), [(1, True), (199, True), (200, False)])
def test_few_targets_are_a_warning(targets, warned):
    run = run_of("a", protocol=PROTOCOL | {"targets": targets})
    assert ("too few for reliable metrics" in text_of(section_of(row_of("ssd4rec", run)))) == warned


def test_a_negative_repeat_bias_is_a_warning_where_seen_items_are_kept():
    fusion = {"cooccurrence": 1.0, "repeat_bias": -8.0, "test": METRICS, "test_exclude_seen": METRICS}
    excluded = PROTOCOL | {"exclude_seen": True}
    for fields, warned in (({}, True), ({"protocol": excluded}, False), ({"fusion": fusion | {"repeat_bias": 2.0}}, False)):
        text = text_of(section_of(row_of("sasrec", run_of("a", **{"fusion": fusion, **fields}))))
        assert ("A negative repeat bias encodes" in text) == warned


@pytest.mark.parametrize(
    ("models", "cells"),
    [
        (("sequential-ridge", "sequential-rules"), "sequential-ridge, sequential-rules | 1, 2 | -8 | 2 |"),
        ((None, None), "| 1, 2 | -8 | 2 |"),
    ],
)
def test_the_weights_of_score_fusion_are_listed(models, cells):
    """With the co-occurrence model of each seed, which older results do not have."""
    runs = [
        run_of(key, seed=seed, fusion={"cooccurrence_model": model, "cooccurrence": weight, "repeat_bias": -8.0, "test": METRICS})
        for key, seed, weight, model in zip("ab", (1, 2), (1.0, 2.0), models, strict=True)
    ]
    table = text_of(section_of(row_of("sasrec", *runs))).partition("### Score fusion")[2].partition("###")[0]
    assert cells in table
    assert ("| model, weights |" in table) == (models[0] is not None)


def test_missing_and_failed_runs_are_named_with_the_reason():
    failed = {"status": "failed", "key": "k", "seed": 2, "reason": "exit code 1\nTraceback\nValueError: no"}
    text = text_of(section_of(row_of("sasrec", failed, {"status": "missing", "key": "m", "seed": 3})))
    assert "Failed: sasrec, seed 2: exit code 1, ValueError: no (runs/k/failure.txt)." in text
    assert "Missing: sasrec, seed 3." in text


def test_a_cut_short_run_does_not_show_what_the_papers_settings_give():
    section = section_of(row_of("sasrec", run_of("a")))
    assert "a run was cut short after 3 epochs" in text_of(section)
    whole = section_of(row_of("sasrec", run_of("a", epochs=2)))
    assert "do not show" not in text_of(whole)


def test_short_truncations_are_counted_and_a_rare_one_is_a_warning():
    rows = [row_of("last 10", run_of("a"), settings=SETTINGS | {"data": {"max_length": 10}}), row_of("whole", run_of("b"))]
    text = text_of(section_of(*rows, study="length", data={"users": 101, "longer": {"10": 1, "20": 0}}))
    assert "Of 101 sequences 1 have more than 10 interactions." in text
    assert "A maximum length of 10 shortens fewer than 1 % of the sequences" in text
    assert "20 interactions" not in text


def length_rows(*models, lengths=(10, None), limit=200, **costs):
    """One run for each model and length; costs are seconds."""
    return [
        row_of(
            f"last {x}" if x else "whole", run_of(f"{model}{x}", costs=costs), model=model, x=x,
            settings=SETTINGS | {"data": {"max_length": x}, "backbone": SETTINGS["backbone"] | {"max_length": limit}},
        )
        for x in lengths for model in models
    ]  # fmt: skip


def test_the_lengths_of_several_models_are_a_table_of_metrics_and_seconds():
    """A point without a run is "-"; a single model has no such table."""
    rows = length_rows("ssd4rec", "sasrec", seconds_to_best=12.34, seconds_per_epoch=2.0)
    text = text_of(section_of(*rows[:3], study="length"))
    names = [f"{name}, {model}" for model in ("ssd4rec", "sasrec") for name in ("NDCG@10", "s to best", "s per epoch")]
    assert f"| last interactions read | {' | '.join(names)} |" in text
    assert "| 10 | 0.5000 | 12.3 | 2.0 | 0.5000 | 12.3 | 2.0 |" in text
    assert "| whole | 0.5000 | 12.3 | 2.0 | - | - | - |" in text
    assert "| ssd4rec, whole | 0.5000 | 1.0000 | 1 |" in text
    assert "compare seconds with care" in text
    alone = text_of(section_of(*rows[::2], study="length"))
    assert "| whole | 0.5000 | 1.0000 | 1 |" in alone
    assert "s to best" not in alone


def test_a_limit_below_the_length_is_a_note():
    """Of 20 interactions a model reads at most 19."""
    for limit, expected in ((19, "none is cut; sasrec: up to 19."), (9, "sasrec reads only the last 9 .* at 10, whole")):
        text = text_of(section_of(*length_rows("sasrec", limit=limit), study="length"))
        assert re.search(expected, text)
        assert ("reads only" in text) == (limit == 9)


def test_rows_are_arranged_by_model_and_length():
    """The order of the commands does not matter."""
    rows = section_of(*length_rows("ssd4rec", "sasrec", lengths=(50, None, 10)), study="length").arranged.rows
    labels = ("last 10", "last 50", "whole")
    assert [row.label for row in rows] == [f"{model}, {label}" for model in ("ssd4rec", "sasrec") for label in labels]
    single = section_of(*length_rows("ssd4rec", lengths=(None, 10)), study="length").arranged.rows
    assert [row.label for row in single] == ["last 10", "whole"]


def test_a_file_name_is_not_read_as_markdown():
    assert "## Accuracy: my\\_log \\*2\\*.csv" in text_of(section_of(row_of("sasrec", run_of("a")), title="my_log *2*.csv"))


class Page(HTMLParser):
    """Cells of all tables, and the addresses that the page would load."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.loaded, self.in_cell, self.open = [], [], False, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name == "src" or (name == "href" and tag == "link")]
        self.open += [dict(attrs)] if tag == "details" else []
        self.rows += [[]] if tag == "tr" else []
        self.in_cell = tag == "td"

    def handle_data(self, data):
        if self.in_cell and data.strip():
            self.rows[-1].append(data.strip())


@pytest.mark.thorough
def test_the_page_loads_nothing_folds_details_and_is_the_same_every_time():
    """The headline table is open; charts are in the page; a name is escaped."""
    rows = [row_of(f"beta {x}", run_of(f"{x}"), x=x) for x in (0.0, 0.5)]
    lines = section_of(*length_rows("ssd4rec", "sasrec", seconds_to_best=3.0, seconds_per_epoch=1.0), study="length")
    results = Results(sections=(section_of(row_of("<b>", run_of("a"))), section_of(*rows, study="beta"), lines))
    text = render(results, "report.html")
    page = Page(text)
    assert page.loaded == []
    assert page.open
    assert not any("open" in attributes for attributes in page.open)
    assert ["beta 0.5", "0.5000", "1.0000", "1"] in page.rows
    assert text.count("<svg") == 3
    assert "seconds of training to the best epoch" in text
    assert "<b>" not in text
    assert text == render(results, "report.html")
