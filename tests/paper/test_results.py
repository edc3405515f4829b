"""What a report says of its figures, what it sets beside them, and what it tests."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

import worlds
from ssd4rec.data.sequences import Kept
from ssd4rec.data.split import split_by_time
from ssd4rec.errors import DataError
from ssd4rec.paper.budgets import make_budget
from ssd4rec.paper.compare import against_best, against_whole, paired_bootstrap
from ssd4rec.paper.notes import notes
from ssd4rec.paper.origins import recipe_of, reduced
from ssd4rec.paper.published import published_row
from ssd4rec.paper.recipes import RECIPES
from ssd4rec.paper.report import as_html, as_markdown
from ssd4rec.paper.results import earlier, refuse_what_would_be_lost, summarize
from ssd4rec.paper.rows import Costs, Protocol, Results, Row, Section, StoredBudget
from ssd4rec.paper.runs import MEASURED, Dataset, Part, Run, result_of
from ssd4rec.paper.studies import points

KEPT = Kept(users=9, items=9, interactions=99, mean_length=11.0, longest=100)
BUDGET = StoredBudget(name="small", width=32, epochs=3, seeds=1)
PROTOCOL = {
    "split": "leave-last-out", "candidates": "whole catalog, 9 items", "exclude_seen": False, "ties": "worst rank", "k_core": 1,
    "tie_order": "file", "max_length": None, "targets": 9,
}  # fmt: skip


def row_of(label, **given):
    """A row of which nothing is known but what is given."""
    unknown = {"x": None, "metrics": {}, "with_fusion": None, "parameters": None, "settings": None, "recipe": None}
    nothing = {"costs": Costs(**dict.fromkeys(Costs.model_fields)), "published": None, "seeds": ()}
    return Row(**{"label": label, "model": label, **unknown, **nothing, **given})


def section_of(*rows, **given):
    """A section of which nothing is known but what is given."""
    unknown = dict.fromkeys(("known", "reduced", "axis", "protocol", "versions", "device", "highest_published"))
    data = {"source": "x", "fingerprint": "x", "kept": KEPT, "budget": BUDGET, "jobs": 1, "published_only": {}}
    return Section(**{**unknown, **data, "rows": rows, **given})


def finished(key, **given):
    """A seed with figures."""
    return {"seed": 1, "key": key, "state": "finished", "test": {}, "best_epoch": 1, "jobs": 1, **given}


def spread(mean):
    return {"mean": mean, "sd": None, "n": 1}


def write(results, out):
    (out / "results.json").write_text(json.dumps(results.as_dict()))
    return results


def part_of(study, tmp_path, name="log.csv", known=None, settings=(), longest=100, source=None, models=("ssd4rec", "sasrec")):
    """A part whose data nobody has read."""
    source = source or str(tmp_path / name)
    described = {
        "kept": asdict(replace(KEPT, longest=longest)),
        "read": {"notes": []},
        "tie_order": {"interactions": 0, "order": "file"},
    }
    data = Dataset(source, name, known, f"fingerprint of {source}", described)
    return Part(study, data, tuple(points(study, known, make_budget("small"), models, settings)))


def sections(tmp_path, *parts):
    """The names of the sections after these were written one after the other."""
    for part in parts:
        results = write(summarize([part], make_budget("small"), tmp_path), tmp_path)
    return list(results.studies["accuracy"])


def test_the_papers_budget_is_reduced_where_the_paper_has_no_settings():
    """Nobody published settings for ML-100K: the paper's budget takes our recipe there, and says so."""
    budget = make_budget("paper")
    (point,) = points("accuracy", "ml-100k", budget, ["sasrec"], ())
    assert point.configs[0].training.objective == "all-positions"
    assert "the paper has no settings for these data" in (reduced("ml-100k", budget, 18) or "")


