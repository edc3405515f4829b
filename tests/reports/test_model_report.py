"""The report of a model: its numbers are those of the report and of the library, and the page stands alone."""

import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

import worlds
from packed import randomized
from ssd4rec.artifact import Artifact
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.split import training_counts
from ssd4rec.evaluation.metrics import ndcg_gains
from ssd4rec.models.next_item import make_model
from ssd4rec.pipeline import Comparison, Prepared, evaluate
from ssd4rec.reports.charts import Axis
from ssd4rec.reports.examples import Examined, examine
from ssd4rec.reports.model import render_model_report
from ssd4rec.serving.recommender import Recommender

ITEMS = 40


@pytest.fixture(scope="module")
def data() -> Prepared:
    return worlds.world(worlds.cycle(30, ITEMS))


@pytest.fixture(scope="module")
def recommender(data: Prepared) -> Recommender:
    config = worlds.config()
    titles = [f"<b>Film & {index}</b>" for index in range(ITEMS)]
    catalog = Catalog(data.catalog.ids, pl.Series("title", titles))
    counts = training_counts(data.histories, data.split.train, ITEMS)
    return Recommender(Artifact(randomized(make_model(config, ITEMS)).eval(), catalog, config, {}, counts))


@pytest.fixture(scope="module")
def examined(recommender: Recommender, data: Prepared) -> Examined:
    return examine(recommender, data.histories)


@pytest.fixture(scope="module")
def comparison(recommender: Recommender, data: Prepared) -> Comparison:
    artifact = recommender.artifact
    ranking = evaluate(artifact.model, data, artifact.config, artifact.training_counts)
    return Comparison(ranking, ranking)


@pytest.fixture(scope="module")
def page(comparison: Comparison, recommender: Recommender, data: Prepared, examined: Examined) -> str:
    epochs = [{"epoch": epoch, "loss": 3.0 / epoch, "ndcg": 0.1 * epoch, "seconds": 1.0} for epoch in (1, 2, 3)]
    report = {
        "data": data.description,
        **comparison.as_dict(),
        "training": {"history": epochs, "best_epoch": 3, "stopped": "max_epochs", "seconds": 3.0},
    }
    return render_model_report(report, recommender.artifact.config, examined)


class Addresses(HTMLParser):
    """Everything that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data"}]


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    parser = Addresses()
    parser.feed(page)
    assert [each for each in parser.found if not each.startswith("#")] == []
    assert {"script", "link", "iframe", "img"}.isdisjoint(parser.tags)
    assert not re.search(r"url\(|@import", page)
    assert len(page.encode()) < 500_000


def test_titles_are_text(page: str) -> None:
    assert "<b>Film" not in page
    assert "&lt;b&gt;Film &amp; " in page


def test_metrics_and_intervals_are_those_of_the_ranking(page: str, comparison: Comparison) -> None:
    gains = ndcg_gains(comparison.model.ranks, 10)
    half = 1.96 * gains.std() / np.sqrt(len(gains))
    assert comparison.as_dict()["intervals"]["model"]["ndcg@10"] == pytest.approx((gains.mean() - half, gains.mean() + half))
    assert f"{gains.mean():.4f} ± {half:.4f}" in page


def test_baselines_and_their_lists_are_in_the_tables(comparison: Comparison, recommender: Recommender) -> None:
    lists = {"length": 10, "coverage": 0.4321, "popularity_lift": -0.1, "diversity": 0.9, "novelty": 7.5}
    ease = {"test": {"ndcg@10": 0.0815}, "lists": lists | {"coverage": 0.125}}
    report = {**comparison.as_dict(), "lists": lists, "baselines": {"ease": ease}}
    report["intervals"] |= {"ease": {"ndcg@10": (0.08, 0.083)}}
    page = render_model_report(report, recommender.artifact.config, None)
    for expected in ("ease", "0.0815 ± 0.0015", "popularity lift", "0.432", "0.125"):
        assert expected in page
    report["baselines"]["ease"] = ease | {"lists": lists | {"diversity": None}}  # unknown for lists of one item
    assert ">-</td>" in render_model_report(report, recommender.artifact.config, None)


def test_recommendations_and_reasons_are_those_of_the_library(examined: Examined, recommender: Recommender) -> None:
    assert len(examined.examples) == 10
    example = examined.examples[0]
    titles = {f"<b>Film & {index}</b>": index for index in range(ITEMS)}
    assert example.last[0] in titles
    history = [int(each) for each in worlds.cycle(30, ITEMS)[int(example.user)]]
    best = recommender.recommend(history, 5)
    assert [each.title for each in example.best.items] == [each.title for each in best.items]
    effects = recommender.explain(history, best.items[0].item).events
    lowest = sorted(event.score_change for event in effects if event.score_change < 0)[:3]
    assert [each.score_change for each in example.reasons] == lowest


def test_every_recommendation_is_counted(examined: Examined, recommender: Recommender) -> None:
    lists = [recommender.recommend(history, 10).items for history in worlds.cycle(30, ITEMS)]
    assert (examined.users, examined.recommended.total) == (30, sum(map(len, lists)))
    assert examined.recommended.items == len({each.item for best in lists for each in best})


def test_a_report_without_data_has_metrics_only(comparison: Comparison, recommender: Recommender) -> None:
    page = render_model_report(comparison.as_dict(), recommender.artifact.config, None)
    assert "Example users" not in page
    assert "NDCG@10" in page


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0213), (0.0, 1.0), (1.0, 20.0), (3.1, 7.9), (0.0, 12345.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = Axis(low, high, 0.0, 1.0).ticks
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= each <= high + 1e-9 for each in ticks)


def test_a_training_of_one_epoch_is_a_point(comparison: Comparison, recommender: Recommender) -> None:
    epoch = {"epoch": 1, "loss": 3.0, "ndcg": 0.0, "seconds": 1.0}
    training = {"history": [epoch], "best_epoch": 1, "stopped": "max_epochs", "seconds": 1.0}
    page = render_model_report({**comparison.as_dict(), "training": training}, recommender.artifact.config, None)
    assert '<circle class="second" cx="62.0" cy="12.0" r="4"/>' in page
