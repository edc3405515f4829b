"""Exported graphs against the library, item vectors, and the hub's mixin on local folders."""

import importlib
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import worlds
from ssd4rec.artifact import Artifact, load_artifact, save_artifact
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import DataConfig, GRU4RecConfig, SSD4RecConfig
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ConfigError, DivergedError
from ssd4rec.export import dense, onnx
from ssd4rec.export.dense import ReadOutGraph, StepGraph
from ssd4rec.export.onnx import export_read_out, export_step
from ssd4rec.export.vectors import export_item_vectors
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import make_model
from ssd4rec.serving.recommender import Recommender

VARIANTS = {
    "top": {"layers": 2, "bidirectional": "top"},
    "all": {"layers": 2, "bidirectional": "all"},
    "mirrored": {"layers": 2, "bidirectional": "all", "mirror_back": True},
    "one layer": {"layers": 1},
    "forwards": {"layers": 2, "bidirectional": "none"},
    "without normed embedding": {"layers": 1, "norm_embedding": False, "feed_forward": False},
    "norm first": {"layers": 2, "norm_first": True},
    "regularized": {"layers": 1, "norm_first": True, "input_fade": 0.7, "input_skip": True, "repeat_logits": "popularity"},
    "fading sum around": {"layers": 1, "input_fade": 0.7, "input_skip": True, "fade_skip_only": True},
    "repeat bias": {"layers": 1, "repeat_logits": "bias"},
    "request time": {"layers": 2, "bidirectional": "top", "request_time": True},
    "members": {"layers": 2, "members": 2, "input_fade": 0.7, "input_skip": True, "repeat_logits": "popularity"},
}


def artifact_of(variant="top", max_length=None, backbone=None):
    config = worlds.config()
    backbone = backbone or SSD4RecConfig(width=32, state_dim=16, head_width=16, dropout=0.1, **VARIANTS[variant])
    config = config.model_copy(update={"backbone": backbone, "data": DataConfig(min_interactions=1, max_length=max_length)})
    world = worlds.world(worlds.cycle())
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    model = make_model(config, len(world.catalog))
    with torch.no_grad():
        for parameter in model.parameters():  # larger than initial weights: the test shall see differences
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.2)
    return Artifact(model.eval(), world.catalog, config, {}, counts)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [1, 2, 5, 300])