def test_a_budget_is_reduced_where_it_decides_what_a_model_reaches():
    """The paper's width, and an end by validation: whole, whatever --epochs allowed; cut short or narrower: reduced."""
    assert reduced("amazon-beauty", make_budget("paper"), 300) is None
    assert reduced("amazon-beauty", make_budget("paper", epochs=40, seeds=1), 18) is None
    assert reduced("amazon-beauty", make_budget("paper", epochs=40), 40) == "a run was cut short after 40 epochs"
    for budget in (make_budget("paper", width=128), make_budget("medium", width=256), make_budget("small")):
        assert reduced("amazon-beauty", budget, 3) == "reduced budget"
    assert reduced("amazon-beauty", make_budget("paper", width=512), 3) == "the models are 512 wide, the paper's 256"


def test_a_report_of_the_papers_settings_says_which_rows_had_others(tmp_path):
    """And of which data: tie_order is the protocol's, not how a model learns."""
    budget = make_budget("paper-one-pass")
    for settings, told in (
        (["data.tie_order=item"], None),
        (["training.patience=5"], "settings were changed (training.patience)"),
        (["sasrec:training.patience=5"], "settings were changed (training.patience of sasrec)"),
    ):
        planned = points("accuracy", "amazon-beauty", budget, ("ssd4rec", "sasrec"), settings)
        part = replace(part_of("accuracy", tmp_path, known="amazon-beauty"), points=tuple(planned))
        (found,) = summarize([part], budget, tmp_path).studies["accuracy"].values()
        assert found.reduced == told


def test_a_report_does_not_call_searched_what_was_given():
    """Settings that --set has changed are named; all others come from the recipe, and a small budget changes none of them."""
    small = make_budget("small")
    for known, rest in ((None, ""), ("amazon-beauty", ", with the dropout of the preset")):
        (as_it_is,) = points("accuracy", known, small, ["sasrec"], ())
        assert recipe_of(as_it_is, known, small) == RECIPES["sasrec"].source + rest
        given = ("training.mask_ratio=0.0", "training.token_budget=1024", "training.weight_decay=0.1", "sasrec:backbone.width=16")
        (changed,) = points("accuracy", known, small, ["sasrec"], given)
        names = "backbone.width, training.token_budget, training.mask_ratio, training.weight_decay"
        assert recipe_of(changed, known, small) == f"changed here ({names}), the rest {RECIPES['sasrec'].source}{rest}"


def test_a_report_does_not_call_the_papers_what_was_changed():
    """The paper's budget with --set names what was set, for our model and for the others."""
    paper = make_budget("paper", epochs=40)
    for model, source in (("ssd4rec-all", "preset of the paper"), ("ssd4rec", "preset of the paper"), ("sasrec", "searched")):
        (as_it_is,) = points("accuracy", "amazon-beauty", paper, [model], ())
        assert str(recipe_of(as_it_is, "amazon-beauty", paper)).startswith(source)
        given = ("training.objective=all-positions", "training.token_budget=1152")
        (changed,) = points("accuracy", "amazon-beauty", paper, [model], given)
        said = str(recipe_of(changed, "amazon-beauty", paper))
        assert said.startswith("changed here (")
        assert "training.token_budget" in said.partition(")")[0]
        assert f"the rest {source}" in said


def test_no_section_takes_the_place_of_other_data_or_another_protocol(tmp_path):
    """Files of one name stand side by side, and so do two protocols; the same again, from another folder too, replaces."""
    first, second = (part_of("accuracy", tmp_path, source=f"{where}/log.csv") for where in "ab")
    moved = replace(first, data=replace(first.data, source="c/log.csv"))
    by_item = part_of("accuracy", tmp_path, source="a/log.csv", settings=["data.tie_order=item"])
    named = ["log.csv", "b/log.csv", "log.csv data.tie_order=item"]
    assert sections(tmp_path, first, second, by_item, moved, first, second) == named


