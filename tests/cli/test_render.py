"""The output of the command line as printed."""

import io

import pytest
from rich.console import Console

from ssd4rec.cli import _render, console

HOSTILE = "Film [/director's cut] [red]x :heart:"


@pytest.fixture
def printed(monkeypatch, capsys):
    """Return the printed output; the console is wide enough for any line."""
    monkeypatch.setattr(console.out, "_width", 300)  # COLUMNS is read when a console is made, long before
    return lambda: capsys.readouterr().out


def data(source="plays.csv", *, same=0, interactions=1000, notes=()):
    """The `data` part of a report."""
    counts = {"users": 10, "items": 20, "interactions": interactions}
    return {
        "read": {"source": source, "rows": interactions, "users": 10, "items": 20, "notes": list(notes)},
        "dropped": {**counts, "why": "too few"},
        "kept": {**counts, "mean_length": 100.0, "longest": 200},
        "tie_order": {"interactions": same, "order": "file"},
    }


def test_data_are_printed_to_the_letter(printed):
    """Square brackets in titles, ids, headings, histories, paths and notes are letters, and so is the name of an emoji."""
    row = {"rank": 1, "item": f"[rec] {HOSTILE}", "title": f"[b]{HOSTILE}", "score": 1.0}
    _render.show_recommendations(console.out, [row], [f"[i]{HOSTILE}"], f"User [u]{HOSTILE}")
    _render.show_data(console.out, data(f"[red]plays{HOSTILE}.csv", notes=[f"column [x]{HOSTILE}"]))
    output = printed()
    for start in ("[rec] ", "[b]", "[i]", "User [u]", "[red]plays", "warning: column [x]"):
        assert f"{start}{HOSTILE}" in output


@pytest.mark.parametrize("titles", [("Fargo", None), (None, None)])
def test_a_column_of_titles_where_there_are_any(printed, titles):
    rows = [{"rank": rank, "item": f"i{rank}", "title": title, "score": 1.0} for rank, title in enumerate(titles, start=1)]
    _render.show_recommendations(console.out, rows)
    output = printed()
    assert ("title" in output) == any(titles)
    assert "i2" in output


@pytest.mark.parametrize(
    ("same", "said"), [(0, None), (3, "3 interactions (0.3 %)"), (394, "394 interactions (39.4 %)"), (1000, "1,000 interactions")]
)
def test_interactions_of_one_time_are_counted(printed, same, said):
    """However few there are."""
    _render.show_data(console.out, data(same=same))
    output = printed()
    assert ("have the time of the previous one" in output) == (said is not None)
    assert said is None or f"note: {said}" in output


def test_the_metrics_of_a_group_name_their_cutoff(printed):
    """It is the first one of the report."""
    group = {"name": "1-4 events", "targets": 7, "hit_rate": 0.5, "ndcg": 0.25}
    report = {
        "test": {"hr@5": 0.5, "ndcg@5": 0.25, "mrr@5": 0.2, "hr@20": 0.6},
        "protocol": {"split": "leave-last-out"},
        "test_groups": {"by_length": [group], "by_popularity": [group]},
    }
    _render.show_metrics(console.out, report)
    assert printed().count(" hr@5 ┃ ndcg@5 ") == 2


def test_a_baseline_takes_the_place_of_the_ratio(printed):
    """So that no name of a column is cut off at 80 columns."""
    metrics = {"hr@10": 0.5}
    report = {
        "test": metrics,
        "popularity": {"test": {"hr@10": 0.25}},
        "fusion": {"model_alone": metrics, "fusion_alone": metrics},
        "protocol": {"split": "leave-last-out"},
        "test_groups": {},
    }
    _render.show_metrics(console.out, report)
    assert "2.0x" in printed()
    _render.show_metrics(console.out, {**report, "baselines": {"personal-popularity": {"test": metrics}}})
    shown = printed()
    assert "2.0x" not in shown
    assert "…" not in shown


def test_a_bar_names_its_work_to_the_letter(monkeypatch):
    """A run is called after its file, whatever that is called."""
    printed = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=printed, force_terminal=True, width=200, color_system=None))
    bar = console.progress_bar()
    bar.add_task(HOSTILE, total=2)
    bar.refresh()
    bar.console.print(bar.get_renderable())
    assert HOSTILE in printed.getvalue()


def test_control_characters_do_not_reach_the_terminal():
    """Escape sequences, bidirectional overrides and NUL are shown as escapes; letters and joiners stay."""
    assert console.printable("\x1b[31mred\x00\u202e\u9f8d \u200d") == "\\x1b[31mred\\x00\\u202e\u9f8d \u200d"
    assert len(console.printable("x" * 10**6)) == console.MAX_MESSAGE
