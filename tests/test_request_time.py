"""The time of a request: from the data to the training, the metrics and the answers."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import ssd4rec
import worlds
from packed import randomized
from served import recommender
from ssd4rec import cli
from ssd4rec.config import load_config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.out_of_core.build import build_folder
from ssd4rec.data.packing import materialize_batch
from ssd4rec.data.request_times import request_times
from ssd4rec.errors import ConfigError, DataError, ShapeError
from ssd4rec.layers.request_time import DROPPED, GAP_BINS, HOURS, RequestTime, bins_of
from ssd4rec.models.next_item import fingerprint, make_model
from ssd4rec.pipeline import evaluate_artifact, prepare, prepare_folder, train
from ssd4rec.serving.batch import recommend_users
from ssd4rec.training.objective import next_item_loss, plan_pass

START = int(datetime(2024, 5, 6, tzinfo=UTC).timestamp())  # a Monday
SETTINGS = {
    "backbone.request_time": True,
    "backbone.width": 16,
    "backbone.state_dim": 8,
    "data.min_interactions": 1,
    "training.token_budget": 128,
    "training.learning_rate": 2e-2,
    "training.max_epochs": 10,
    "evaluation.cutoffs": (4,),
    "fusion.cooccurrence": 0.0,
    "fusion.repeat_bias": 0.0,
}


def by_hour(users: int = 60, events: int = 10) -> pl.DataFrame:
    """In the morning everybody takes items 0 … 3, in the evening items 4 … 7; who comes when is drawn."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(users):
        for day in range(events):
            is_evening = bool(rng.integers(2))
            second = START + day * 86400 + (19 if is_evening else 8) * 3600 + int(rng.integers(3600))
            rows.append((user, int(rng.integers(4)) + 4 * is_evening, second))
    return pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")


def settings(**more: object):
    chosen = SETTINGS | {"evaluation.cutoffs": [4]} | more
    return load_config("quick", [f"{name}={str(value).lower()}" for name, value in chosen.items()])


def ids(recommendations) -> list[object]:
    return [each.item for each in recommendations.items]


@pytest.fixture(scope="module")
def model():
    return ssd4rec.train(by_hour(), config="quick", settings=SETTINGS)


def test_bins_are_those_of_the_calendar():
    """Two gap bins an octave, the hour and the weekday, worked out one at a time."""
    rng = np.random.default_rng(0)
    gaps = np.concatenate([np.arange(40), rng.integers(0, 2**31, 60)]).tolist()
    moments = (START + rng.integers(-(10**9), 10**9, 100)).tolist()
    rows = []
    for gap, moment in zip(gaps, moments, strict=True):
        clock = datetime.fromtimestamp(moment, UTC)
        weekday = (clock.weekday() - datetime.fromtimestamp(0, UTC).weekday()) % 7  # day 0 is a Thursday
        rows.append([min(int(2 * math.log2(1 + gap)), GAP_BINS - 1), GAP_BINS + clock.hour, GAP_BINS + HOURS + weekday])
    assert bins_of(torch.tensor([gaps, moments]).T).tolist() == rows


def test_a_state_is_scaled_and_shifted():
    """At the start a state stays what it is; later it is state * (1 + scale) + shift, and unchanged where the time is unknown."""
    states, times = (
        torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[0, START], [-1, 0], [90, START]]),
    )
    layer = RequestTime(4).eval()
    assert torch.equal(layer(states, times), states)
    randomized(layer)
    actual = layer.float()(states, times)
    for row, bins in enumerate(bins_of(times).tolist()):
        scale, shift = sum(layer.table.weight[each] for each in bins).chunk(2)
        torch.testing.assert_close(actual[row], states[row] * (1 + scale) + shift if row != 1 else states[row])


def test_training_also_teaches_answers_without_a_time():
    """In training a share of the states stays as it is."""
    layer = randomized(RequestTime(4)).float().train()
    torch.manual_seed(0)
    states = layer(torch.ones(4000, 4), torch.tensor([[60, START]]).expand(4000, 2))
    assert abs(float((states == 1).all(1).float().mean()) - DROPPED) < 0.03


