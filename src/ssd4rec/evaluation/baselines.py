"""Fit a baseline of sequences on the training set of a split."""

from collections.abc import Callable

from ssd4rec.baselines.ease import EASE
from ssd4rec.baselines.item_pairs import ItemPairs
from ssd4rec.baselines.personal_popularity import PersonalPopularity
from ssd4rec.config import Baseline
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples, training_interactions
from ssd4rec.errors import ConfigError
from ssd4rec.evaluation.evaluate import Progress
from ssd4rec.fusion import PAIR_MODELS

BASELINES: dict[str, Callable[..., ItemPairs | EASE | PersonalPopularity]] = {  # by config.Baseline
    **{name: model.fit for name, model in PAIR_MODELS.items()},
    EASE.name: EASE.fit,
    PersonalPopularity.name: PersonalPopularity.fit,
}


def fit_baseline(
    name: Baseline,
    sequences: Sequences,
    train: Examples,
    catalog_size: int,
    progress: Progress | None = None,
    **settings: float,
) -> ItemPairs | EASE | PersonalPopularity:
    """Fit a baseline, which `evaluate` takes in place of a model.

    Args:
        name: "personal-popularity", "sequential-rules", "sequential-ridge" or "ease".
        sequences: the events.
        train: the training set of their split.
        catalog_size: V.
        progress: called with (steps done, all).
        settings: `regularization`, `max_items` and others of the closed forms; see the `fit` method of each class.

    Raises:
        ConfigError: another name.

    Example:
        >>> split = ssd4rec.make_split(sequences, config.data)
        >>> ease = ssd4rec.fit_baseline("ease", sequences, split.train, len(catalog))
        >>> ssd4rec.evaluate(ease, sequences, split.test).ndcg[10]
    """
    if name not in BASELINES:
        raise ConfigError(f'unknown baseline "{name}"; baselines are {", ".join(BASELINES)}')
    return BASELINES[name](*training_interactions(sequences, train), catalog_size, progress=progress, **settings)
