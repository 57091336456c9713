"""The training section: stages, their optimisers and the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from energynets.config_models import Above0, EnergyModel, From0, Positive, Section, Share, is_linear

Rule = Literal["adam", "adamw", "sgd"]
Loss = Literal["bce", "softmax", "mse", "soft_f1", "sample_f1"]
Group = Literal["features", "unary", "energy", "inference"]
GROUPS: tuple[Group, ...] = get_args(Group)


class GroupOptimizer(Section):
    """How one group of parameters is trained; what is left out is as in the rest of the stage."""

    kind: Rule | None = Field(default=None, description="update rule")
    learning_rate: Above0 | None = Field(default=None, description="at the start of the stage")
    weight_decay: From0 | None = Field(default=None, description="L2 penalty (adamw: decoupled)")
    momentum: Share | None = Field(default=None, description="of sgd")


class Optimizer(Section):
    """One optimiser of torch and its learning rate over a stage; groups of parameters may have their own.

    A chunked output that is trained by sgd without momentum never has a gradient: each chunk of labels is updated by
    itself, to the same effect.
    """

    kind: Rule = Field(default="adam", description="update rule")
    learning_rate: Above0 = Field(default=1e-3, description="at the start of the stage")
    weight_decay: From0 = Field(default=0.0, description="L2 penalty (adamw: decoupled)")
    momentum: Share = Field(default=0.0, description="of sgd")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="of the learning rate over the stage, down to 0"
    )
    clip_norm: Above0 | None = Field(default=None, description="largest gradient norm, over all groups")
    features: GroupOptimizer | None = Field(default=None, description="what the feature network does otherwise")
    unary: GroupOptimizer | None = Field(default=None, description="what the output layer does otherwise")
    energy: GroupOptimizer | None = Field(default=None, description="what the energy does otherwise")
    inference: GroupOptimizer | None = Field(default=None, description="what the amortised start does otherwise")

    def of(self, group: str) -> Optimizer:
        """The settings of one group: its own, and where it has none those of the stage."""
        own = getattr(self, group, None)
        changed = {} if own is None else {key: value for key, value in own if value is not None}
        return self.model_copy(update={**changed, **dict.fromkeys(GROUPS)})

    @property
    def plain_sgd(self) -> bool:
        """Whether it keeps nothing between steps."""
        return self.kind == "sgd" and not self.momentum


class LinearFit(Section):
    """One-vs-rest linear classifiers of the features as the output layer: scikit-learn's, solved to the end."""

    loss: Literal["logistic", "hinge"] = Field(default="logistic", description="of each classifier")
    C: Above0 = Field(default=1.0, description="inverse of the L2 penalty")


class Stage(Section):
    """One stretch of training. What it trains decides the rest: without `energy` and `inference` the model is its own
    unary classifier; without `features` they are frozen, computed once and cached."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="in logs and results")
    trains: tuple[Group, ...] = Field(
        default=(), description="parameter groups that change; none named: all that the model has"
    )
    epochs: Positive = Field(default=20, description="passes over the training documents at most")
    optimizer: Optimizer = Field(default=Optimizer(), description="of this stage alone")
    loss: Loss | None = Field(default=None, description="of this stage, in place of objective.loss")
    cross_fit: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="folds: the energy learns from unary logits of documents that their network has not seen, one "
        "network a fold, trained as the stages before; null: from those of the network itself",
    )
    fit: LinearFit | None = Field(
        default=None,
        description="the output layer is solved for, given the features as they are; null: epochs of an optimiser",
    )
    patience: Positive | None = Field(
        default=None, description="evaluations without gain on validation before the stage ends"
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="weights the stage ends with: best on validation, or last, for a learning rate that decays to 0",
    )

    @model_validator(mode="after")
    def _a_fit_has_no_steps(self) -> Self:
        if self.fit is None:
            return self
        if "epochs" not in self.model_fields_set:
            object.__setattr__(self, "epochs", 1)  # it is seen as one, and models are frozen
        if self.trains != ("unary",):
            raise ValueError(f"fit: is of the output layer alone: set trains: [unary], got {list(self.trains)}")
        usual = Stage(name=self.name, epochs=1)
        for key in ("epochs", "optimizer", "loss", "cross_fit", "patience"):
            if getattr(self, key) != getattr(usual, key):
                raise ValueError(f"{key}: a stage with fit is solved in one go: leave it out")
        return self


def check_stage_losses(stages: Sequence[Stage], objective: Any, model: Any) -> None:
    """Raise `ValueError` where a stage's own loss does not go with the rest, naming the key to change."""
    for number, stage in enumerate(stages):
        if stage.loss is None:
            continue
        key = f"training.stages.{number}.loss"
        if objective.kind != "end_to_end":
            raise ValueError(f"{key}: goes with objective.kind end_to_end alone, got {objective.kind}: set it to null")
        if "softmax" in (stage.loss, objective.loss) and stage.loss != objective.loss:
            raise ValueError(
                f"{key}: scores are softmax(z) where the loss is softmax, in every stage: got {stage.loss} and "
                f"objective.loss {objective.loss}"
            )
        if objective.propensity is not None and stage.loss != "bce":
            raise ValueError(f"{key}: objective.propensity goes with bce alone, got {stage.loss}")
        chunked = getattr(model, "label_chunk", None) or getattr(model, "shortlist", None)
        chunked = chunked or getattr(getattr(model, "output", None), "kind", None) == "chunked"
        if chunked and stage.loss != objective.loss:
            raise ValueError(f"{key}: labels in chunks have objective.loss alone: set it to null")