@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
def test_each_target_is_predicted_at_its_time(objective):
    """The loss of a batch is that of its prefixes, encoded one at a time and put at the times of their next events."""
    config = settings(**{"training.objective": objective, "training.mask_ratio": 0.0, "backbone.dropout": 0.0})
    data = prepare(read_interactions(by_hour(users=3)), None, config)
    model = randomized(make_model(config, len(data.catalog))).eval()
    plan = plan_pass(data.split.train, config.training, epoch=0)
    batch = materialize_batch(data.histories, plan.examples, plan.batches[0], request_times=True)
    actual = next_item_loss(model, batch, config.training)
    losses, sequences = [], data.histories
    for row in plan.batches[0].rows:
        start, first, stop = (int(each[row]) for each in (plan.examples.start, plan.examples.first_target, plan.examples.stop))
        for target in range(first, stop):
            items = torch.from_numpy(sequences.items[start:target].astype(np.int64))
            moment = int(sequences.times[target])
            times = torch.tensor([[moment - int(sequences.times[target - 1]), moment]])
            state = model.request_time(model.encode(items, torch.tensor([0, len(items)])), times)
            losses.append(model.loss(state, torch.tensor([int(sequences.items[target])])))
    torch.testing.assert_close(actual, torch.stack(losses).mean(), rtol=1e-6, atol=0)
    gradient = torch.autograd.grad(actual, model.request_time.table.weight)[0]
    expected = torch.autograd.grad(torch.stack(losses).mean(), model.request_time.table.weight)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.thorough
def test_the_gain_comes_from_the_time_of_the_own_request(model):
    """With its hour the group of the next item is known; without it, or with the hour of another request, it is a guess."""
    known, unknown, shuffled = (model.report["request_time"][name]["hr@4"] for name in ("known", "unknown", "shuffled"))
    assert model.report["protocol"]["request_time"] == "known"
    assert model.report["test"]["hr@4"] == known
    assert known > 0.9
    assert max(unknown, shuffled) < 0.7


def test_shuffled_times_are_those_of_the_others():
    """The control permutes the times, and tells nothing with "unknown"."""
    data = prepare(read_interactions(by_hour(users=6)), None, settings())
    single = data.split.test.prefixes()
    known, shuffled = (request_times(data.histories, single, each) for each in ("known", "shuffled"))
    assert sorted(map(tuple, known)) == sorted(map(tuple, shuffled))
    assert (known != shuffled).any()
    assert known[:, 1].tolist() == data.histories.times[single.first_target].tolist()
    assert request_times(data.histories, single, "unknown").tolist() == [[-1, 0]] * 6


@pytest.mark.thorough
def test_answers_at_a_time(model, tmp_path):
    """`at` changes the order of the items; moments of all kinds are the same moment, and a file has its own last events."""
    morning, evening = (
        model.recommend([0, 5, 1], k=4, exclude_seen=False, at=at, last_event="2024-05-20T20:00")
        for at in ("2024-05-21T08:30", datetime(2024, 5, 21, 19, 30))
    )
    assert set(ids(morning)) == {0, 1, 2, 3}
    assert set(ids(evening)) == {4, 5, 6, 7}
    seconds = int(datetime(2024, 5, 21, 19, 30, tzinfo=UTC).timestamp())
    both = model.recommend([[0, 5, 1]] * 2, k=4, exclude_seen=False, at=seconds, last_event=["2024-05-20T20:00"] * 2)
    assert [ids(each) for each in both] == [ids(evening)] * 2

    frame = by_hour(users=3)
    recommend_users(model, frame, tmp_path / "out.csv", k=4, exclude_seen=False, at="2024-06-01T08:30")
    written = pl.read_csv(tmp_path / "out.csv")
    assert set(written["item_id"]) == {0, 1, 2, 3}
    first = frame.filter(pl.col("user_id") == 0).sort("timestamp")
    alone = model.recommend(
        first["item_id"].to_list(), k=4, exclude_seen=False, at="2024-06-01T08:30", last_event=int(first["timestamp"][-1])
    )
    assert written.filter(pl.col("user_id") == 0)["item_id"].to_list() == ids(alone)


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ({"at": "2024-05-21"}, ConfigError, "`last_event` is missing"),
        ({"last_event": "2024-05-21"}, ConfigError, "`at` is missing"),
        ({"at": "2024-05-21", "last_event": "2024-05-22"}, DataError, "request 1 of 1 is 86,400 seconds before the last event"),
        ({"at": "tomorrow", "last_event": 0}, DataError, "cannot read the moment 'tomorrow'"),
        ({"at": 1_716_300_000_000, "last_event": 0}, DataError, "convert it to seconds"),
        ({"at": math.nan, "last_event": 0}, DataError, "expected a datetime"),
        ({"at": [1, 2], "last_event": 0}, ShapeError, "one for each of the 1 histories, found 2"),
    ],
)
def test_bad_times(times, error, message):
    """A time that is missing, too early or not a time is one clear error."""
    with pytest.raises(error, match=message):
        recommender(request_time=True).recommend([0, 5], **times)


