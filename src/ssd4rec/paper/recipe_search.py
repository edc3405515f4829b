"""Search the settings of each network of a study: the same number of trials for each, on the validation part alone."""

from collections.abc import Callable, Sequence

from ssd4rec import pipeline
from ssd4rec.config import Config
from ssd4rec.paper import worker
from ssd4rec.paper.results import BASELINES, Section
from ssd4rec.paper.studies import TWINS, Setting
from ssd4rec.paper.sweep import Sweep
from ssd4rec.training.callbacks import Callback
from ssd4rec.tuning.search import search
from ssd4rec.tuning.space import choices

SEARCHES = "searches"
CHOICES: dict[str, tuple[float, ...]] = {  # of every network, in addition to the value that it has without a search
    "training.learning_rate": (5e-4, 1e-3, 2e-3, 4e-3),
    "backbone.dropout": (0.0, 0.2, 0.4),
    "backbone.input_dropout": (0.1, 0.3),
}


def search_recipes(
    sweep: Sweep,
    settings: Sequence[str],
    *,
    callbacks: Sequence[Callback] = (),
    watch: Callable[[str], None] = lambda _: None,
) -> dict[str, list[str]]:
    """Search the settings of each network of a sweep with as many trials as its budget says.

    The first trial has the settings that the network has without a search, and the others draw from CHOICES. All trials have
    the first seed, and no teachers. A search is kept in the folder of the sweep, and continues there after an interruption.

    Args:
        sweep: Its rows have the settings that are not searched.
        settings: Those of --set; what is set by hand is not searched.
        callbacks: Of each training, e.g. a progress bar.
        watch: Called with the description of each search when it begins.

    Returns:
        The best settings, `MODEL:GROUP.KEY=VALUE`, by the fingerprint of the data.

    Raises:
        ArtifactError: The folder of a search cannot be used.
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    by_hand = [Setting.parse(text) for text in settings]
    found: dict[str, list[str]] = {}
    for section in sweep.sections:
        data: pipeline.Prepared | None = None  # the same for all networks
        for row in (row for row in section.rows if row.model not in BASELINES):
            config = Config.model_validate(row.settings_of(row.runs[0].seed))
            fixed = {each.name for each in by_hand if each.model in (None, row.model)}
            space = choices(config, {name: values for name, values in CHOICES.items() if name not in fixed})
            if not space:
                continue
            watch(f"{section.data.name}, {row.label}: searching {', '.join(space)}, {section.budget.trials} trials")
            data = data or _prepare(sweep, section.data.fingerprint, config)
            report = search(
                data,
                config,
                space,
                sweep.out / SEARCHES / row.runs[0].key,
                trials=section.budget.trials,
                callbacks=callbacks,
            )
            if report.best_file is not None:  # else no trial could be learned from: the row keeps its settings
                models = [row.model, *_omitted_twins(section, row.model)]
                best = [f"{model}:{name}={value}" for model in models for name, value in report.trials[0].values.items()]
                found.setdefault(section.data.fingerprint, []).extend(best)
    return found


def _omitted_twins(section: Section, model: str) -> list[str]:
    """Return the models that the section leaves out as equal to this one; with the same settings they stay equal."""
    rows = {row.model for row in section.rows}
    return [twin for twin, network in TWINS.items() if network == model and twin not in rows]


def _prepare(sweep: Sweep, fingerprint: str, config: Config) -> pipeline.Prepared:
    return pipeline.prepare(worker.open_interactions(sweep.sources[fingerprint], config, sweep.cache), None, config)
