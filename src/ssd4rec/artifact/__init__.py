"""A finished model on disk: a folder that is whole or absent, without pickle.

weights.safetensors   config.toml   catalogue.parquet   popularity.npy   report.json
prior.safetensors, where a prior changes the scores: what backbones/prior.py and backbones/transitions.py say
manifest.json: format version, version of the package, SHA-256 of each file and of the manifest itself

DIR is written as .DIR.new-PID beside it and takes its name at the end; an artefact that was there steps aside as .DIR.old.
Killed between the two renames, .DIR.old is all there is: it is read in place of DIR, and is put back by the next save.
What a person has laid beside an artefact's files moves from .DIR.old into the new DIR; killed before that, by the next save.
"""

from ssd4rec.artefact.contents import Artefact, check_writable, finished_model, load_artefact, save_artefact
from ssd4rec.artefact.folder import FILES, FORMAT, MANIFEST, PRIOR

__all__ = [
    "FILES",
    "FORMAT",
    "MANIFEST",
    "PRIOR",
    "Artefact",
    "check_writable",
    "finished_model",
    "load_artefact",
    "save_artefact",
]
