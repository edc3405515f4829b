"""The whole path: from a table of interactions to an evaluated model.

    data = prepare(interactions, titles, config)
    fitted = fit(data, config)
    fusion = tune(fitted.model, data, config)
    ranking = evaluate(fitted.model, data, config, fitted.counts, fusion)
    save_artifact(out, ...)

`train` composes the stages. Each stage returns a value and writes nothing but checkpoints and log messages.
"""

from ssd4rec.pipeline.measurement import Comparison, compare, evaluate, evaluate_artifact
from ssd4rec.pipeline.preparation import (
    Prepared,
    add_features,
    default_config,
    describe_pass,
    prepare,
    prepare_folder,
    prepare_parts,
)
from ssd4rec.pipeline.training import count_sequential_rules, fit, train, tune

__all__ = [
    "Comparison",
    "Prepared",
    "add_features",
    "compare",
    "count_sequential_rules",
    "default_config",
    "describe_pass",
    "evaluate",
    "evaluate_artifact",
    "fit",
    "prepare",
    "prepare_folder",
    "prepare_parts",
    "train",
    "tune",
]