def test_published_figures_stand_beside_the_last_event_left_out_only(tmp_path):
    """None beside a split by time; the report says why."""
    whole, by_time = (
        summarize([part_of("accuracy", tmp_path, known="ml-1m", settings=settings)], make_budget("small"), tmp_path)
        for settings in ((), ("data.split=time",))
    )
    (section,) = whole.studies["accuracy"].values()
    assert section.rows[1].published.figures["ndcg@10"] == 0.1687
    assert section.highest_published[0] == "sigma"
    (section,) = by_time.studies["accuracy"].values()
    assert [row.published for row in section.rows] == [None, None]
    assert (section.highest_published, section.highest_published_seen_removed, section.published_only) == (None, None, {})
    split = split_by_time(worlds.world(worlds.cycle()).histories).protocol  # as a run writes it
    measured = section.model_copy(update={"protocol": Protocol(**PROTOCOL | {"split": split})})
    assert "Published figures leave the last event out" in " ".join(note.text for note in notes("accuracy", measured))


def test_published_figures_are_those_of_the_paper():
    """KuaiRand's row of SSD4Rec, and none for data that nobody published."""
    assert published_row("kuairand-pure", "ssd4rec-all", exclude_seen=False).figures["ndcg@10"] == 0.0593
    assert published_row(None, "ssd4rec", exclude_seen=False) is None
    assert published_row("kuairand-pure", "ssd4rec-none", exclude_seen=False) is None  # a network that nobody published


def test_published_figures_stand_beside_the_same_protocol_only():
    """A table made with seen items kept says nothing beside one that removes them."""
    assert published_row("ml-1m", "sasrec", exclude_seen=False).figures["ndcg@10"] == 0.1687
    assert published_row("ml-1m", "sasrec", exclude_seen=True) is None
    assert published_row("ml-1m", "hstu-large", exclude_seen=True).exclude_seen


def test_a_report_says_what_a_prior_knows_and_the_published_models_did_not():
    """Where seen items are candidates and a fusion puts them down; not where they are none, or where they recur."""

    def told(repeat_bias, seen):
        fusion = {"metrics": {}, "cooccurrence": (1.0, 1.0), "repeat_bias": repeat_bias}
        section = section_of(row_of("sasrec", with_fusion=fusion), protocol=Protocol(**PROTOCOL | {"seen": seen}))
        return [note.warning for note in notes("accuracy", section) if "had to learn that" in note.text]

    assert told((0.0, -8.0), exclude_seen=False) == [True]
    assert told((0.0, -8.0), exclude_seen=True) == told((0.0, 2.0), exclude_seen=False) == []


def test_tests_are_between_the_best_and_the_wirings_and_between_the_parts_and_the_whole(tmp_path):
    """Whose ranks are whose: 1 against 3 is a difference of one half."""
    ranks = {"top": 1, "none": 3, "sasrec": 3, "caser": 7, "mamba": 7}
    for key, rank in ranks.items():
        (tmp_path / "runs" / key).mkdir(parents=True)
        np.save(tmp_path / "runs" / key / "ranks.npy", np.full(20, rank))

    def row(label, model, mean):
        test = {"ndcg@10": 1 / math.log2(ranks[label] + 1)}
        return row_of(label, model=model, metrics={"ndcg@10": spread(mean)}, seeds=(finished(label, targets=20, test=test),))

    rows = [
        row("top", "ssd4rec", 1.0),
        row("none", "ssd4rec-none", 0.5),
        row("sasrec", "sasrec", 0.5),
        row("caser", "caser", 0.3),
        row("mamba", "mamba4rec", 0.3),  # ours without the backward direction
    ]
    found = [[(test.baseline, test.difference) for test in each.tests] for each in against_best(rows, tmp_path, tmp_path)]
    assert found == [[("sasrec", 0.5), ("none", 0.5), ("mamba", 2 / 3)], [("sasrec", 0.0)], [], [], []]
    assert not any(each.tests for each in rows)  # what was given is as it was
    rows = [row("top", "ssd4rec", 1.0), row("none", "ssd4rec", 0.5), row_of("missing", model="ssd4rec")]
    found = [[test.difference for test in each.tests] for each in against_whole(rows, tmp_path)]
    assert found == [[], [-0.5], []]


