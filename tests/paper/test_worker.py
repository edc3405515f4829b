"""One run of the reproduction harness, in this process."""

import json
from dataclasses import asdict

import numpy as np
import pytest

import worlds
from ssd4rec.evaluation.metrics import ndcg
from ssd4rec.fusion import PAIR_MODELS
from ssd4rec.paper import worker
from ssd4rec.paper.results import Finished


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["sequential-rules", "sequential-ridge", "auto"])
def test_a_network_is_fused_with_the_co_occurrence_model_of_the_settings(tmp_path, chosen):
    """The next item of the cycle is known from pairs, so both models find it."""
    path = tmp_path / "cycle.csv"
    worlds.frame(worlds.cycle()).write_csv(path)
    prepared = worlds.world(worlds.cycle())
    settings = worlds.config().model_dump(mode="json") | {"fusion": {"cooccurrence_model": chosen}}
    spec = worker.RunSpec("", "a", "ssd4rec", str(path), prepared.histories.fingerprint(), str(tmp_path), 1, settings)
    (tmp_path / worker.SPEC).write_text(json.dumps(asdict(spec)))
    worker.run(tmp_path)
    result = Finished.model_validate_json((tmp_path / worker.RESULT).read_text())
    assert result.fusion.cooccurrence_model in ({chosen} if chosen != "auto" else PAIR_MODELS)
    assert result.fusion.test["ndcg@10"] == 1.0


@pytest.mark.parametrize(("model", "fused"), [("sequential-ridge", True), ("ease", False)])
def test_linear_baselines_are_measured_with_their_ranks(tmp_path, model, fused):
    """Kept and excluded, and with a repeat bias where the model has weights for each pair of items."""
    path = tmp_path / "cycle.csv"
    worlds.frame(worlds.cycle()).write_csv(path)
    prepared = worlds.world(worlds.cycle())
    settings = worlds.config().model_dump(mode="json")
    spec = worker.RunSpec("", "a", model, str(path), prepared.histories.fingerprint(), str(tmp_path), None, settings)
    (tmp_path / worker.SPEC).write_text(json.dumps(asdict(spec)))
    worker.run(tmp_path)
    result = Finished.model_validate_json((tmp_path / worker.RESULT).read_text())
    ranks = np.load(tmp_path / worker.RANKS)
    assert set(ranks) == {"model", "model_exclude_seen", *(["fusion"] if fused else [])}
    assert result.test["ndcg@10"] == ndcg(ranks["model"], 10)
    assert bool(result.fusion) == fused
    if model == "sequential-ridge":
        assert result.fusion.cooccurrence_model == model
        assert result.test["ndcg@10"] == 1.0
