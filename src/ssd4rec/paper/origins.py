"""Where the settings of a row come from, which of them --set has changed, and what that says of its figures."""

from collections.abc import Sequence

from ssd4rec.config import BackboneConfig, SSD4RecConfig, load_config, presets, value_of
from ssd4rec.paper.budgets import BUDGETS, Budget
from ssd4rec.paper.recipes import RECIPES
from ssd4rec.paper.studies import Point


def recipe_of(point: Point, known: str | None, budget: Budget) -> str | None:
    """Where the settings of a row come from, and which of them --set has changed."""
    if not point.configs or point.unset is None:
        return None
    config, named = point.configs[0], changed(point)
    if budget.follows_paper and config.backbone.name == "ssd4rec" and known in presets():
        source = "preset of the paper" + _other_wiring(config.backbone, load_config(known).backbone)
    else:
        source = RECIPES[config.backbone.name].source
        if known in presets() and "backbone.dropout" not in named:
            source += ", with the dropout of the preset"
    if budget.one_pass and known in presets() and config.training.objective != "per-prefix":
        source += ", each history read once"
    return f"changed here ({', '.join(named)}), the rest {source}" if named else source


def reduced(known: str | None, budget: Budget, epochs: int, otherwise: Sequence[str] = ()) -> str | None:
    """Why the figures do not say what the paper's settings give; None: they do.

    Args:
        known: the named data set.
        budget: what the runs may cost.
        epochs: of the longest run; as many as the budget has: it was cut short, not ended by its validation.
        otherwise: settings of model and training that --set changed.
    """
    if budget.follows_paper and known not in presets():
        return "the paper has no settings for these data, so our recipes were taken"
    whole = BUDGETS["paper"]
    if not budget.follows_paper or budget.width < whole.width:
        return "reduced budget"
    if budget.width > whole.width:
        return f"the models are {budget.width} wide, the paper's {whole.width}"
    cut = epochs >= budget.epochs < whole.epochs
    if cut:
        return f"a run was cut short after {budget.epochs} epochs"
    return f"settings were changed ({', '.join(otherwise)})" if otherwise else None


def learnt_otherwise(points: Sequence[Point]) -> list[str]:
    """What --set changed of how rows are built or trained, and of which rows, where not of all."""
    learned = [point for point in points if point.unset]
    found: dict[str, list[str]] = {}
    for point in learned:
        for name in changed(point):
            if not name.startswith(("data.", "evaluation.")):
                found.setdefault(name, []).append(point.label)
    return [name if len(of) == len(learned) else f"{name} of {', '.join(of)}" for name, of in sorted(found.items())]


def changed(point: Point) -> list[str]:
    """The settings that --set changed, but for the seed."""
    return [
        f"{group}.{key}"
        for group in ("data", "backbone", "training", "evaluation")
        for key, value in getattr(point.unset, group)
        if key != "seed" and value != value_of(point.configs[0], f"{group}.{key}")
    ]


def _other_wiring(ours: BackboneConfig, preset: BackboneConfig) -> str:
    """Of the preset's several layers all read backwards, which one pass cannot train."""
    if not isinstance(ours, SSD4RecConfig) or not isinstance(preset, SSD4RecConfig):
        return ""
    one_network = ours.bidirectional == preset.bidirectional or (ours.layers == 1 and ours.bidirectional == "top")
    return "" if one_network else f', but for backbone.bidirectional = "{ours.bidirectional}"'
