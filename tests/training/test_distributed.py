"""Training with several processes: the same history, weights and metrics, whatever their number."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import worlds
from ssd4rec.config import Config, DataConfig, TrainingConfig
from ssd4rec.data.packing import materialize_batch
from ssd4rec.distributed import World
from ssd4rec.errors import ConfigError, DivergedError
from ssd4rec.evaluation.ranks import rank_examples
from ssd4rec.evaluation.sharded_ranks import rank_examples_sharded
from ssd4rec.models.next_item import make_model
from ssd4rec.ops import keyed_random
from ssd4rec.ops.dropout import dropout
from ssd4rec.training import loop
from ssd4rec.training.objective import plan_pass, prepare
from ssd4rec.training.sharing import share_of, stream_keys

WORKER = Path(__file__).with_name("distributed_worker.py")
SOURCES = [str(Path(__file__).parents[2] / "src"), str(Path(__file__).parents[1])]


@pytest.mark.thorough
@pytest.mark.parametrize("objective", ["all-positions", "per-prefix", "masked-item"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_hold_every_example_once_with_its_own_keys(objective, size):
    """Of each batch; the positions of an example have the keys that they have in the whole batch, and no two examples share."""
    data = worlds.world([*worlds.cycle(users=40), [event % 12 for event in range(300)]])
    config = TrainingConfig(objective=objective, token_budget=512)
    plan = plan_pass(data.split.train, config, epoch=1)
    for placed in plan.batches:
        whole = keys_of(data, plan, placed, config)
        assert len({key for keys in whole.values() for key in keys}) == sum(map(len, whole.values()))
        shares = [share_of(placed, plan.examples.lengths, config.token_budget, World(rank, size)) for rank in range(size)]
        assert sorted(row for share in shares for row in share.rows.tolist()) == sorted(placed.rows.tolist())
        for share in shares:
            if len(share.rows):
                assert keys_of(data, plan, share, config).items() <= whole.items()


def keys_of(data, plan, placed, config):
    """Return the keys of each example."""
    batch = prepare(materialize_batch(data.histories, plan.examples, placed), config)
    keys = stream_keys(plan.examples, placed, batch.cu_seqlens, (7, 1))
    assert len(keys) == len(batch.items)
    bounds = batch.cu_seqlens.tolist()
    extra = np.arange(len(bounds)) if config.objective == "masked-item" else np.zeros(len(bounds), dtype=int)
    sequence = {bounds[i] - int(extra[i]): i for i in range(len(bounds) - 1)}  # by its first position before the appended ones
    result = {}
    for row, start in zip(placed.rows.tolist(), placed.start.tolist(), strict=True):
        index = sequence[start]
        result[row] = tuple(keys[bounds[index] : bounds[index + 1]].tolist())
    return result


def test_shares_are_balanced():
    """Many short sequences: no process has more than a chunk above the others."""
    data = worlds.world(worlds.cycle(users=400))
    plan = plan_pass(data.split.train, TrainingConfig(token_budget=2048), epoch=0)
    for placed in plan.batches[:-1]:
        sizes = [share_of(placed, plan.examples.lengths, 2048, World(rank, 3)).size for rank in range(3)]
        assert max(sizes) - min(sizes) <= 64


def test_keyed_dropout_follows_the_rows():
    """Rows in another order, and a part of them, are dropped as they are in the whole; other draws and keys differ."""
    keys = torch.arange(1000) * 7919
    x = torch.ones(1000, 10, dtype=torch.float64)
    with keyed_random.keyed(keys):
        first, second = dropout(x, 0.3, training=True), dropout(x, 0.3, training=True)
    order = torch.randperm(1000)[:300]
    with keyed_random.keyed(keys[order]):
        again = dropout(x[:300], 0.3, training=True)
    assert torch.equal(again, first[order])
    assert not torch.equal(first, second)
    assert float((first == 0).double().mean()) == pytest.approx(0.3, abs=0.02)
    for part in (first[:-1] == first[1:], first[:, :-1] == first[:, 1:], first == second):  # as independent draws agree
        assert float(part.double().mean()) == pytest.approx(0.58, abs=0.03)
    with keyed_random.keyed(keys):
        uniform = keyed_random.uniform(torch.Size([1000, 50]), keys.device)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(uniform.std()) == pytest.approx(12**-0.5, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "backbone", "message"),
    [
        ({}, {}, "needs training.random_numbers"),
        ({"random_numbers": "sequence"}, {"name": "gru4rec", "layers": 2}, "several GRU layers"),
    ],
)
def test_settings_that_depend_on_the_number_of_processes_are_refused(monkeypatch, settings, backbone, message):
    config = worlds.config(**settings)
    config = type(config).model_validate({**config.model_dump(mode="json"), **({"backbone": backbone} if backbone else {})})
    data = worlds.world(worlds.cycle(users=20))
    monkeypatch.setattr(loop, "current_world", lambda: World(0, 2))
    with pytest.raises(ConfigError, match=message):
        loop.fit(make_model(config, len(data.catalog)), data.histories, data.split, config.training)


def run_group(folder, size, *arguments):
    """Run the worker in a group of processes; return the results of the first, after comparing them with the others'."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), *arguments],
            env={**os.environ, **group_environment(rank, size, port)},
        )
        for rank in range(size)
    ]
    assert [process.wait(timeout=400) for process in processes] == [0] * size
    results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    assert all(result == results[0] for result in results)
    return results[0]


def group_environment(rank, size, port):
    return {
        "PYTHONPATH": os.pathsep.join(SOURCES),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
    }


