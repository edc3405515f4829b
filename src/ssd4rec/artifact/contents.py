"""What an artefact holds: written, and read back."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssd4rec.artefact.folder import (
    CATALOGUE,
    CONFIG,
    MANIFEST,
    POPULARITY,
    PRIOR,
    REPORT,
    WEIGHTS,
    aside_of,
    check_manifest,
    fresh_beside,
    make_manifest,
    rename_over,
    tidy,
)
from ssd4rec.backbones.make import make_backbone
from ssd4rec.backbones.prior import Prior
from ssd4rec.config import Config, dump_config, parse_config
from ssd4rec.data.catalogue import Catalogue
from ssd4rec.errors import ArtefactError, BackendError, ConfigError, SSD4RecError
from ssd4rec.files import as_json, escaped, sync
from ssd4rec.model import NextItemModel
from ssd4rec.ragged import Numbers


@dataclass(frozen=True)
class Artefact:
    """What a folder held."""

    model: NextItemModel
    catalogue: Catalogue
    config: Config
    report: Mapping[str, Any]
    training_counts: Numbers  # [V + 1] training events of each item number
    prior: Prior | None = None  # what is known without learning, added to the model's scores


def save_artefact(
    directory: str | Path,
    model: NextItemModel,
    catalogue: Catalogue,
    config: Config,
    report: Mapping[str, object],
    training_counts: Numbers,
    prior: Prior | None = None,
) -> None:
    """Write a finished model as a folder that is whole or absent.

    An artefact that is already there is replaced by renaming; other files beside it are kept, any other folder is left alone.

    Args:
        directory: the folder to make.
        model: its weights are written.
        catalogue: ids and titles.
        config: all settings.
        report: metrics, seconds, course, versions; see `files.as_json`: a figure that is not a number becomes null.
        training_counts: [V + 1], for users of whom nothing is known.
        prior: what is known without learning, added to the model's scores wherever it is measured or asked. Where the settings
            ask for one it must be given; one that changes no score is not written.

    Raises:
        ConfigError: the settings ask for a prior, and none is given.
        ArtefactError: the folder cannot be written, or holds something that is not an artefact; model, catalogue and counts
            are not of the same items.
        TypeError: the report holds what JSON cannot say.
    """
    if not len(catalogue) == model.catalogue_size == len(training_counts) - 1:
        raise ArtefactError(
            f"a model of {model.catalogue_size} items, a catalogue of {len(catalogue)} and training counts of "
            f"{len(training_counts)} (items + 1 expected) do not belong together; save what one training made"
        )
    if prior is None and (config.prior.transitions or config.prior.repeats):
        raise ConfigError(
            f"the settings ask for a prior (prior.transitions = {config.prior.transitions!r}, prior.repeats = "
            f"{config.prior.repeats!r}) and none is given; give the one that choose_prior found, or set both to 0.0"
        )
    target = Path(directory).resolve()
    check_writable(target)
    fresh = fresh_beside(target)
    try:
        tidy(target)
        fresh.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, fresh / WEIGHTS)
        (fresh / CONFIG).write_text(dump_config(config), encoding="utf-8")
        catalogue.write(fresh / CATALOGUE)
        np.save(fresh / POPULARITY, training_counts, allow_pickle=False)
        (fresh / REPORT).write_text(f"{as_json(report, indent=2)}\n", encoding="utf-8")
        if prior:
            prior.write(fresh / PRIOR)
        for name in (WEIGHTS, PRIOR) if prior else (WEIGHTS,):
            shutil.copymode(fresh / CONFIG, fresh / name)  # safetensors lets nobody else read what it writes
        (fresh / MANIFEST).write_text(f"{as_json(make_manifest(fresh), indent=2)}\n", encoding="utf-8")
        sync([*fresh.iterdir(), fresh])
        rename_over(fresh, target)
    except (OSError, safetensors.SafetensorError, pl.exceptions.PolarsError) as error:
        raise ArtefactError(f"cannot write the model to {target}: {error}; give another folder, or free some space") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_writable(directory: str | Path) -> None:
    """See before a training whether its artefact can be written.

    Raises:
        ArtefactError: it cannot, or the folder holds something that is not an artefact.
    """
    target = Path(directory).resolve()
    if escaped(str(target)) != str(target):
        raise ArtefactError(f"cannot write to {target}: the name is no UTF-8 text, as safetensors needs it; give another folder")
    place = target
    try:
        if target.exists() and not (target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))):
            raise ArtefactError(f"{target} exists and is not an ssd4rec model; it is left alone: give another folder")
        place = target.parent
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ArtefactError(f"cannot write to {place}: {error.strerror or error}; give another folder") from error


def finished_model(directory: str | Path, device: str = "cpu") -> Artefact | None:
    """`load_artefact`, or None where it finds no whole model of this version."""
    try:
        return load_artefact(directory, device)
    except ArtefactError:
        return None


def load_artefact(directory: str | Path, device: str = "cpu") -> Artefact:
    """Read a finished model; every file is checked against its hash first.

    Args:
        directory: a folder that `save_artefact` made.
        device: where the model goes.

    Raises:
        ArtefactError: no such folder, a file is missing or changed, another format version, parts that do not fit.
        BackendError: there is no such device.
    """
    _check_device(device)
    folder = Path(directory).resolve()
    try:
        if not folder.exists() and aside_of(folder).is_dir():
            folder = aside_of(folder)
        files = check_manifest(folder)
        config = parse_config((folder / CONFIG).read_text(encoding="utf-8"), source=str(folder / CONFIG))
        catalogue = Catalogue.read(folder / CATALOGUE)
        counts = np.load(folder / POPULARITY, allow_pickle=False)
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        # copied to where torch would put them: a matrix product of numbers that begin elsewhere may round in another order
        weights = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS, device=device).items()}
        prior = Prior.read(folder / PRIOR) if PRIOR in files else None
    except ArtefactError:
        raise
    except OSError as error:
        advice = "let this account read it" if isinstance(error, PermissionError) else "give another folder"
        raise ArtefactError(f"{error.filename or folder} cannot be read: {error.strerror or error}; {advice}") from error
    except (SSD4RecError, ValueError, safetensors.SafetensorError) as error:
        raise ArtefactError(f"{folder} cannot be read: {error}; train the model again with this version") from error
    with torch.device("meta"):  # no initial weights are drawn, only to be replaced
        model = NextItemModel(make_backbone(config.backbone), len(catalogue))
    expected = {**model.state_dict(), POPULARITY: model.table.weight[:, 0]}
    found = {**weights, POPULARITY: counts}
    if prior:
        expected[PRIOR], found[PRIOR] = model.table.weight[:, 0], prior.transitions.edges
    if misfits := _misfits(expected, found):
        raise ArtefactError(
            f"{folder}: weights, settings and the catalogue of {len(catalogue)} items do not fit together: {'; '.join(misfits)}; "
            f"copy the model again, or train it again"
        )
    model.load_state_dict(weights, assign=True)
    return Artefact(model.eval(), catalogue, config, report, counts, prior)


def _misfits(expected: Mapping[str, Tensor], found: Mapping[str, Any]) -> list[str]:
    shapes = {name: list(tensor.shape) for name, tensor in found.items()}
    problems = [f"{name} is missing" for name in expected if name not in shapes]
    problems += [f"{name} is not expected" for name in shapes if name not in expected]
    problems += [
        f"{name} has the shape {shapes[name]}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in shapes and shapes[name] != list(tensor.shape)
    ]
    return problems[:4]


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise BackendError(f'the device "{device}" is not available on this machine; use "cpu"') from error
