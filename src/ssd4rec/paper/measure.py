"""What is measured of each model beside its figures: with a fusion, with seen items removed; and what needs no model."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ssd4rec import pipeline
from ssd4rec._csr import IntArray
from ssd4rec._io import write_atomically
from ssd4rec.baselines.popularity import Popularity
from ssd4rec.config import Config
from ssd4rec.evaluation.evaluate import Ranker, Scorer
from ssd4rec.evaluation.tune_fusion import ZeroScorer, tune_fusion
from ssd4rec.fusion import ScoreFusion
from ssd4rec.paper.runs import RESULT, counted_in, keep_ranks


class Measure:
    """Ranks the test part with seen items among the candidates, and without; keeps the ranks of the first as `NAME.npy`.

    Args:
        data: histories and their split.
        config: the protocol.
        counts: [V + 1] training events of each item number.
    """

    def __init__(self, data: pipeline.Prepared, config: Config, counts: IntArray) -> None:
        self.data, self.config, self.counts = data, config, counts
        self.counted = pipeline.count_sequential_rules(data)

    def figures(self, folder: Path, name: str, model: Ranker | Scorer, fusion: ScoreFusion | None = None) -> dict[str, Any]:
        """Of one model: `test`, and `seen_removed`."""
        ranking = pipeline.measure(model, self.data, self.config, self.counts, fusion=fusion)
        keep_ranks(folder, f"{name}.npy", ranking.ranks)
        return {"test": ranking.as_dict(), **self.seen_removed(model, fusion)}

    def seen_removed(self, model: Ranker | Scorer, fusion: ScoreFusion | None = None) -> dict[str, Any]:
        """The other protocol; nothing where it is the one that was asked for."""
        if self.config.evaluation.exclude_seen:
            return {}
        removed = self.config.model_copy(update={"evaluation": self.config.evaluation.model_copy(update={"exclude_seen": True})})
        return {"seen_removed": pipeline.measure(model, self.data, removed, self.counts, fusion=fusion).as_dict()}

    def with_fusion(self, folder: Path, name: str, model: Ranker, **limits: Any) -> dict[str, Any]:
        """Of one model with the fusion that validation chooses out of `limits`."""
        asked = (self.counted, self.data.histories, self.data.split.validation)
        chosen = self.config.evaluation
        fusion = tune_fusion(model, *asked, exclude_seen=chosen.exclude_seen, token_budget=chosen.token_budget, **limits).fusion
        return {"cooccurrence": fusion.weight, "repeat_bias": fusion.repeat_bias, **self.figures(folder, name, model, fusion)}


def count(measure: Measure, folder: Path) -> None:
    """What is not learned is the same in every run: the first one of a data set and protocol measures it.

    The folder appears whole or not at all; of two runs that measure at once the first one's stays.
    """
    if counted_in(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    silent = ZeroScorer(len(measure.data.catalog))  # beside it, the weight of counts changes no rank
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        found = {
            "popularity": measure.figures(whole, "popularity", Popularity(measure.counts)),
            "cooccurrence": {
                **measure.figures(whole, "cooccurrence", measure.counted),
                "with_fusion": measure.with_fusion(whole, "transitions_with_fusion", silent, weights=(1.0,)),
            },
        }
        write_atomically(whole / RESULT, json.dumps(found))
        if folder.is_dir() and not counted_in(folder):
            shutil.rmtree(folder)  # somebody took away what says that it is whole
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