def assert_equal(ours, theirs):
    """Histories and weights to 1e-10, ranks and metrics exactly."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name]["ranks"] == theirs[name]["ranks"], name
        for epoch, expected in zip(ours[name]["history"], theirs[name]["history"], strict=True):
            assert epoch[0] == pytest.approx(expected[0], abs=1e-10), name
            assert epoch[1] == expected[1], name
        for key, weights in theirs[name]["weights"].items():
            np.testing.assert_allclose(ours[name]["weights"][key], weights, rtol=0, atol=1e-7, err_msg=f"{name}: {key}")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return run_group(tmp_path_factory.mktemp("one"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_history_weights_and_metrics_do_not_depend_on_the_number_of_processes(one_process, tmp_path, size):
    """Every model and objective, with dropout, masks, an average, sparse updates and a sequence longer than a batch."""
    assert_equal(run_group(tmp_path, size), one_process)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_sharded_item_table_ends_with_the_same_weights(one_process, tmp_path, size):
    """Every model and objective, next to one process with the whole table; saved tensors have its shapes."""
    assert_equal(run_group(tmp_path, size, "--shard"), one_process)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("gru4rec, sparse updates", ["--shard"], []), ("ssd4rec per prefix, averaged", [], ["--shard"])],
)
def test_a_training_resumes_with_and_without_shards(one_process, tmp_path, name, first, second):
    """Begun by two and interrupted, continued by three."""
    assert run_group(tmp_path, 2, "--only", name, "--stop", "1", *first) == {}
    assert_equal(run_group(tmp_path, 3, "--only", name, "--resume", *second), {name: one_process[name]})


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings",
    [{"softmax": "full"}, {"softmax": "sampled"}, {"softmax": "full", "label_smoothing": 0.1, "repeat_logits": "popularity"}],
)
def test_a_table_of_one_shard_trains_like_a_table(settings):
    data, results = worlds.world(worlds.cycle(users=20)), []
    logits = settings.pop("repeat_logits", "none")
    for shard in (False, True):
        options = {**settings, "negatives": 7, "precision": "64-true", "max_epochs": 1, "shard_item_table": shard}
        config = worlds.config(**options)
        config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"repeat_logits": logits})})
        model = make_model(config, len(data.catalog), world=World() if shard else None)
        report = loop.fit(model, data.histories, data.split, config.training)
        results.append((report.history[0].loss, model.state_dict()))
    (loss, weights), (sharded_loss, sharded) = results
    assert sharded_loss == pytest.approx(loss, abs=1e-10)
    assert sharded.keys() == weights.keys()
    for name, expected in weights.items():
        torch.testing.assert_close(sharded[name], expected, rtol=0, atol=1e-7)


def test_item_features_are_refused_with_shards():
    config = worlds.config(shard_item_table=True)
    data = worlds.world(worlds.cycle(users=20))
    model = make_model(config, len(data.catalog))
    model.features = torch.nn.Identity()
    with pytest.raises(ConfigError, match="does not support item features"):
        loop.fit(model, data.histories, data.split, config.training)


@pytest.mark.slow
def test_a_training_resumes_with_another_number_of_processes(one_process, tmp_path):
    """Begun by two and interrupted in the second epoch, continued by three: as if it had been one all along."""
    name = "ssd4rec"
    assert run_group(tmp_path, 2, "--only", name, "--stop", "1") == {}
    assert (tmp_path / "checkpoints" / name / "last.safetensors").is_file()
    assert_equal(run_group(tmp_path, 3, "--only", name, "--resume"), {name: one_process[name]})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_killed_process_ends_all_with_one_clear_error(tmp_path):
    """Within a minute; the error says which process was lost, and how to go on."""
    worlds.frame(worlds.cycle(users=300)).write_csv(tmp_path / "plays.csv")
    settings = ["data.min_interactions=1", "training.teachers=0", "training.max_epochs=1000", "training.patience=1000"]
    settings += ["training.token_budget=256"]
    command = [sys.executable, "-m", "ssd4rec", "train", str(tmp_path / "plays.csv"), "--devices", "2"]
    command += ["--out", str(tmp_path / "model"), *(part for each in settings for part in ("--set", each))]
    environment = {**os.environ, "PYTHONPATH": SOURCES[0], "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    checkpoint = tmp_path / "model.training" / "last.safetensors"
    deadline = time.monotonic() + 240
    while not checkpoint.is_file():
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 2
    assert "process 0 of 2 lost contact with another one, so all of them stop" in errors
    assert "run the same command again with --resume" in errors
    assert "process 1 of 2 was killed by SIGKILL" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("repeat_logits", ["none", "recency"])
def test_ranks_of_a_sharded_table_are_those_of_the_table(repeat_logits):
    """The mask is left out, a target counts itself, and scores that are not finite are an error."""
    backbone = {"name": "sasrec", "max_length": 20, "width": 8, "repeat_logits": repeat_logits}
    config = Config.model_validate({"data": DataConfig(min_interactions=1), "backbone": backbone})
    data = worlds.world(worlds.cycle(users=30), config)
    whole, sharded = (make_model(config, len(data.catalog), world=each).double() for each in (None, World()))
    sharded.load_state_dict(whole.state_dict())
    if whole.repeat_logits is not None:
        for model in (whole, sharded):
            torch.nn.init.constant_(model.repeat_logits.weight, -0.3)
    arguments = data.histories, data.split.validation.prefixes(), 64
    ranks = rank_examples_sharded(sharded, *arguments, World())
    assert ranks.tolist() == rank_examples(whole, *arguments).tolist()
    assert len(set(ranks.tolist())) > 1
    with torch.no_grad():
        sharded.table.weight[3] = torch.nan
    with pytest.raises(DivergedError, match="not finite"):
        rank_examples_sharded(sharded, *arguments, World())
