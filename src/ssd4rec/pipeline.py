"""The whole path on one page: from a table of interactions to a measured model on disk."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from lightning.pytorch import Callback

from ssd4rec.artefact import Artefact, check_writable, save_artefact
from ssd4rec.backbones.popularity import Popularity
from ssd4rec.backbones.prior import Prior
from ssd4rec.backbones.transitions import Transitions
from ssd4rec.config import FULL_SOFTMAX_UP_TO, Config, value_of
from ssd4rec.data.catalogue import Catalogue, as_type
from ssd4rec.data.describe import describe
from ssd4rec.data.histories import Histories, build_histories
from ssd4rec.data.interactions import Interactions
from ssd4rec.data.split import Split, make_split, training_counts, training_part
from ssd4rec.errors import DataError, StateError
from ssd4rec.evaluation.evaluate import Progress, Ranker, Ranking, Scorer, evaluate, protocol_of
from ssd4rec.evaluation.metrics import WATCHED
from ssd4rec.evaluation.prior import REPEATS, WEIGHTS, ChosenPrior, Silent, choose_prior
from ssd4rec.machine import device_of, versions
from ssd4rec.model import NextItemModel, count_parameters, make_model
from ssd4rec.ragged import Numbers, offsets_of
from ssd4rec.training.fit import fit
from ssd4rec.training.objective import Cost, cost_of_pass, cut_batches, plan_pass
from ssd4rec.training.state import LAST, folder_beside, hold

Say = Callable[[str], None]
SPLIT_SETTINGS = ("data.split", "data.validation_from", "data.test_from")


@dataclass(frozen=True)
class Prepared:
    """A data set, ready to learn from."""

    histories: Histories
    catalogue: Catalogue
    split: Split
    description: dict[str, Any]  # the `data` part of the report


def prepare(interactions: Interactions, titles: pl.DataFrame | None, config: Config) -> Prepared:
    """Interactions -> histories, catalogue, split.

    Raises:
        DataError: nothing is left after the k-core, or a part of the split is empty.
    """
    histories, catalogue = build_histories(interactions, config.data.min_interactions, same_time=config.data.same_time)
    if titles is not None:
        catalogue = catalogue.with_titles(titles)
    split = make_split(histories, config.data)
    return Prepared(histories, catalogue, split, describe(interactions, histories))


def train(
    data: Prepared,
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    say: Say = lambda _: None,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, measure on the test part beside popularity, and write the artefact.

    Args:
        data: from `prepare`.
        config: all settings.
        out: folder of the artefact. While training, the state of it is kept beside it in `OUT.training`.
        resume: go on with what `OUT.training` holds.
        say: receives one line for each stage.
        callbacks: Lightning callbacks, e.g. a progress bar.
        progress: called with (test targets ranked, all) while the model is measured.

    Returns:
        The report: data, model, protocol, validation, test, popularity, seconds, artefact.

    Raises:
        ArtefactError: `out` cannot be written, there is nothing to resume, or another training for it is at work.
        BackendError: the accelerator that was asked for is not there.
    """
    began = time.monotonic()
    check_writable(out)
    device = device_of(config.training.accelerator)
    cost = cost_of_pass(data.split.train, config.training)
    _announce(data, config, cost, say)
    model = make_model(config, len(data.catalogue))
    with hold(folder_beside(out)) as state:  # to the end: it is removed there, and another training would lose its own
        if not resume and (state.folder / LAST).exists():
            say(f"{state.folder} holds an interrupted training; starting over (to continue it: Ctrl-C, and add --resume)")
        training = fit(model, data.histories, data.split, config.training, directory=state, resume=resume, callbacks=callbacks)

        trained = time.monotonic()
        model.to(device)  # fit leaves it on the CPU
        counts = training_counts(data.histories, data.split.train, len(data.catalogue))
        chosen = make_prior(model, data, config, say, progress)
        prior = chosen.prior if chosen else None
        say("ranking the whole catalogue for the test part")
        measured = _measure_beside(model, data, config, counts, prior, progress)
        if chosen:
            measured["prior"]["validation"] = chosen.as_dict()
        watched_under = protocol_of(data.histories, data.split.validation, len(data.catalogue), split=data.split.protocol)
        report = {
            "data": {**data.description, "fingerprint": data.histories.fingerprint()},
            "model": _describe_model(model, config),
            "validation": {WATCHED: training.best_ndcg, "protocol": watched_under.as_dict()},
            **measured,
            "course": training.as_dict(),
            "pass": {"objective": config.training.objective, "tokens": cost.tokens, "targets": cost.targets},
            "seconds": {
                "training": training.seconds,
                "evaluation": time.monotonic() - trained,
                "total": time.monotonic() - began,
            },
            "versions": versions(),
            "artefact": str(out),
        }
        save_artefact(out, model, data.catalogue, config, report, counts, prior)
        shutil.rmtree(state.folder, ignore_errors=True)
    return report