def test_a_paired_test_tells_a_better_model_from_an_equal_one():
    """First everywhere against third everywhere differs by 1 - 1/2; against itself by 0."""
    first, third = np.full(50, 1), np.full(50, 3)
    better = paired_bootstrap([first], [third])
    assert (better["difference"], better["low"]) == (0.5, 0.5)
    assert better["p"] < 0.01
    assert paired_bootstrap([first], [first])["p"] == 1.0


def test_a_paired_test_by_hand():
    """Half of 400 users gain 1: .5 +- 1.96 * .5 / 20. Of 25, 15 gain 1 and 10 lose it: p is twice Binomial(25, .6) at most 12."""
    best, last = 1, 10**6
    found = paired_bootstrap([np.repeat([best, last], 200)], [np.full(400, last)])
    assert found["difference"] == pytest.approx(0.5)
    assert (found["low"], found["high"]) == pytest.approx((0.451, 0.549), abs=0.006)
    assert found["p"] == pytest.approx(2 / 2001)
    mixed = paired_bootstrap([np.repeat([best, last], [15, 10])], [np.repeat([last, best], [15, 10])])
    at_most = sum(math.comb(25, ndcg_gains) * 0.6**ndcg_gains * 0.4 ** (25 - ndcg_gains) for ndcg_gains in range(13))
    assert mixed["p"] == pytest.approx(2 * at_most, abs=0.05)


def test_a_user_s_figure_in_a_paired_test_is_the_mean_over_seeds():
    """Two seeds, ranks 1 and 3, against one of rank 3: (1 + 1/2) / 2 - 1/2."""
    assert paired_bootstrap([np.full(9, 1), np.full(9, 3)], [np.full(9, 3)])["difference"] == pytest.approx(0.25)


def test_ranks_that_are_not_of_their_figures_are_refused(tmp_path):
    """Runs are handed on: whose file it is, and what to do, in one line."""
    (tmp_path / "runs" / "a").mkdir(parents=True)
    np.save(tmp_path / "runs" / "a" / "ranks.npy", np.full(49, 1))
    seeds = (finished("a", targets=150),)
    rows = [row_of(name, metrics={"ndcg@10": spread(1.0)}, seeds=seeds) for name in ("ssd4rec", "sasrec")]
    with pytest.raises(
        DataError, match=r"ranks\.npy holds 49 ranks, result\.json beside it says 150 targets; remove .*runs/a and"
    ):
        against_best(rows, tmp_path, tmp_path)
    np.save(tmp_path / "runs" / "a" / "ranks.npy", np.full(150, 3))
    seeds = (finished("a", targets=150, test={"ndcg@10": 1.0}),)
    rows = [row.model_copy(update={"seeds": row_of("x", seeds=seeds).seeds}) for row in rows]
    with pytest.raises(DataError, match=r"holds ranks of ndcg@10 0\.500000, result\.json beside it says 1\.000000; remove"):
        against_best(rows, tmp_path, tmp_path)


@pytest.mark.parametrize(("targets", "warned"), [(1, True), (199, True), (200, False)])
def test_few_targets_are_told(targets, warned):
    """Above the tables, whether or not anything is tested."""
    section = section_of(row_of("ssd4rec"), protocol=Protocol(**PROTOCOL | {"targets": targets}))
    found = [note.text for note in notes("accuracy", section) if note.warning and "too few" in note.text]
    assert bool(found) == warned
    assert not warned or found[0].startswith(f"{targets} target")


