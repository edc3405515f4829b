"""Base class of all settings, and the settings that backbones share.

The settings class of each backbone is next to its model, in `ssd4rec/models`.

A setting that several backbones have means the same in each of them.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Objective = Literal["all-positions", "per-prefix", "masked-item"]

MAX_WIDTH = 8192  # a square matrix of this width takes 256 MiB
MAX_LAYERS = 64
MAX_STATE = 4096
MAX_MEMBERS = 64
MAX_WINDOW = 100_000  # events read at once: attention over more does not fit into memory

ALL_PREFIXES: tuple[Objective, ...] = ("all-positions", "per-prefix")


class Settings(BaseModel):
    """Base class of a group of settings: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class BackboneSettings(Settings):
    """Base class of the settings of every backbone."""

    objectives: ClassVar[tuple[Objective, ...]] = ALL_PREFIXES  # the objectives that can train it, the default first

    name: str
    """Name of the model."""
    width: int = Field(64, ge=1, le=MAX_WIDTH)
    """Embedding and hidden size (D)."""
    members: int = Field(1, ge=1, le=MAX_MEMBERS)
    """Number of networks, each with item vectors of its own, that are trained side by side and whose scores are averaged."""
    dropout: float = Field(0.2, ge=0.0, lt=1.0)
    """Dropout probability."""
    input_dropout: float | Literal["auto"] = 0.0
    """Dropout probability on the item vectors that the network reads, not on those that score items; "auto": 0.5, and
    less for data with more than 75 training interactions an item."""
    input_fade: float = Field(0.0, ge=0.0, lt=1.0)
    """Initial decay of a fading sum of item vectors as input, learned in training; 0: off."""
    input_skip: bool = False
    """Add the normalized input of the network to its output: a direct path from the item vectors to the scores."""
    fade_skip_only: bool = False
    """Give the fading sum to `input_skip` only: the network itself reads the item vectors. No effect without both."""
    repeat_logits: Literal["none", "bias", "recency", "transitions", "popularity"] = "none"
    """Add learned logits to the scores of items that the sequence already contains."""
    request_time: bool = False
    """Read the time at which the next item is wanted: the hour, the weekday, and how long ago the last interaction was."""

    @field_validator("input_dropout", mode="before")
    @classmethod
    def _is_probability_or_auto(cls, value: object) -> object:
        if value == "auto" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1):
            return value
        raise ValueError(f'backbone.input_dropout must be at least 0 and below 1, or "auto" (by the data); found {value!r}')

    @property
    def state_width(self) -> int:
        """Size of a state, and of an item vector: `width` for each member."""
        return self.members * self.width

    def objection(self, objective: Objective) -> str | None:
        """Return an error message if an objective cannot train this backbone, else None."""
        if objective == "masked-item" and self.request_time:
            return "a model that predicts masked items cannot read the time of the next one; set backbone.request_time = false"
        if objective in self.objectives:
            return None
        ours = " or ".join(f'"{each}"' for each in self.objectives)
        return f'training.objective = "{objective}" cannot train the backbone {self.name}; set training.objective = {ours}'


class Mamba2Sizes(BackboneSettings):
    """Sizes of Mamba-2 layers, with the paper's letter next to each."""

    state_dim: int = Field(64, ge=1, le=MAX_STATE)
    """State size (N)."""
    conv_width: int = Field(4, ge=1, le=MAX_LAYERS)
    """Width of the causal convolution (K)."""
    expand: int = Field(2, ge=1, le=MAX_LAYERS)
    """Inner width as a multiple of width (E = expand * D)."""
    head_width: int = Field(16, ge=1, le=MAX_WIDTH)
    """Width of one head (P)."""
    layers: int = Field(1, ge=1, le=MAX_LAYERS)
    """Number of layers."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.inner_width % self.head_width:
            raise ValueError(f"expand * width = {self.inner_width} is not a multiple of head_width = {self.head_width}")
        return self

    @property
    def sizes(self) -> dict[str, Any]:
        """The settings that all backbones with Mamba-2 layers share, except the name."""
        return {key: getattr(self, key) for key in Mamba2Sizes.model_fields if key != "name"}

    @property
    def inner_width(self) -> int:
        """E: channels of the scan."""
        return self.expand * self.width

    @property
    def heads(self) -> int:
        """H = E / P."""
        return self.inner_width // self.head_width


class BiSSDSizes(Mamba2Sizes):
    """Settings of a Bi-SSD layer."""

    backward_weight: float = 0.1
    """Weight of the backward direction (beta)."""
    feed_forward: bool = True
    """Use the feed-forward network; false is an ablation."""
    norm_first: bool = False
    """LayerNorm and dropout on the branches instead of on the residual stream, as in the paper."""
    mirror_back: bool = False
    """Reverse the output of the backward direction before it is added; the authors do not (difference D1)."""


class TransformerSizes(BackboneSettings):
    """Sizes of self-attention layers."""

    heads: int = Field(2, ge=1, le=MAX_WIDTH)
    """Number of attention heads."""
    layers: int = Field(2, ge=1, le=MAX_LAYERS)
    """Number of layers."""
    max_length: int = Field(200, ge=1, le=MAX_WINDOW)
    """Maximum number of positions read at once."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not a multiple of heads = {self.heads}")
        return self
