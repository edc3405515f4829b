"""A model outside the package: its own module, one line in the registry, and the command line trains it."""

import json
import subprocess
import sys
from typing import Literal

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import worlds
from ssd4rec.artifact import load_artifact
from ssd4rec.cli import app
from ssd4rec.config import Config, load_config
from ssd4rec.config.backbones import BackboneSettings
from ssd4rec.errors import ConfigError
from ssd4rec.models.registry import BACKBONES, MODELS, make_backbone


class LastItemConfig(BackboneSettings):
    """Settings of the toy model."""

    name: Literal["last-item"] = "last-item"
    hidden: int = 8


class LastItem(nn.Module):
    """Maps the vector of the last item to a state: enough to learn a cycle."""

    settings_class = LastItemConfig

    def __init__(self, config: LastItemConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.project = nn.Sequential(nn.Linear(config.width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.width))

    def encode(self, embedded: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        return self.encode_prefixes(embedded, cu_seqlens)[cu_seqlens[1:] - 1]

    def encode_prefixes(self, embedded: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        del cu_seqlens
        projected: torch.Tensor = self.project(embedded)
        return projected


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "last-item", f"{__name__}:LastItem")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[LastItem.__module__])


@pytest.mark.usefixtures("registered")
def test_the_command_line_trains_a_model_from_one_module_and_one_registry_line(tmp_path) -> None:
    data = tmp_path / "cycle.csv"
    worlds.frame(worlds.cycle()).write_csv(data)
    settings = [
        "backbone.name=last-item",
        "backbone.width=16",
        "backbone.hidden=32",
        "backbone.dropout=0.0",
        "data.min_interactions=1",
    ]
    settings += ["training.max_epochs=15", "training.learning_rate=0.02", "training.mask_ratio=0.0", "training.token_budget=256"]
    settings += ["data.min_interactions=1"]
    arguments = ["train", str(data), "--config", "quick", "--out", str(tmp_path / "model"), "--json"]
    result = CliRunner().invoke(app, [*arguments, *(part for each in settings for part in ("--set", each))])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    shared = {  # settings of every backbone
        "input_dropout": 0.0,
        "input_fade": 0.0,
        "input_skip": False,
        "fade_skip_only": False,
        "repeat_logits": "none",
        "request_time": False,
        "members": 1,
    }
    assert report["model"]["backbone"] == {"name": "last-item", "width": 16, "dropout": 0.0, "hidden": 32, **shared}
    assert report["test"]["hr@10"] > 0.9
    assert type(load_artifact(tmp_path / "model").model.backbone) is LastItem


@pytest.mark.usefixtures("registered")
def test_settings_of_a_registered_model_are_validated_like_any_other() -> None:
    assert BACKBONES["last-item"] is LastItemConfig
    assert type(make_backbone(LastItemConfig())) is LastItem
    with pytest.raises(ConfigError, match=r"backbone\.hidden = 'a'"):
        load_config("quick", ["backbone.name=last-item", "backbone.hidden=a"])
    with pytest.raises(ConfigError, match="unknown backbone 'last-itm'; did you mean 'last-item'"):
        load_config("quick", ["backbone.name=last-itm"])


@pytest.mark.parametrize("name", list(MODELS))
def test_each_model_carries_its_settings(name: str) -> None:
    settings = BACKBONES[name]()
    assert settings.name == name
    assert type(make_backbone(settings)).settings_class is type(settings)
    objective = settings.objectives[0]
    config = Config.model_validate({"backbone": {"name": name}, "training": {"objective": objective}})
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_settings_import_no_torch_before_a_model_is_named() -> None:
    code = "import sys, ssd4rec.config, ssd4rec.models.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