def test_a_model_that_does_not_read_times_says_so():
    """`at` is refused, not ignored."""
    with pytest.raises(ConfigError, match="does not read the time of a request"):
        recommender().recommend([0], at=START, last_event=START)


def test_data_without_times_cannot_train_it():
    """Plain numbers are no calendar."""
    with pytest.raises(ConfigError, match="needs data with times of a calendar, and these have number instead"):
        ssd4rec.train(worlds.frame(worlds.cycle()), settings=SETTINGS)


@pytest.mark.thorough
def test_data_without_times_are_evaluated_without_them(model):
    """A model that reads times is measured on rows in order if none are asked for; otherwise the error says how."""
    rows = read_interactions(by_hour().drop("timestamp"))
    with pytest.raises(ConfigError, match=r"evaluation\.request_time = unknown"):
        evaluate_artifact(model.artifact, rows, model.artifact.config)
    config = model.artifact.config
    unknown = config.evaluation.model_copy(update={"request_time": "unknown"})
    report = evaluate_artifact(model.artifact, rows, config.model_copy(update={"evaluation": unknown}))
    assert report["protocol"]["request_time"] == "unknown"
    assert "request_time" not in report
    assert report["test"] == pytest.approx(dict(model.report["request_time"]["unknown"]))


@pytest.mark.thorough
def test_the_command_line(model, tmp_path):
    """`recommend --at` answers like the library, and `evaluate` shows what the time is worth."""
    model.save(tmp_path / "model")
    by_hour().write_csv(tmp_path / "log.csv")

    def run(*arguments: str):
        return CliRunner().invoke(cli.app, [arguments[0], str(tmp_path / "model"), *arguments[1:]])

    options = ("--at", "2024-05-21T08:30", "--last-event", "2024-05-20T20:00", "-k", "4", "--keep-seen")
    expected = model.recommend([0, 5], k=4, exclude_seen=False, at="2024-05-21T08:30", last_event="2024-05-20T20:00")
    result = run("recommend", "--history", "0,5", *options, "--json")
    assert [row["item"] for row in json.loads(result.stdout)["recommendations"]] == ids(expected)
    table = run("evaluate", str(tmp_path / "log.csv"), "--set", "evaluation.request_time=shuffled").stdout
    assert "request_time shuffled" in " ".join(table.split())
    assert "by the times of the requests" in " ".join(table.split())


@pytest.mark.thorough
@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
def test_training_from_a_folder_of_sequences(tmp_path, objective):
    """The folder keeps the times: losses and metrics are those of the file, to the last digit."""
    by_hour(users=20).write_parquet(tmp_path / "log.parquet")
    build_folder([tmp_path / "log.parquet"], tmp_path / "sequences", memory=10**6, min_interactions=1)
    config = settings(**{"training.max_epochs": 3, "training.objective": objective})
    sources = (
        prepare(read_interactions(tmp_path / "log.parquet"), None, config),
        prepare_folder(tmp_path / "sequences", None, config),
    )
    of_file, of_folder = (train(prepared, config) for prepared in sources)
    assert of_folder.report["test"] == of_file.report["test"]
    assert of_folder.report["request_time"] == of_file.report["request_time"]
    assert fingerprint(of_folder.model) == fingerprint(of_file.model)
    assert of_file.model.request_time.table.weight.abs().max() > 0