def test_the_dense_form_is_the_model(variant, length):
    artifact = artifact_of(variant)
    items = torch.randint(1, 13, (length,), generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        states = artifact.model.encode(items, torch.tensor([0, length]))
        expected = artifact.model.score(states, (items, torch.tensor([0, length])))[0]
        torch.testing.assert_close(ReadOutGraph(artifact.model)(items), expected, atol=1e-5, rtol=1e-5)


def test_the_dense_form_at_a_time():
    """The same bins as the layer's, at every edge between two of them, for moments before and after 1970."""
    layer = artifact_of("request time").model.request_time
    edges = [max(0, round(2 ** (half / 2)) + more) for half in range(70) for more in (-3, -2, -1, 0, 1)]
    moments = torch.randint(-(10**10), 10**10, (len(edges) + 1,), generator=torch.Generator().manual_seed(0))
    times = torch.stack([torch.tensor([-1, *edges]), moments], dim=1)
    states = torch.randn(len(times), 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(dense._at(layer, states, times), layer(states, times))


def test_other_backbones_are_refused():
    artifact = artifact_of(backbone=GRU4RecConfig())
    with pytest.raises(ConfigError, match="GRU4Rec cannot be exported"):
        ReadOutGraph(artifact.model)
    with pytest.raises(ConfigError, match="needs causal layers below the top"):
        StepGraph(artifact_of("all").model)
    with pytest.raises(ConfigError, match="export the read-out graph"):
        StepGraph(artifact_of("regularized").model)


def with_fusion(weight, repeat_bias):
    artifact = artifact_of("one layer", max_length=20)
    rules = SequentialRules.nothing(len(artifact.catalog))
    return replace(artifact, fusion=ScoreFusion(rules, weight, repeat_bias))


def test_a_repeat_bias_is_part_of_the_dense_form():
    """Once for each item of the whole history, as fusion adds it."""
    artifact = with_fusion(0.0, -3.0)
    items = torch.randint(1, 13, (30,), generator=torch.Generator().manual_seed(1)).clamp(max=9)
    with torch.inference_mode():
        plain, fused = ReadOutGraph(artifact.model, 20)(items), ReadOutGraph(artifact.model, 20, repeat_bias=-3.0)(items)
    expected = plain.clone()
    expected[items.unique() - 1] -= 3.0
    torch.testing.assert_close(fused, expected)


def test_fusion_that_a_graph_cannot_have_is_refused(tmp_path):
    """Before anything is exported; the error says how to go on."""
    for fusion, export, message in (
        (with_fusion(0.5, 0.0), export_read_out, "co-occurrence counts cannot be part of a graph.*--without-fusion"),
        (with_fusion(0.5, 0.0), export_step, "with a weight of 0.5"),
        (with_fusion(0.0, -1.0), export_step, r"a state does not list the items.*\(-1\).*--without-fusion"),
    ):
        with pytest.raises(ConfigError, match=message):
            export(fusion, tmp_path / "model.onnx")


@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.slow
def test_a_graph_with_repeat_bias(tmp_path):
    """The check in onnxruntime compares with the library's scores and the bias."""
    pytest.importorskip("onnxruntime")
    assert export_read_out(with_fusion(0.0, -3.0), tmp_path / "model.onnx") <= 1e-5


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize(
    ("variant", "max_length", "k"),
    [("top", None, None), ("all", 20, None), ("mirrored", None, 3), ("regularized", 20, None), ("members", None, 3)],
)
def test_the_read_out_graph_in_onnxruntime(tmp_path, variant, max_length, k):
    runtime = pytest.importorskip("onnxruntime")
    artifact = artifact_of(variant, max_length)
    assert export_read_out(artifact, tmp_path / "model.onnx", k) <= 1e-5
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    items = np.random.default_rng(1).integers(1, 13, 77)
    inputs, at = {session.get_inputs()[0].name: items}, {}
    if artifact.model.request_time is not None:
        at = {"at": 1_715_000_000, "last_event": 1_714_990_000}
        inputs["times"] = np.array([[10_000, 1_715_000_000]])
    outputs = session.run(None, inputs)
    ids = artifact.catalog.ids_of(items).to_list()
    expected = {each.item: each.score for each in Recommender(artifact).recommend(ids, 12, exclude_seen=False, **at).items}
    indices = np.arange(1, 13) if k is None else outputs[0]
    scores = dict(zip(artifact.catalog.ids_of(indices).to_list(), outputs[-1].tolist(), strict=True))
    assert len(scores) == (k or 12)
    assert all(abs(score - expected[item]) <= 1e-5 for item, score in scores.items())
    if k is not None:
        assert list(scores) == list(expected)[:k]


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("variant", ["top", "forwards", "request time"])
def test_the_state_step_in_onnxruntime(tmp_path, variant):
    pytest.importorskip("onnxruntime")
    assert export_step(artifact_of(variant), tmp_path / "step.onnx") <= 1e-5
    with pytest.raises(ConfigError, match="max_length"):
        export_step(artifact_of(variant, 5), tmp_path / "cut.onnx")
    assert not (tmp_path / "cut.onnx").exists()


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_a_graph_with_scores_that_are_no_numbers_is_not_written(tmp_path, monkeypatch):
    """One NaN among the differences is an error, whatever the others are."""
    pytest.importorskip("onnxruntime")
    scores = onnx._library_scores
    monkeypatch.setattr(onnx, "CHECKED_LENGTHS", (3, 4, 5))
    monkeypatch.setattr(onnx, "_library_scores", lambda *args: scores(*args) * np.float32(np.nan if len(args[1]) == 4 else 1.0))
    with pytest.raises(DivergedError, match="differs from the model by nan"):
        export_read_out(artifact_of(), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_item_vectors(tmp_path):
    artifact = artifact_of()
    assert export_item_vectors(artifact, tmp_path / "vectors.parquet") == 12
    frame = pl.read_parquet(tmp_path / "vectors.parquet")
    assert frame.columns == ["id", "vector"]
    assert frame["id"].to_list() == artifact.catalog.ids.to_list()
    np.testing.assert_array_equal(frame["vector"].to_numpy(), artifact.model.item_vectors.detach().numpy())


@pytest.mark.thorough
def test_the_hub_mixin_on_a_local_folder(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    recommender = importlib.import_module("ssd4rec.export.hub").HubRecommender
    artifact = artifact_of()
    save_artifact(tmp_path / "model", artifact.model, artifact.catalog, artifact.config, {}, artifact.training_counts)
    shared = recommender.load(tmp_path / "model")
    shared.save_pretrained(tmp_path / "shared")
    again = recommender.from_pretrained(str(tmp_path / "shared"))
    assert again.recommend([1, 2, 3]) == shared.recommend([1, 2, 3])
    assert load_artifact(tmp_path / "shared").config == artifact.config
    assert (tmp_path / "shared" / "README.md").is_file()

    uploaded = {}

    class Hub:
        """The calls of the mixin, which write nowhere."""

        def __init__(self, token=None):
            del token

        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, folder_path, repo_id, **_):
            uploaded[repo_id] = sorted(path.name for path in folder_path.iterdir())

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    shared.push_to_hub("someone/model")
    assert {"manifest.json", "weights.safetensors", "README.md"} <= set(uploaded["someone/model"])
