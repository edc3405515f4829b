"""The groups of settings of a run, and `Config`, which holds them all."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from ssd4rec.config.backbones import BackboneConfig, SSD4RecConfig
from ssd4rec.config.base import Objective, Settings

Seen = Literal["kept", "filtered"]


class DataConfig(Settings):
    """How a table of interactions becomes histories and examples."""

    user: str | None = None  # column names; None: found by their usual names
    item: str | None = None
    time: str | None = None
    min_interactions: int = Field(5, ge=1)  # k of the iterative k-core, users and items
    split: Literal["leave-last-out", "time"] = "leave-last-out"
    validation_from: str | None = None  # split = "time": ISO date or number; None: when 80 % of the events are over
    test_from: str | None = None  # None: when 90 % of the events are over
    max_length: int | None = Field(None, ge=1)  # only the last events of a history are read; None: all of them


class TrainingConfig(Settings):
    """The objective, the optimiser and when to stop."""

    objective: Objective = "one-pass"
    prefixes_per_history: int | None = Field(None, ge=1)  # objective = "prefix": sampled anew each epoch; None: all
    batch_size: int | None = Field(None, ge=1)  # objective = "prefix": examples a batch; None: what token_budget holds
    token_budget: int = Field(8192, ge=1)  # positions a batch
    mask_ratio: float = Field(0.1, ge=0.0, lt=1.0)  # rho; objective = "cloze": the items asked for, beside the last
    learning_rate: float = Field(1e-3, gt=0.0)
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: the learning rate falls to 0 over max_epochs
    weight_decay: float = Field(0.0, ge=0.0)
    max_epochs: int = Field(300, ge=1)
    patience: int = Field(10, ge=1)  # epochs without a better validation NDCG@10
    seed: int = Field(2024, ge=0)
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    deterministic: bool = False  # the same bits on the same GPU, for some speed; a CPU gives them anyway


class EvaluationConfig(Settings):
    """What is reported, and under which protocol."""

    cutoffs: tuple[Annotated[int, Strict()], ...] = Field((10, 20), strict=False)  # TOML knows lists only
    seen: Seen = "kept"
    token_budget: int = Field(32768, ge=1)  # positions read at once; scores are made in blocks of bounded size

    @model_validator(mode="after")
    def _cutoffs_are_ranks(self) -> Self:
        if not self.cutoffs or any(cutoff < 1 for cutoff in self.cutoffs):
            raise ValueError(f"cutoffs must be ranks of 1 or more, e.g. [10, 20], found {list(self.cutoffs)}")
        return self


class Config(Settings):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = SSD4RecConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        if objection := self.backbone.objection(self.training.objective):
            raise ValueError(objection)
        return self
