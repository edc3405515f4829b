"""The groups of settings of a run, and `Config`, which holds them all."""

import json
from datetime import date
from decimal import Decimal
from math import inf, isfinite
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, Strict, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ssd4rec.config.backbones import MAX_MEMBERS, BackboneSettings, Objective, Settings
from ssd4rec.models.registry import BACKBONES, DEFAULT_MODEL, MODELS

TieOrder = Literal["file", "item"]
PairModel = Literal["sequential-rules", "sequential-ridge", "ease"]
TEACHING = ("teachers", "teacher_weight", "teacher_cooccurrence", "teacher_cooccurrence_model")  # in the group training
Baseline = Literal["personal-popularity", "sequential-rules", "sequential-ridge", "ease"]

MAX_SEED = 2**32 - 1
# Upper bounds catch typing errors before they cost gigabytes or hours.
MAX_EVENTS = 10_000_000  # of one sequence
MAX_TOKENS = 100_000_000  # of one batch: 800 MB of item indices
MAX_EPOCHS = 1_000_000
MAX_NEGATIVES = 10_000_000
MAX_CORE = 1_000_000
FULL_SOFTMAX_MAX_ITEMS = 50_000  # items, where training.softmax = "auto"


class DataConfig(Settings):
    """How interactions become sequences and examples."""

    user: str | None = None
    """Name of the user column; by default a usual name such as user_id is chosen."""
    item: str | None = None
    """Name of the item column; by default a usual name such as item_id is chosen."""
    time: str | None = None
    """Name of the time column; by default a usual name such as timestamp is chosen."""
    columns: tuple[str, ...] = Field((), strict=False)
    """Names of the columns of a file without a header, by position; "_" skips a column."""
    separator: str | None = None
    """Separator of text files: a character, "::", "tab" or "space"; by default it is detected."""
    layout: Literal["auto", "interactions", "sequences"] = "auto"
    """One interaction per line, or one user per line followed by the items (sequences)."""
    where: str | None = None
    """SQL condition that selects rows, such as event = 'purchase'."""
    min_rating: float | None = None
    """Drop interactions with a lower rating."""
    time_format: str | None = None
    """Format of text times, as in strptime; by default it is detected."""
    constant_user: str | None = None
    """User id for all rows of a file without a user column."""
    drop_missing: bool = False
    """Drop rows whose user or item is missing or a placeholder such as NA."""
    duplicates: Literal["keep", "drop"] = "keep"
    """What to do with interactions that equal an earlier one in user, item and time."""
    max_expansion: float = Field(250.0, ge=1.0)
    """Limit for compressed files: decompressed bytes per compressed byte, above 64 MB."""
    min_interactions: int = Field(5, ge=1, le=MAX_CORE)
    """Minimum number of interactions per user and per item (k of the iterative k-core filter)."""
    split: Literal["leave-last-out", "time"] = "leave-last-out"
    """How targets are held out: the last two interactions of each user, or all interactions after two moments."""
    validation_from: str | None = None
    """Start of the validation set for split = "time": an ISO date, or a number in the unit of the file; by default after
    80 % of the interactions.
    """
    test_from: str | None = None
    """Start of the test set for split = "time"; by default after 90 % of the interactions."""
    max_length: int | None = Field(None, ge=1, le=MAX_EVENTS)
    """Number of most recent interactions that the model reads, in training and serving; by default all."""
    tie_order: TieOrder = "file"
    """Order of simultaneous interactions of one user: as in the file, or by item id."""

    @field_validator("user", "item", "time", mode="before")
    @classmethod
    def _name_is_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value  # a column may be called 123

    @field_validator("validation_from", "test_from", mode="before")
    @classmethod
    def _moment_is_text(cls, value: object, about: ValidationInfo) -> object:
        """TOML has dates and numbers of its own: 1998-01-01 -> "1998-01-01", 1e9 -> "1000000000"."""
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, date):  # a date-time is one too
            return value.isoformat()
        if isinstance(value, int | float) and not isinstance(value, bool) and (number := Decimal(str(value))).is_finite():
            return f"{number:f}"
        raise ValueError(
            f"data.{about.field_name} must be a moment: an ISO date such as 2016-01-31, or a number in the unit of the file's "
            f"times; found {value!r}"
        )