def check_cross_fit(stages: Sequence[Stage], model: Any, training: Training) -> None:
    """Raise `ValueError` where a stage cannot learn from held-out unary logits, naming the key to change."""
    for number, stage in enumerate(stages):
        if stage.cross_fit is None:
            continue
        key = f"training.stages.{number}.cross_fit"
        if not isinstance(model, EnergyModel):
            raise ValueError(f"{key}: needs model.kind energy_network, got {model.kind}")
        if stage.trains != ("energy",):
            raise ValueError(
                f"{key}: the stage trains the energy alone: set trains: [energy], got {list(stage.trains)}"
            )
        earlier = {group for before in stages[:number] for group in before.trains}
        needed = {"unary"} if is_linear(model.features) else {"features", "unary"}
        if not needed <= earlier or "energy" in earlier:
            raise ValueError(f"{key}: stages before it train {' and '.join(sorted(needed))}, and no energy")
        if any(before.cross_fit is not None for before in stages[:number]):
            raise ValueError(f"{key}: one stage alone may have it")
        for other in ("label_chunk", "shortlist", "amortized"):
            if getattr(model, other) is not None:
                raise ValueError(f"{key}: reads the unary logits of all labels: set model.{other} to null")
        if model.neighbours is not None:
            raise ValueError(f"{key}: the folds' documents are each other's neighbours: set model.neighbours to null")
        for other in ("condition_measurements", "gate"):
            if getattr(model.energy, other, False):
                raise ValueError(
                    f"{key}: each fold has features of its own, so the energy reads none: set model.energy.{other} to "
                    "false"
                )
        if training.parallel.labels > 1:
            raise ValueError(f"{key}: one process alone: set training.parallel.labels to 1")


def check_fit(stages: Sequence[Stage], model: Any, objective: Any, training: Training) -> None:
    """Raise `ValueError` where an output layer cannot be solved for, naming the key to change."""
    for number, stage in enumerate(stages):
        if stage.fit is None:
            continue
        key = f"training.stages.{number}.fit"
        if model.kind not in ("classifier", "energy_network"):
            raise ValueError(f"{key}: model.kind {model.kind} has no stages")
        if getattr(objective, "loss", None) == "softmax":
            raise ValueError(f"{key}: its scores are of each label by itself: objective.loss is softmax, set it to bce")
        if getattr(objective, "propensity", None) is not None:
            raise ValueError(f"{key}: counts what is not listed as false: set objective.propensity to null")
        if not (model.bias if model.kind == "classifier" else model.energy.bias):
            where = "model.bias" if model.kind == "classifier" else "model.energy.bias"
            raise ValueError(f"{key}: the classifiers have a bias: set {where} to true")
        if getattr(getattr(model, "output", None), "weights", None) == "bf16":
            raise ValueError(f"{key}: what it solves for is not rounded: set model.output.weights to float32")
        if number == 0 and training.initial_bias != "random":
            raise ValueError(
                f"{key}: the first stage solves for the bias, and does not start at training.initial_bias "
                f"{training.initial_bias}: set it to random"
            )
        if model.observes:
            raise ValueError(f"{key}: does not see known labels: set model.observes to false")
        if model.neighbours is not None:
            raise ValueError(
                f"{key}: knows nothing of neighbours, which add to its scores: set model.neighbours to null"
            )
        if training.parallel.labels > 1:
            raise ValueError(f"{key}: one process alone: set training.parallel.labels to 1")


class Parallel(Section):
    """How several processes, started with torchrun, share the work; one process has all of it."""

    labels: Positive = Field(
        default=1, description="shards of the labels; the number of processes over it is that of shares of a batch"
    )


class Reveal(Section):
    """Labels shown in training: of each document a share drawn from low to high, anew in each epoch, true labels and
    false alike. The model is given them, and the loss is of the rest."""

    low: Share = Field(default=0.0, description="least share of a document's labels")
    high: Share = Field(default=0.9, description="largest share")
    validation: Share = Field(default=0.5, description="share shown in validation, whose rest is monitored")

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low: expected at most high, {self.high:g}, got {self.low:g}")
        return self


class Training(Section):
    """The loop: batches, stages, what is watched and what is kept."""

    batch_size: Positive = Field(default=64, description="documents an update")
    length_window: Positive = Field(
        default=1,
        description="batches of token sequences whose documents are sorted by length together, so that little is "
        "padding; 1: none are. For networks that compute padding, which ours do not",
    )
    stages: tuple[Stage, ...] | None = Field(
        default=None,
        min_length=1,
        description="default: one stage for a classifier; unary, energy, joint for an energy network",
    )
    initial_bias: Literal["random", "frequencies"] = Field(
        default="random",
        description="u0 before the first step: as drawn, or each label's log odds among training documents, for bce "
        "over many labels",
    )
    monitor: str = Field(
        default="f1_example", description="validation metric (or `loss`) that picks the best checkpoint"
    )
    evaluate_every: Positive = Field(default=1, description="epochs between evaluations on validation")
    checkpoint_every: Positive | None = Field(
        default=None, description="steps between checkpoints; always one at each epoch's end"
    )
    cache: Literal["memory", "disk"] = Field(default="memory", description="where frozen features are kept")
    reveal: Reveal | None = Field(default=None, description="labels that are shown to the model; null: none")
    parallel: Parallel = Field(default=Parallel(), description="processes that train together")
    compile: Literal["none", "engine", "graph"] = Field(
        default="none",
        description="engine: inference through torch.compile, for a GPU (on a CPU it is slower); "
        "graph: the whole step as CUDA graphs; what cannot be compiled runs as ever, and says so",
    )
