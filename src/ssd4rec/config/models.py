"""One class of settings a backbone, with only the keys that mean something to it; `backbone.name` says which one a run has.

A key that several backbones have means the same in each.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from ssd4rec.config.base import Objective, Settings

DEFAULT_BACKBONE = "ssd4rec"  # of settings that name none, such as those of before there was a choice

Bidirectional = Literal["all", "top", "none"]

ALL_PREFIXES: tuple[Objective, ...] = ("all-positions", "per-prefix")


class BackboneSettings(Settings):
    """What the settings of every backbone have, and can say of themselves."""

    objectives: ClassVar[tuple[Objective, ...]] = ALL_PREFIXES  # that can train it; the first where none is written

    name: str  # which of them it is: each has one of its own
    width: int = Field(64, ge=1)  # D
    dropout: float = Field(0.2, ge=0.0, lt=1.0)

    def objection(self, objective: Objective) -> str | None:
        """Why an objective cannot train this backbone, and what to do; None: it can."""
        if objective in self.objectives:
            return None
        ours = " or ".join(f'"{each}"' for each in self.objectives)
        return f'training.objective = "{objective}" cannot train the backbone {self.name}; set training.objective = {ours}'


class Mamba2Sizes(BackboneSettings):
    """Layers whose mixer is Mamba-2, with the paper's letter beside each size."""

    state_dim: int = Field(64, ge=1)  # N
    conv_width: int = Field(4, ge=1)  # K
    expand: int = Field(2, ge=1)  # E = expand * D
    head_width: int = Field(16, ge=1)  # P
    layers: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.inner_width % self.head_width:
            raise ValueError(f"expand * width = {self.inner_width} is not a multiple of head_width = {self.head_width}")
        return self

    @property
    def sizes(self) -> dict[str, Any]:
        """What all that have such layers share, without the name."""
        return {key: getattr(self, key) for key in Mamba2Sizes.model_fields if key != "name"}

    @property
    def inner_width(self) -> int:
        """E: channels that the scan carries."""
        return self.expand * self.width

    @property
    def heads(self) -> int:
        """H = E / P."""
        return self.inner_width // self.head_width


class TransformerSizes(BackboneSettings):
    """Layers of self-attention."""

    heads: int = Field(2, ge=1)
    layers: int = Field(2, ge=1)
    max_length: int = Field(200, ge=1)  # places that are read at once, a blank too; positions are learned up to here

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not a multiple of heads = {self.heads}")
        return self


class SSD4RecConfig(Mamba2Sizes):
    """The SSD4Rec backbone."""

    name: Literal["ssd4rec"] = "ssd4rec"
    norm_embedding: bool = False
    bidirectional: Bidirectional = "top"  # which layers read both ways; the paper: all
    backward_weight: float = 0.1  # beta
    feed_forward: bool = True  # false: an ablation of the paper
    mirror_back: bool = False  # difference D1: the authors add the backward direction as it comes out

    @property
    def bidirectional_layers(self) -> tuple[bool, ...]:
        """For each layer, bottom to top, whether it reads both ways."""
        return tuple(
            self.bidirectional == "all" or (self.bidirectional == "top" and layer == self.layers - 1)
            for layer in range(self.layers)
        )

    @property
    def supports_all_positions(self) -> bool:
        """Whether one pass can give the exact state of every prefix: only the top layer may look backwards."""
        return not any(self.bidirectional_layers[:-1])

    def objection(self, objective: Objective) -> str | None:
        """Why an objective cannot train this backbone, and what to do; None: it can."""
        if objective == "all-positions" and not self.supports_all_positions:
            return (
                f'training.objective = "all-positions" needs layers below the top that read forwards only, found '
                f'backbone.bidirectional = "all" with {self.layers} layers; '
                f'set backbone.bidirectional = "top" or training.objective = "per-prefix"'
            )
        return super().objection(objective)


class Mamba4RecConfig(Mamba2Sizes):
    """Mamba4Rec: Mamba-2 layers that read forwards only."""

    name: Literal["mamba4rec"] = "mamba4rec"

    @property
    def as_ssd4rec(self) -> SSD4RecConfig:
        """The same network, said in SSD4Rec's settings."""
        return SSD4RecConfig(**self.sizes, norm_embedding=True, bidirectional="none")


class SASRecConfig(TransformerSizes):
    """SASRec: causal self-attention."""

    name: Literal["sasrec"] = "sasrec"


class BERT4RecConfig(TransformerSizes):
    """BERT4Rec: self-attention in both directions."""

    objectives: ClassVar[tuple[Objective, ...]] = ("masked-item", "per-prefix")

    name: Literal["bert4rec"] = "bert4rec"


class GRU4RecConfig(BackboneSettings):
    """GRU4Rec: a gated recurrent network."""

    name: Literal["gru4rec"] = "gru4rec"
    hidden: int = Field(128, ge=1)  # width of the recurrent state
    layers: int = Field(1, ge=1)
    max_length: int = Field(200, ge=1)  # events that are read one after the other


class CaserConfig(BackboneSettings):
    """Caser: convolutions over the last few events."""

    name: Literal["caser"] = "caser"
    window: int = Field(5, ge=1)  # events that are read: L in its paper
    horizontal: int = Field(16, ge=1)  # filters of each height 1 … window
    vertical: int = Field(4, ge=1)  # filters along a channel


class SIGMAConfig(Mamba2Sizes):
    """SIGMA: a mixer over the history and over the history partly reversed, and a GRU."""

    name: Literal["sigma"] = "sigma"
    kept: int = Field(5, ge=0)  # events at the end that are not reversed: r in its paper

    def objection(self, objective: Objective) -> str | None:
        """Why an objective cannot train this backbone, and what to do; None: it can."""
        if objective == "all-positions" and self.layers > 1:
            return (
                f'training.objective = "all-positions" needs one layer of SIGMA (its states differ between prefixes), found '
                f'backbone.layers = {self.layers}; set backbone.layers = 1 or training.objective = "per-prefix"'
            )
        return super().objection(objective)

    @property
    def mixer(self) -> SSD4RecConfig:
        """The sizes of its mixer."""
        return SSD4RecConfig(**self.sizes)


def _name(value: Any) -> str | None:
    """Which backbone settings are meant for."""
    if isinstance(value, dict):
        return str(value.get("name", DEFAULT_BACKBONE))
    return getattr(value, "name", None)


BackboneConfig = Annotated[
    Annotated[SSD4RecConfig, Tag("ssd4rec")]
    | Annotated[SASRecConfig, Tag("sasrec")]
    | Annotated[BERT4RecConfig, Tag("bert4rec")]
    | Annotated[GRU4RecConfig, Tag("gru4rec")]
    | Annotated[CaserConfig, Tag("caser")]
    | Annotated[Mamba4RecConfig, Tag("mamba4rec")]
    | Annotated[SIGMAConfig, Tag("sigma")],
    Discriminator(_name),
]

BACKBONES: dict[str, type[BackboneSettings]] = {
    "ssd4rec": SSD4RecConfig,
    "sasrec": SASRecConfig,
    "bert4rec": BERT4RecConfig,
    "gru4rec": GRU4RecConfig,
    "caser": CaserConfig,
    "mamba4rec": Mamba4RecConfig,
    "sigma": SIGMAConfig,
}
