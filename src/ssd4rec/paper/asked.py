"""--set of `reproduce`: which model a setting is for, and which settings cannot be given."""

from collections.abc import Sequence

from ssd4rec._suggestions import find
from ssd4rec.config import BACKBONES
from ssd4rec.errors import ConfigError

DECIDED = {  # settings that an option of the command decides
    "backbone.name": "--models",
    "backbone.bidirectional": "--models",
    "backbone.width": "--width",
    "training.max_epochs": "--epochs",
}


def check_setting(setting: str, models: Sequence[str]) -> None:
    """See that a setting is one that can be given.

    Args:
        setting: `group.key=value`, or `model:group.key=value`.
        models: those that learn.

    Raises:
        ConfigError: it cannot.
    """
    model, name = addressed(setting)
    key = name.partition("=")[0]
    if model is not None:
        find(model, models, "model that learns")
    if key.startswith("fusion."):
        raise ConfigError(f"reproduce measures each model without and with a fusion anyway; leave out --set {setting}")
    if model is not None and key.startswith(("data.", "evaluation.")):
        raise ConfigError(f"all models get the same data and the same protocol; give --set {name} without {model}:")
    if key in DECIDED and (model is None or DECIDED[key] == "--models"):
        raise ConfigError(f"{key} is what {DECIDED[key]} says; leave out --set {setting}")


def addressees(settings: Sequence[str]) -> set[str]:
    """The models that settings name."""
    return {model for model, _ in map(addressed, settings) if model is not None}


def addressed(setting: str) -> tuple[str | None, str]:
    """`sasrec:backbone.layers=2` -> the model it is for, the setting; None: for all."""
    head, equals, value = setting.partition("=")
    model, colon, name = head.rpartition(":")
    return (model.strip() if colon else None), f"{name.strip()}{equals}{value}"


def has_setting(name: str, setting: str) -> bool:
    """Settings of a backbone are for those that have them: --set backbone.state_dim=8 says nothing to SASRec."""
    group, _, key = setting.partition("=")[0].partition(".")
    everywhere = {key for each in BACKBONES.values() for key in each.model_fields}
    return group != "backbone" or key in BACKBONES[name].model_fields or key not in everywhere


def objective_is_set(asked: Sequence[tuple[str | None, str]]) -> bool:
    """Whether one of the settings for a model says how it is trained."""
    return any(setting.startswith("training.objective=") for _, setting in asked)
