"""A finished model on disk: a folder that is whole or absent, without pickle.

weights.safetensors   config.toml   catalogue.parquet   popularity.npy   report.json
manifest.json: format version, SHA-256 of each file
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.torch import load_file, save_file

from ssd4rec.backbones.ssd4rec import SSD4Rec
from ssd4rec.config import Config, dump_config, parse_config
from ssd4rec.data.catalogue import Catalogue
from ssd4rec.data.packing import Numbers
from ssd4rec.errors import ArtefactError, SSD4RecError
from ssd4rec.model import NextItemModel

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS, CONFIG, CATALOGUE, POPULARITY, REPORT = (
    "weights.safetensors",
    "config.toml",
    "catalogue.parquet",
    "popularity.npy",
    "report.json",
)
FILES = (WEIGHTS, CONFIG, CATALOGUE, POPULARITY, REPORT)


@dataclass(frozen=True)
class Artefact:
    """What a folder held."""

    model: NextItemModel
    catalogue: Catalogue
    config: Config
    report: Mapping[str, Any]
    training_counts: Numbers  # [V + 1] training events of each item number


def save_artefact(
    directory: str | Path,
    model: NextItemModel,
    catalogue: Catalogue,
    config: Config,
    report: Mapping[str, object],
    training_counts: Numbers,
) -> None:
    """Write a finished model as a folder that is whole or absent.

    An artefact that is already there is replaced by renaming; anything else that is there is left alone.

    Args:
        directory: the folder to make.
        model: its weights are written.
        catalogue: ids and titles.
        config: all settings.
        report: metrics, seconds, course, versions; JSON-able.
        training_counts: [V + 1], for users of whom nothing is known.

    Raises:
        ArtefactError: the folder cannot be written, or holds something that is not an artefact.
    """
    target = Path(directory).absolute()
    check_writable(target)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(dump_config(config), encoding="utf-8")
        catalogue.write(temporary / CATALOGUE)
        np.save(temporary / POPULARITY, training_counts, allow_pickle=False)
        (temporary / REPORT).write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")
        manifest = {
            "format": FORMAT,
            "ssd4rec": metadata.version("ssd4rec"),
            "sha256": {name: _sha256(temporary / name) for name in FILES},
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes it private
        for name in (*FILES, MANIFEST):
            _sync(temporary / name)
        _rename_over(temporary, target)
    except OSError as error:
        raise ArtefactError(f"cannot write the model to {target}: {error}; give another folder, or free some space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(directory: str | Path) -> None:
    """See before a training whether its artefact can be written.

    Raises:
        ArtefactError: it cannot, or the folder holds something that is not an artefact.
    """
    target = Path(directory).absolute()
    if target.exists() and not (target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))):
        raise ArtefactError(f"{target} exists and is not an ssd4rec model; it is left alone: give another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise ArtefactError(f"cannot write to {target.parent}: {error.strerror or error}; give another folder") from error


def load_artefact(directory: str | Path, device: str = "cpu") -> Artefact:
    """Read a finished model; every file is checked against its hash first.

    Args:
        directory: a folder that `save_artefact` made.
        device: where the model goes.

    Raises:
        ArtefactError: no such folder, a file is missing or changed, another format version, parts that do not fit.
    """
    folder = Path(directory)
    _check_manifest(folder)
    try:
        config = parse_config((folder / CONFIG).read_text(encoding="utf-8"), source=str(folder / CONFIG))
        catalogue = Catalogue.read(folder / CATALOGUE)
        counts = np.load(folder / POPULARITY, allow_pickle=False)
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS, device=device)
    except (SSD4RecError, ValueError, safetensors.SafetensorError) as error:
        raise ArtefactError(f"{folder} cannot be read: {error}; train the model again with this version") from error
    model = NextItemModel(SSD4Rec(config.backbone), len(catalogue)).to(device)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ArtefactError(f"{folder}: weights, settings and catalogue do not fit together: {reason}") from error
    return Artefact(model.eval(), catalogue, config, report, counts)


def _check_manifest(folder: Path) -> None:
    if not folder.is_dir():
        raise ArtefactError(f"no model at {folder}: there is no such folder; `ssd4rec train DATA --out {folder}` makes one")
    if not (folder / MANIFEST).is_file():
        raise ArtefactError(f"{folder} is not an ssd4rec model: it has no {MANIFEST}; give the folder that `train --out` wrote")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, hashes = manifest["format"], dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{folder / MANIFEST} is damaged: {error}; copy the model again, or train it again") from error
    if version != FORMAT:
        raise ArtefactError(
            f"{folder} has format {version}, this ssd4rec reads format {FORMAT}; use the ssd4rec that wrote it "
            f"({manifest.get('ssd4rec', 'unknown')}), or train again"
        )
    for name in FILES:
        if not (folder / name).is_file():
            raise ArtefactError(f"{folder} is incomplete: {name} is missing; copy the model again, or train it again")
        if (found := _sha256(folder / name)) != hashes.get(name):
            raise ArtefactError(
                f"{folder / name} was changed or cut short: SHA-256 {found[:12]}…, expected {str(hashes.get(name))[:12]}…; "
                f"copy the model again, or train it again"
            )


def _rename_over(temporary: Path, target: Path) -> None:
    # The old artefact steps aside, the new one takes its name, the old one goes. Killed in between, one of them is whole.
    aside = target.parent / f".{target.name}.old"
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