def test_a_report_says_what_its_data_and_its_code_are(tmp_path):
    """That a file is a part of the publisher's, how many events tie, and by which code each run was trained."""
    part = part_of("accuracy", tmp_path)
    described = {"read": {"notes": ["a part of the publisher's file"]}, "tie_order": {"interactions": 3, "order": "item"}}
    data = replace(part.data, description=part.data.description | described)
    found = summarize([replace(part, data=data)], make_budget("small"), tmp_path)
    (section,) = found.studies["accuracy"].values()
    rows = tuple(
        row_of(label, seeds=(finished(label, commit=commit),)) for label, commit in (("ssd4rec", "c0ffee"), ("sasrec", None))
    )
    section = section.model_copy(update={"rows": rows, "protocol": Protocol(**PROTOCOL)})
    said = [note.text for note in notes("accuracy", section)]
    assert "Data: a part of the publisher's file." in said
    assert (
        "3 interactions (3.0 %) are at the same time as the one before; their order is that of the items' ids (data.tie_order)"
        in " ".join(said)
    )
    assert "Trained by the code of commit c0ffee, and others that were not kept." in said


def test_a_file_s_name_is_no_markdown():
    """Its letters are shown as they are."""
    text = as_markdown(Results(format=4, commit=None, studies={"beta": {"my_log *2*.csv": section_of()}}))
    assert "## Backward weight (Figure 3): my\\_log \\*2\\*.csv" in text


METRICS = {"ndcg@10": 0.5, "hr@10": 0.75, "mrr@10": 0.25}


def finish(part, out, at=0):
    """The files of a run as if it had been made."""
    run = Run(part.data, part.points[at].configs[0])
    cost = dict.fromkeys(
        ("seconds_an_epoch", "seconds_to_best", "inference_seconds", "padded_inference_seconds", "peak_memory", "peak_gpu_memory")
    )
    result = {
        "test": METRICS,
        "seen_removed": METRICS,
        "with_fusion": {"cooccurrence": 1.0, "repeat_bias": 0.0, "test": METRICS, "seen_removed": METRICS},
        "measured": MEASURED,
        "protocol": PROTOCOL,
        "training": {"best_epoch": 1},
        "model": {"parameters": 1},
        "versions": {},
        "efficiency": {**cost, "epochs": 1, "device": "CPU"},
    }
    folder = out / "runs" / run.key
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    np.save(folder / "ranks.npy", np.full(9, 3, dtype=np.int32))  # NDCG@10 .5
    return folder


def test_figures_stay_until_there_are_others(tmp_path):
    """Other models on the same data replace a section when the first of them is there, not when a sweep begins."""
    first, second = part_of("accuracy", tmp_path, models=["ssd4rec"]), part_of("accuracy", tmp_path, models=["gru4rec"])

    def shown(part):
        results = write(summarize([part], make_budget("small"), tmp_path), tmp_path)
        return [row.label for row in results.studies["accuracy"]["log.csv"].rows]

    assert shown(second) == ["gru4rec"]
    finish(first, tmp_path)
    assert shown(first) == ["ssd4rec"]
    assert shown(second) == ["ssd4rec"]
    finish(second, tmp_path)
    assert shown(second) == ["gru4rec"]


def test_what_is_written_is_read_back(tmp_path):
    """With all that was not measured, and with what was: nothing is left to a default."""
    part = part_of("ablation", tmp_path)
    finish(part, tmp_path)
    results = write(summarize([part], make_budget("small"), tmp_path), tmp_path)
    assert earlier(tmp_path) == results.studies
    section = results.as_dict()["studies"]["ablation"]["log.csv"]
    assert set(section) == set(Section.model_fields)
    assert set(section["rows"][0]) == set(Row.model_fields) - {"against_baselines", "against_best_baseline"}


def test_figures_whose_runs_are_not_there_are_not_written_over(tmp_path):
    part = part_of("accuracy", tmp_path)
    folder = finish(part, tmp_path)
    write(summarize([part], make_budget("small"), tmp_path), tmp_path)
    refuse_what_would_be_lost([part], tmp_path)
    refuse_what_would_be_lost([part_of("beta", tmp_path)], tmp_path)
    (folder / "result.json").unlink()
    with pytest.raises(DataError, match=r"holds accuracy on log.csv, whose runs are not in .*runs: .* choose another --out, or"):
        refuse_what_would_be_lost([part], tmp_path)
    refuse_what_would_be_lost([part_of("beta", tmp_path)], tmp_path)