def _number_or_tuned(value: object, about: ValidationInfo) -> object:
    """Check a weight or a bias of score fusion."""
    name = about.field_name or ""
    least = -inf if name == "repeat_bias" else 0.0
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value >= least:
        return value
    if value == "tuned":
        return value
    what = "a number that is added to scores" if name == "repeat_bias" else "a weight of 0 or more"
    part = "training" if name == "teacher_cooccurrence" else "fusion"
    raise ValueError(f'{part}.{name} must be {what}, or "tuned" (on the validation set); found {value!r}')


class TrainingConfig(Settings):
    """The objective, the optimizer and when to stop."""

    objective: Objective = "all-positions"
    """Prediction targets: every position of a sequence in one pass, the end of each prefix separately, or masked items."""
    prefixes_per_sequence: int | None = Field(None, ge=1, le=MAX_EVENTS)
    """With objective = "per-prefix": number of prefixes sampled per sequence and epoch; by default all."""
    batch_size: int | None = Field(None, ge=1, le=MAX_TOKENS)
    """With objective = "per-prefix": number of examples per batch; by default as many as token_budget allows."""
    token_budget: int = Field(8192, ge=1, le=MAX_TOKENS)
    """Number of positions per batch."""
    mask_ratio: float = Field(0.1, ge=0.0, lt=1.0)
    """Probability of masking an input item (rho); with objective = "masked-item", the share of predicted items."""
    learning_rate: float = Field(1e-3, gt=0.0)
    """Learning rate of Adam."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate schedule; cosine decreases it to 0 over max_epochs."""
    weight_decay: float = Field(0.0, ge=0.0)
    """L2 penalty of Adam."""
    ema_decay: float = Field(0.0, ge=0.0, lt=1.0)
    """Decay of an exponential moving average of the weights, which is validated and saved instead of the last weights; 0: off."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the probability of a target that is distributed over all items."""
    teachers: int | Literal["auto"] = 0
    """Number of networks side by side that are trained first, and whose predictions the model then learns in addition to its
    targets (knowledge distillation); 0: none; auto: 2 where items have fewer than 55 training interactions on average, and the
    targets of an epoch times the items are at most 10^10.
    """
    teacher_weight: float = Field(0.5, gt=0.0, le=1.0)
    """With teachers: share of the probability of a target that is distributed as they predict."""
    teacher_cooccurrence: float | Literal["tuned"] = 0.0
    """With teachers: weight of the scores of a regression that are added to theirs; "tuned" chooses it on the validation set, and
    is 0 if the 20,000 most frequent items have less than 95 % of the interactions.
    """
    teacher_cooccurrence_model: Literal["sequential-ridge", "ease", "auto"] = "auto"
    """With `teacher_cooccurrence`: which regression, see `fusion.cooccurrence_model`; auto chooses on the validation set."""
    softmax: Literal["auto", "full", "sampled"] = "auto"
    """Full or sampled softmax; auto samples above 50,000 items. Evaluation always ranks all items."""
    negatives: int = Field(4096, ge=1, le=MAX_NEGATIVES)
    """With a sampled softmax: number of negatives, shared by all targets of a batch."""
    negative_power: float = Field(0.5, ge=0.0, le=1.0)
    """With a sampled softmax: exponent of the training counts in the sampling distribution; 0 is uniform."""
    updated_rows: Literal["all", "touched"] = "all"
    """Rows of the item table that a step updates: all, or only those in the batch (sparse embedding updates)."""
    shard_item_table: bool = False
    """Spread the item table, its gradients and its moments over the processes of --devices; the weights are the same."""
    max_epochs: int = Field(300, ge=1, le=MAX_EPOCHS)
    """Maximum number of epochs."""
    patience: int = Field(10, ge=1, le=MAX_EPOCHS)
    """Stop after this number of epochs without a better validation NDCG@10."""
    final_fit: bool = False
    """After model selection, train a new model on all interactions for as many steps as were best; only this one is saved."""
    seed: int = Field(2024, ge=0, le=MAX_SEED)
    """Seed of the initial weights, batches, masks and dropout."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device; auto uses a CUDA GPU if there is one."""
    precision: Literal["auto", "32-true", "bf16-mixed", "64-true"] = "32-true"
    """Numerical precision; bf16-mixed uses bfloat16 in matrix products, auto does where the processor has instructions for it,
    64-true compares machines and numbers of processes.
    """
    random_numbers: Literal["batch", "sequence"] = "batch"
    """Source of masks and dropout: one generator per batch, or keyed by sequence (independent of the number of processes)."""
    deterministic: bool = False
    """Use deterministic algorithms on a GPU; on a CPU, results repeat for a fixed number of threads anyway."""

    @model_validator(mode="after")
    def _touched_rows_are_few(self) -> Self:
        if self.updated_rows == "touched" and self.softmax != "sampled":
            raise ValueError(
                f'training.updated_rows = "touched" needs training.softmax = "sampled", found "{self.softmax}": '
                f"the full softmax touches every row; set training.softmax=sampled or training.updated_rows=all"
            )
        for key in ("weight_decay", "label_smoothing"):
            if self.updated_rows == "touched" and (value := getattr(self, key)):
                raise ValueError(
                    f'training.updated_rows = "touched" updates only the rows of a batch, but training.{key} = {value} changes '
                    f"every row; set training.{key}=0.0 or training.updated_rows=all"
                )
        return self

    @field_validator("teachers", mode="before")
    @classmethod
    def _teachers_are_a_number_or_auto(cls, value: object) -> object:
        if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_MEMBERS):
            return value
        raise ValueError(f'training.teachers must be a number from 0 to {MAX_MEMBERS}, or "auto" (by the data); found {value!r}')

    _check = field_validator("teacher_cooccurrence", mode="before")(_number_or_tuned)

    @model_validator(mode="after")
    def _teachers_score_all_items(self) -> Self:
        if not self.needs_teachers:
            return self
        for key, value, instead in (("softmax", "sampled", "full"), ("shard_item_table", True, "false")):
            if (found := getattr(self, key)) == value:
                raise ValueError(
                    f"training.teachers = {self.teachers} needs the scores of all items in one process, but training.{key} = "
                    f"{json.dumps(found)}; set training.{key}={instead} or training.teachers=0"
                )
        return self

    @model_validator(mode="after")
    def _a_ridge_reads_what_came_before(self) -> Self:
        if self.objective == "masked-item" and self.teacher_cooccurrence not in (0, "tuned"):
            raise ValueError(
                f"training.teacher_cooccurrence = {self.teacher_cooccurrence:g} needs targets that follow what is read, but "
                f'training.objective is "masked-item"; set training.teacher_cooccurrence=0'
            )
        return self

    @property
    def needs_teachers(self) -> bool:
        """Whether there must be teachers: "auto" can do without."""
        return self.teachers not in (0, "auto")

    def samples(self, catalog_size: int) -> bool:
        """Return whether a catalog of this size is trained with a sampled softmax."""
        return self.softmax == "sampled" or (self.softmax == "auto" and catalog_size > FULL_SOFTMAX_MAX_ITEMS)


