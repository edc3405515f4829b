"""A finished model on disk: a folder that is whole or absent, without pickle.

weights.safetensors   config.toml   catalog.parquet   popularity.npy   report.json
fusion.safetensors, where a fusion changes the scores: what fusion.py and baselines/sequential_rules.py say
manifest.json: format version, version of the package, SHA-256 of each file and of the manifest itself

DIR is written as .DIR.new-PID beside it and takes its name at the end; an artifact that was there steps aside as .DIR.old.
Killed between the two renames, .DIR.old is all there is: it is read in place of DIR, and is put back by the next save.
What a person has laid beside an artifact's files moves from .DIR.old into the new DIR; killed before that, by the next save.
"""

from ssd4rec.artifact.contents import Artifact, check_writable, finished_model, load_artifact, save_artifact
from ssd4rec.artifact.folder import FILES, FORMAT, FUSION, MANIFEST

__all__ = [
    "FILES",
    "FORMAT",
    "FUSION",
    "MANIFEST",
    "Artifact",
    "check_writable",
    "finished_model",
    "load_artifact",
    "save_artifact",
]