def train_or_go_on(
    data: Prepared,
    config: Config,
    out: str | Path,
    *,
    say: Say = lambda _: None,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`train`, from where the same training was cut off; a state that cannot be resumed is said why, and goes.

    For a command that is to be given again as it was. Arguments, report and errors are those of `train`.
    """
    options: dict[str, Any] = {"say": say, "callbacks": callbacks, "progress": progress}
    last = folder_beside(out) / LAST
    try:
        return train(data, config, out, resume=last.is_file(), **options)
    except StateError as error:
        say(f"training begins anew: {error}")
        last.unlink(missing_ok=True)
        return train(data, config, out, **options)


def _announce(data: Prepared, config: Config, cost: Cost, say: Say) -> None:
    """What a person should know before a training begins."""
    say(f"one pass: {cost.targets:,} targets, {cost.tokens:,} tokens ({config.training.objective})")
    if config.training.samples(len(data.catalogue)):
        say(_describe_sampling(config, len(data.catalogue)))
    if advice := cost.advice(config.training):
        say(advice)
    if cut := cut_batches(data.split.train, config.training):
        say(f"warning: {cut}")


def _describe_sampling(config: Config, catalogue_size: int) -> str:
    chosen, sampled = config.training, min(config.training.negatives, catalogue_size)
    why = f" as there are more than {FULL_SOFTMAX_UP_TO:,}; training.softmax=full scores all" if chosen.softmax == "auto" else ""
    return (
        f"softmax: sampled, {sampled:,} of {catalogue_size:,} items a batch, drawn by training counts to the power "
        f"{chosen.negative_power:g}{why}; ranking is over all items"
    )


def _describe_model(model: NextItemModel, config: Config) -> dict[str, Any]:
    return {"parameters": count_parameters(model), "backbone": config.backbone.model_dump(mode="json")}


def measure(
    model: Ranker | Scorer,
    data: Prepared,
    config: Config,
    counts: Numbers,
    progress: Progress | None = None,
    prior: Prior | None = None,
) -> Ranking:
    """Rank the test part under the protocol of the settings."""
    return evaluate(
        model,
        data.histories,
        data.split.test,
        cutoffs=config.evaluation.cutoffs,
        seen=config.evaluation.seen,
        token_budget=config.evaluation.token_budget,
        split=data.split.protocol,
        training_counts=counts,
        progress=progress,
        prior=prior,
    )


def count_transitions(data: Prepared, progress: Progress | None = None) -> Transitions:
    """The baseline that counts what followed what in the training part."""
    return Transitions.count(*training_part(data.histories, data.split.train), len(data.catalogue), progress)


def make_prior(
    model: NextItemModel, data: Prepared, config: Config, say: Say, progress: Progress | None = None
) -> ChosenPrior | None:
    """What `prior.transitions` and `prior.repeats` ask for, measured on the validation part; None: nothing."""
    asked = config.prior
    if not asked.transitions and not asked.repeats:
        return None
    if asked.transitions:
        say("counting what came soon after what")
        transitions = count_transitions(data, progress)
    else:
        transitions = Transitions.nothing(model.catalogue_size)
    chosen = choose_prior(
        model,
        transitions,
        data.histories,
        data.split.validation,
        weights=WEIGHTS if asked.transitions == "validated" else (asked.transitions,),
        repeats=REPEATS if asked.repeats == "validated" else (asked.repeats,),
        seen=config.evaluation.seen,
        token_budget=config.evaluation.token_budget,
        progress=progress,
    )
    prior = chosen.prior
    say(
        f"prior.transitions = {prior.weight:g}, prior.repeats = {prior.repeats:g}: "
        f"validation ndcg@10 {chosen.ndcg:.4f}, the model alone {chosen.alone:.4f}"
    )
    if prior.repeats > 0:
        say("items recur in these data: `ssd4rec recommend --keep-seen` recommends them again")
    return chosen


def _measure_beside(
    model: NextItemModel, data: Prepared, config: Config, counts: Numbers, prior: Prior | None, progress: Progress | None
) -> dict[str, Any]:
    """The figures of a report: the model with its prior, beside popularity, the model alone and the prior alone."""
    test = measure(model, data, config, counts, progress, prior)
    found: dict[str, Any] = {
        **test.report(),
        "popularity": {"test": measure(Popularity(counts), data, config, counts).as_dict()},
    }
    if prior is not None:
        alone = measure(model, data, config, counts) if prior else test
        found["prior"] = {"transitions": prior.weight, "repeats": prior.repeats, "model_alone": alone.as_dict()}
        if prior.weight:
            found["prior"]["prior_alone"] = measure(Silent(model.catalogue_size), data, config, counts, prior=prior).as_dict()
    return found


def measure_again(
    artefact: Artefact, interactions: Interactions, config: Config, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a finished model on the test part of some interactions.

    Items that the model does not know are left out of the histories, and counted in `notes`.

    Raises:
        DataError: nothing that the model knows is left.
    """
    began = time.monotonic()
    histories, found = build_histories(
        interactions, config.data.min_interactions, same_time=config.data.same_time, known=artefact.catalogue
    )
    numbers = np.concatenate([[0], artefact.catalogue.numbers(as_type(found.ids, artefact.catalogue.ids.dtype))])[histories.items]
    known = numbers > 0
    notes = []
    if not known.any():
        raise DataError(
            f"none of the {len(found):,} items is known to the model, which was trained on {len(artefact.catalogue):,} others, "
            f"such as {artefact.catalogue.ids[0]!r}; give interactions with its items, or train a model on these"
        )
    if not known.all():
        notes.append(f"{np.count_nonzero(~known):,} interactions with items that the model does not know were left out")
    learnt = artefact.report.get("data", {}).get("fingerprint")  # none: saved by hand, without
    if notes or learnt not in (None, histories.fingerprint()):
        notes.append("this is not the data that the model was trained on; what is asked here may have been trained there")
    elif moved := [name for name in SPLIT_SETTINGS if value_of(config, name) != value_of(artefact.config, name)]:
        notes.append(
            f"the model was trained with another split ({', '.join(moved)}); what is asked here may have been trained there"
        )
    offsets = offsets_of(np.add.reduceat(known, histories.offsets[:-1]))
    histories = replace(histories, items=numbers[known].astype(np.int32), times=histories.times[known], offsets=offsets)
    data = Prepared(
        histories, artefact.catalogue, make_split(histories, config.data, learnt=False), describe(interactions, histories)
    )
    return {
        "data": data.description,
        "model": _describe_model(artefact.model, artefact.config),
        **_measure_beside(artefact.model, data, config, artefact.training_counts, artefact.prior, progress),
        "seconds": {"total": time.monotonic() - began},
        "notes": notes,
    }


def describe_pass(data: Prepared, config: Config) -> dict[str, float]:
    """What a pass over the training part costs under each objective, and how full its batches are."""
    plan = plan_pass(data.split.train, config.training, epoch=0)
    sizes = sum(batch.size for batch in plan.batches)
    return {
        "targets": data.split.train.targets,
        "one_pass_tokens": data.split.train.tokens_one_pass,
        "prefix_tokens": data.split.train.tokens_prefix,
        "batches": len(plan.batches),
        "fill": float(plan.examples.lengths.sum() / sizes),
    }
