"""What is measured of each model beside its figures: with a prior, with seen items removed; and what needs no model."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ssd4rec import experiment
from ssd4rec.backbones.popularity import Popularity
from ssd4rec.backbones.prior import Prior
from ssd4rec.config import Config
from ssd4rec.evaluation.evaluate import Ranker, Scorer
from ssd4rec.evaluation.prior import Silent, choose_prior
from ssd4rec.files import write_whole
from ssd4rec.ragged import Numbers
from ssd4rec.reproduce.runs import RESULT, counted_in, keep_ranks


class Measure:
    """Ranks the test part with seen items among the candidates, and without; keeps the ranks of the first as `NAME.npy`.

    Args:
        data: histories and their split.
        config: the protocol.
        counts: [V + 1] training events of each item number.
    """

    def __init__(self, data: experiment.Prepared, config: Config, counts: Numbers) -> None:
        self.data, self.config, self.counts = data, config, counts
        self.counted = experiment.count_transitions(data)

    def figures(self, folder: Path, name: str, model: Ranker | Scorer, prior: Prior | None = None) -> dict[str, Any]:
        """Of one model: `test`, and `seen_removed`."""
        ranking = experiment.measure(model, self.data, self.config, self.counts, prior=prior)
        keep_ranks(folder, f"{name}.npy", ranking.ranks)
        return {"test": ranking.as_dict(), **self.seen_removed(model, prior)}

    def seen_removed(self, model: Ranker | Scorer, prior: Prior | None = None) -> dict[str, Any]:
        """The other protocol; nothing where it is the one that was asked for."""
        if self.config.evaluation.seen == "filtered":
            return {}
        removed = self.config.model_copy(update={"evaluation": self.config.evaluation.model_copy(update={"seen": "filtered"})})
        return {"seen_removed": experiment.measure(model, self.data, removed, self.counts, prior=prior).as_dict()}

    def with_prior(self, folder: Path, name: str, model: Ranker, **limits: Any) -> dict[str, Any]:
        """Of one model with the prior that validation chooses out of `limits`."""
        asked = (self.counted, self.data.histories, self.data.split.validation)
        chosen = self.config.evaluation
        prior = choose_prior(model, *asked, seen=chosen.seen, token_budget=chosen.token_budget, **limits).prior
        return {"transitions": prior.weight, "repeats": prior.repeats, **self.figures(folder, name, model, prior)}


def count(measure: Measure, folder: Path) -> None:
    """What is not learnt is the same in every run: the first one of a data set and protocol measures it.

    The folder appears whole or not at all; of two runs that measure at once the first one's stays.
    """
    if counted_in(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    silent = Silent(len(measure.data.catalogue))  # beside it, the weight of counts changes no rank
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        found = {
            "popularity": measure.figures(whole, "popularity", Popularity(measure.counts)),
            "transitions": {
                **measure.figures(whole, "transitions", measure.counted),
                "with_prior": measure.with_prior(whole, "transitions_with_prior", silent, weights=(1.0,)),
            },
        }
        write_whole(whole / RESULT, json.dumps(found))
        if folder.is_dir() and not counted_in(folder):
            shutil.rmtree(folder)  # somebody took away what says that it is whole
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