def test_one_run_that_was_taken_away_is_made_again(tmp_path):
    """It was damaged, and its folder removed as was advised; those beside it say that this is the folder of the figures."""
    part = part_of("accuracy", tmp_path)
    finish(part, tmp_path)
    gone = finish(part, tmp_path, at=1)
    write(summarize([part], make_budget("small"), tmp_path), tmp_path)
    (gone / "result.json").unlink()
    refuse_what_would_be_lost([part], tmp_path)
    with pytest.raises(DataError, match="whose runs are not in"):
        refuse_what_would_be_lost([part_of("accuracy", tmp_path, models=("ssd4rec",))], tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 3, "studies": {}}', "has format 3, this version writes 4; move it away"),
        ('{"format": 4, "studies": {"accuracy": {"a.csv": {}}}}', "is not a result of reproduce .*source"),
        ('{"format": 4}', "is not a result of reproduce .*studies"),
        ("[]", "is not a result of reproduce"),
        ("", "is not a result of reproduce"),
    ],
)
def test_results_of_others_are_refused_and_stay(tmp_path, text, said):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=said):
        earlier(tmp_path)
    assert (tmp_path / "results.json").read_text() == text


def test_a_row_of_another_shape_is_refused_by_its_place(tmp_path):
    """A figure that is a text, a key that this version does not know, a state that no seed has: one line, and the file stays."""
    part = part_of("accuracy", tmp_path)
    finish(part, tmp_path)
    sound = json.dumps(summarize([part], make_budget("small"), tmp_path).as_dict())
    for old, new, said in (
        ('"mean": 0.5', '"mean": "0.5"', r"rows\.0\.metrics\.ndcg@10\.mean: .*valid number"),
        ('"jobs": 1, "device"', '"jobs": 1.5, "device"', r"rows\.0\.seeds\.0\.finished\.jobs: .*valid integer"),
        ('"label"', '"younger": 1, "label"', r"rows\.0\.younger: Extra inputs are not permitted"),
        ('"missing"', '"lost"', r"rows\.1\.seeds\.0: Input tag 'lost'"),
        ('"users": 9, ', "", r"log\.csv\.kept\.users: Field required"),
    ):
        text = sound.replace(old, new, 1)
        assert text != sound
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(DataError, match=rf"is not a result of reproduce \(studies.*{said}.*\); move it away, or choose"):
            earlier(tmp_path)
        assert (tmp_path / "results.json").read_text() == text


def test_a_file_of_another_format_is_said_to_be_that_alone(tmp_path):
    """However its rows look."""
    (tmp_path / "results.json").write_text('{"format": 3, "parts": []}')
    with pytest.raises(DataError) as refused:
        earlier(tmp_path)
    assert str(refused.value) == f"{tmp_path / 'results.json'} has format 3, this version writes 4; move it away (runs stay)"


@pytest.mark.parametrize(
    ("gone", "said"), [("efficiency", "no efficiency"), ("with_fusion", "no with_fusion"), (None, "Expecting")]
)
def test_a_damaged_run_is_named(tmp_path, gone, said):
    folder = finish(part_of("accuracy", tmp_path), tmp_path)
    found = json.loads((folder / "result.json").read_text())
    text = json.dumps({name: value for name, value in found.items() if name != gone}) if gone else ""
    (folder / "result.json").write_text(text)
    with pytest.raises(DataError, match=f"result.json cannot be read: .*{said}.*; remove .*{folder.name}"):
        result_of(folder)


