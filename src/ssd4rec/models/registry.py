"""The models by name. Adding a model takes its module and one line in `MODELS`.

This module imports nothing heavy, so that settings can be validated before PyTorch is needed: a model's module is imported
when its settings or its network are used for the first time. A model class has the attribute `settings_class`, a subclass of
`ssd4rec.config.backbones.BackboneSettings` whose `name` is the name here, and is constructed from such settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ssd4rec.config.backbones import BackboneSettings

DEFAULT_MODEL = "ssd4rec"  # of settings without backbone.name

MODELS: dict[str, str] = {
    "ssd4rec": "ssd4rec.models.ssd4rec:SSD4Rec",
    "sasrec": "ssd4rec.models.sasrec:SASRec",
    "bert4rec": "ssd4rec.models.bert4rec:BERT4Rec",
    "gru4rec": "ssd4rec.models.gru4rec:GRU4Rec",
    "caser": "ssd4rec.models.caser:Caser",
    "mamba4rec": "ssd4rec.models.mamba4rec:Mamba4Rec",
    "sigma": "ssd4rec.models.sigma:SIGMA",
}


def model_class(name: str) -> Any:
    """Return the class of a model, importing its module.

    Raises:
        KeyError: no model has this name.
    """
    module, _, attribute = MODELS[name].partition(":")
    return getattr(import_module(module), attribute)


class _SettingsByName(Mapping[str, "type[BackboneSettings]"]):
    """The settings class of each model, looked up when it is needed."""

    def __getitem__(self, name: str) -> type[BackboneSettings]:
        return model_class(name).settings_class

    def __contains__(self, name: object) -> bool:
        return name in MODELS

    def __iter__(self) -> Iterator[str]:
        return iter(MODELS)

    def __len__(self) -> int:
        return len(MODELS)


BACKBONES: Mapping[str, type[BackboneSettings]] = _SettingsByName()


def make_backbone(config: BackboneSettings) -> nn.Module:
    """Construct a backbone; its initial weights are drawn from PyTorch's global generator."""
    return model_class(config.name)(config)