class FusionConfig(Settings):
    """Score fusion, which is saved and served with the model."""

    cooccurrence: float | Literal["tuned"] = 0.0
    """Weight of the co-occurrence score; "tuned" chooses it on the validation set."""
    cooccurrence_model: Literal["sequential-rules", "sequential-ridge", "ease", "auto"] = "sequential-rules"
    """Kind of co-occurrence score: decayed counts ("sequential-rules"), a regression of the next items on the last ones
    ("sequential-ridge"), or of each item on all others of a history ("ease"); auto chooses on the validation set, but takes the
    rules where less than 95 % of the interactions are with the 20,000 most frequent items.
    """
    repeat_bias: float | Literal["tuned"] = 0.0
    """Number added to the scores of items in the history, negative to penalize repeats; "tuned" chooses it on the
    validation set.
    """

    _check = field_validator("cooccurrence", "repeat_bias", mode="before")(_number_or_tuned)


class FeaturesConfig(Settings):
    """Item features, from the file of `--items`."""

    id: str | None = None
    """Name of the column of item ids; by default a usual name such as item_id is chosen."""
    columns: tuple[str, ...] = Field((), strict=False)
    """Names of the columns that are features; by default all but those of ids and titles."""
    vectors: tuple[str, ...] = Field((), strict=False)
    """Names of the columns to read as vectors of numbers where they would be read as categories: integers, or text in a CSV."""
    separator: str | None = Field(None, min_length=1)
    """Separator of several categories in one text, such as "|"."""
    min_items: int = Field(2, ge=1, le=MAX_CORE)
    """Ignore categories that fewer items of the interactions have."""
    new_items: bool = True
    """Add the items that have features but no interactions to the catalog, so that they can be recommended."""
    id_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of items, drawn in each step, that are trained with their features alone, as new items are served."""


class EvaluationConfig(Settings):
    """The metrics and the protocol of the evaluation."""

    cutoffs: tuple[Annotated[int, Strict()], ...] = Field((10, 20), strict=False)
    """Values of k in HR@k, NDCG@k and MRR@k."""
    exclude_seen: bool = False
    """Exclude items of the history from the candidates."""
    request_time: Literal["known", "unknown", "shuffled"] = "known"
    """Times for a model with backbone.request_time: those of the targets, none, or shuffled among the targets as a control."""
    baselines: tuple[Baseline, ...] = Field((), strict=False)
    """Baselines that are fitted and reported next to the model and popularity. Where a tenth or more of the interactions repeat
    an item of the user, personal-popularity (what the user took most often, then what is popular) is added."""
    unknown_targets: Literal["miss", "skip"] = "miss"
    """On other data: whether targets outside of the catalog count as misses or are skipped."""
    token_budget: int = Field(32768, ge=1, le=MAX_TOKENS)
    """Number of positions encoded at once; affects memory only."""

    @model_validator(mode="after")
    def _cutoffs_are_ranks(self) -> Self:
        if not self.cutoffs or any(cutoff < 1 for cutoff in self.cutoffs):
            raise ValueError(f"cutoffs must be ranks of 1 or more, e.g. [10, 20], found {list(self.cutoffs)}")
        return self


READ_WITH = {  # setting: the other setting, and the values of it with which the first has an effect
    "data.validation_from": ("data.split", ("time",)),
    "data.test_from": ("data.split", ("time",)),
    "backbone.backward_weight": ("backbone.bidirectional", ("top", "all")),
    "backbone.mirror_back": ("backbone.bidirectional", ("top", "all")),
    "training.prefixes_per_sequence": ("training.objective", ("per-prefix",)),
    "training.batch_size": ("training.objective", ("per-prefix",)),
    "training.teacher_weight": ("training.teachers", ("auto", *range(1, MAX_MEMBERS + 1))),
    "training.teacher_cooccurrence": ("training.teachers", ("auto", *range(1, MAX_MEMBERS + 1))),
    "training.teacher_cooccurrence_model": ("training.teachers", ("auto", *range(1, MAX_MEMBERS + 1))),
    "training.negatives": ("training.softmax", ("sampled", "auto")),
    "training.negative_power": ("training.softmax", ("sampled", "auto")),
}


def _as_backbone(value: object) -> object:
    """Validate a table of settings with the class of the backbone that it names."""
    if not isinstance(value, dict):
        return value
    name = str(value.get("name", DEFAULT_MODEL))
    if name not in BACKBONES:
        context = {"name": name, "known": ", ".join(MODELS)}
        raise PydanticCustomError("unknown_backbone", "unknown backbone '{name}'; known backbones: {known}", context)
    return BACKBONES[name].model_validate({"name": name, **value})


def _default_backbone() -> BackboneSettings:
    # when a Config is made: it imports the model, and with it PyTorch
    return BACKBONES[DEFAULT_MODEL](name=DEFAULT_MODEL)


BackboneConfig = Annotated[SerializeAsAny[BackboneSettings], BeforeValidator(_as_backbone)]


class Config(Settings):
    """All settings of a run."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = Field(default_factory=_default_backbone)
    training: TrainingConfig = TrainingConfig()
    fusion: FusionConfig = FusionConfig()
    features: FeaturesConfig = FeaturesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        if objection := self.backbone.objection(self.training.objective):
            raise ValueError(objection)
        return self

    def replaced(self, group: str, **changes: object) -> Self:
        """Return the settings with some of a group replaced by values that are not validated again."""
        return self.model_copy(update={group: getattr(self, group).model_copy(update=changes)})


def is_read(config: Config, name: str) -> bool:
    """Return whether `group.key` has an effect in a run with these settings; see `READ_WITH`."""
    group, _, key = name.partition(".")
    settings = getattr(config, group, None)
    if not isinstance(settings, Settings) or key not in type(settings).model_fields:
        return False
    other, values = READ_WITH.get(name, ("", ()))
    return not other or value_of(config, other) in values


def value_of(config: Config, name: str) -> object:
    """Return the value of `group.key`."""
    group, _, key = name.partition(".")
    return getattr(getattr(config, group), key)