def test_a_wiring_that_the_preset_has_not_is_named():
    """Two layers: the paper's all read backwards; with one layer "top" is the same network."""
    paper = make_budget("paper")
    found = {}
    for known in ("ml-1m", "amazon-beauty"):
        for model in ("ssd4rec-all", "ssd4rec", "ssd4rec-none"):
            (point,) = points("accuracy", known, paper, [model], ())
            found[known, model] = recipe_of(point, known, paper)
    other = 'preset of the paper, but for backbone.bidirectional = "{}"'.format
    assert found["ml-1m", "ssd4rec-all"] == found["amazon-beauty", "ssd4rec-all"] == "preset of the paper"
    assert found["amazon-beauty", "ssd4rec"] == "preset of the paper"
    assert found["ml-1m", "ssd4rec"] == other("top")
    assert found["ml-1m", "ssd4rec-none"] == found["amazon-beauty", "ssd4rec-none"] == other("none")


def test_the_points_of_a_figure_are_tested_against_its_beginning(tmp_path):
    part = part_of("beta", tmp_path)
    for at in range(3):
        finish(part, tmp_path, at)
    results = summarize([part], make_budget("small"), tmp_path)
    section = results.studies["beta"]["log.csv"]
    against = {row.label: [test.baseline for test in row.tests] for row in section.rows}
    assert against == {"beta 0.0": [], "beta 0.1": ["beta 0.0"], "beta 0.2": ["beta 0.0"]} | {
        label: [] for label in list(against)[3:]
    }
    said = {note.text: note.warning for note in notes("beta", section)}
    assert said["One seed: what another one would change is in no difference here."]
    assert "Paired bootstrap" in as_markdown(results)


def test_what_was_set_is_said_above_every_table(tmp_path):
    part = part_of("rho", tmp_path, settings=["training.weight_decay=0.3"])
    section = summarize([part], make_budget("small"), tmp_path).studies["rho"]["log.csv"]
    (said,) = (note.text for note in notes("rho", section) if "Settings" in note.text)
    assert said.startswith("Settings (last table): all rows: changed here (training.weight_decay), the rest searched")


def test_a_report_says_how_many_histories_a_truncation_shortens(tmp_path):
    part = part_of("length", tmp_path, longest=10**6)
    part = replace(part, data=replace(part.data, longer={10: 7, 20: 1, 50: 0, 100: 0, 200: 0, 400: 0}))
    section = summarize([part], make_budget("small"), tmp_path).studies["length"]["log.csv"]
    said = {note.text: note.warning for note in notes("length", section.model_copy(update={"kept": replace(KEPT, users=101)}))}
    (counted,) = (text for text in said if text.startswith("Of 101 histories"))
    assert counted.startswith("Of 101 histories 7 have more than 10 events, 1 have more than 20 events, 0 have")
    (warned,) = (text for text, warning in said.items() if warning and "fewer than 1 %" in text)
    assert warned.startswith("To truncate to 20, 50, 100, 200, 400 shortens fewer than 1 % of the histories")


def test_where_no_history_is_long_enough_nothing_is_said_of_truncating(tmp_path):
    """All rows that would truncate are left out."""
    whole = part_of("length", tmp_path, longest=5)
    part = replace(whole, points=whole.points[-1:], data=replace(whole.data, longer={10: 0, 20: 0}))
    section = summarize([part], make_budget("small"), tmp_path).studies["length"]["log.csv"]
    assert [row.label for row in section.rows] == ["whole"]
    assert not [note.text for note in notes("length", section) if "runcate" in note.text or "more than" in note.text]


def test_a_page_is_the_same_however_often_it_is_made(tmp_path):
    """Plots are in it as pictures with a text for those who do not see them, and nothing is loaded."""
    part = part_of("beta", tmp_path)
    for at in range(3):
        finish(part, tmp_path, at)
    results = summarize([part], make_budget("small"), tmp_path)
    page = as_html(results)
    assert page == as_html(results)
    assert (
        "<img alt='NDCG, MRR and HR at 10 by beta on log.csv, the figures of the first table' src='data:image/svg+xml;base64"
        in page
    )
    assert "all settings of beta 0.1, first seed" in page
    assert "<pre>as of beta 0.0, but for\nbackbone.backward_weight = 0.1</pre>" in page
