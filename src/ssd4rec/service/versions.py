"""The versions of a model in a folder, and which of them is to answer."""

import json
from dataclasses import dataclass
from pathlib import Path

from ssd4rec._io import write_atomically
from ssd4rec.artifact import MANIFEST
from ssd4rec.errors import ArtifactError
from ssd4rec.service.problems import not_found
from ssd4rec.service.served_model import ServedModel
from ssd4rec.serving.recommender import Recommender

ACTIVE = "active.json"
PASSED, FORCED = "passed", "forced"  # the gate of an activation


@dataclass(frozen=True)
class Versions:
    """The models of a folder: one model, or version folders and an active.json."""

    root: Path

    @property
    def is_single(self) -> bool:
        """Whether the folder is a model itself."""
        return (self.root / MANIFEST).is_file()

    def names(self) -> list[str]:
        """Return the names of the versions, in the order of their names."""
        if self.is_single:
            return [self.root.resolve().name]
        if not self.root.is_dir():
            return []
        return sorted(each.name for each in self.root.iterdir() if (each / MANIFEST).is_file() and not each.name.startswith("."))

    def folder(self, version: str) -> Path:
        """Return the folder of a version.

        Raises:
            Problem: 404, the version does not exist.
        """
        if version not in self.names():
            raise not_found("model", version)
        return self.root if self.is_single else self.root / version

    def load(self, version: str) -> ServedModel:
        """Load a version.

        Raises:
            Problem: 404, the version does not exist.
            ArtifactError: the model is damaged.
        """
        folder = self.folder(version)
        modified = (folder / MANIFEST).stat().st_mtime  # before the weights: what is written later is news
        return ServedModel(version, folder, Recommender.load(folder), modified)

    def chosen(self) -> str | None:
        """Return the version that active.json names, else the last by name; None: the folder has no model yet.

        Raises:
            ArtifactError: active.json is damaged, or names a version that does not exist.
        """
        names = self.names()
        file = self.root / ACTIVE
        if self.is_single or not file.is_file():
            return names[-1] if names else None
        try:
            version = json.loads(file.read_text(encoding="utf-8"))["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file} is damaged ({error}); write it again with ssd4rec models activate VERSION") from error
        if version not in names:
            raise ArtifactError(f"{file} names the version {version!r}; there are {', '.join(names) or 'none'}")
        return str(version)

    def is_checked(self, version: str) -> bool:
        """Whether active.json says that the version passed the gate, or was activated without it."""
        try:
            choice = json.loads((self.root / ACTIVE).read_text(encoding="utf-8"))
            return bool(choice["version"] == version and choice["gate"] in {PASSED, FORCED})
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def choose(self, version: str, gate: str) -> None:
        """Write active.json, which the processes of the service follow.

        Args:
            version: name of its folder.
            gate: whether it passed the gate, or was activated without it.

        Raises:
            Problem: 404, the version does not exist.
            ArtifactError: the folder cannot be written.
        """
        self.folder(version)
        if self.is_single:
            return
        try:
            write_atomically(self.root / ACTIVE, f"{json.dumps({'version': version, 'gate': gate})}\n")
        except OSError as error:
            raise ArtifactError(f"{self.root / ACTIVE} cannot be written: {error.strerror or error}") from error
