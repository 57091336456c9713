"""The objective section: what training minimises.

An objective's keys are the arguments of its class. This module names objectives and builds nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from energynets.config_models import (
    Above0,
    AndersonConfig,
    BundleEntropyConfig,
    EnergyModel,
    From0,
    ImplicitConfig,
    Positive,
    Section,
    UnrollConfig,
)
from energynets.config_training import Loss, Training


class EndToEndConfig(Section):
    """A loss on the logits that inference ends at, differentiated through all its steps."""

    kind: Literal["end_to_end"] = "end_to_end"
    loss: Loss = Field(
        default="bce", description="on logits; mse on y; sample_f1: the expected example-F1 of independent labels"
    )
    steps: Literal["last", "all"] = Field(
        default="last", description="loss on z_T, or its mean over z_1..z_T weighted towards the last"
    )
    convergence_penalty: From0 = Field(
        default=0.0, description="weight of the squared change of y that a mean-field step after the last would make"
    )
    propensity: Annotated[float, Field(gt=0, le=1)] | Literal["jain"] | None = Field(
        default=None,
        description="chance that a true label of a training document is listed, for bce: one number, or jain, each "
        "label's by evaluation.propensity; null: all are",
    )


class EnergyObjective(Section):
    """Of the energy's values: stages that train neither energy nor inference have the loss bce."""

    @property
    def loss(self) -> str:
        """What probabilities mean."""
        return "bce"

    @property
    def steps(self) -> str:
        """Which steps it differentiates, were it a loss on them."""
        return "last"


class StructuredHingeConfig(EnergyObjective):
    """The true labels' energy is lower than all others', by the cost of these (SSVM)."""

    kind: Literal["structured_hinge"] = "structured_hinge"
    cost: Literal["hamming", "f1"] = Field(default="hamming", description="of labels that are not the true ones")
    margin: From0 = Field(default=1.0, description="weight of the cost; 0: the structured perceptron")


class ValueNetworkConfig(EnergyObjective):
    """The energy learns how well labels agree with the true ones, inference climbs that (DVN)."""

    kind: Literal["value_network"] = "value_network"
    agreement: Literal["f1", "iou"] = Field(default="f1", description="what the value is to be")


class InferenceNetworkConfig(EnergyObjective):
    """The amortised start and the energy play a game: one seeks low energies, the other denies them (InfNet)."""

    kind: Literal["inference_network"] = "inference_network"
    cost: Literal["hamming", "f1"] = Field(default="hamming", description="of labels that are not the true ones")
    margin: From0 = Field(default=1.0, description="weight of the cost; 0: the perceptron")
    local_weight: From0 = Field(default=1.0, description="of the amortised start's own cross-entropy")


class ContrastiveConfig(EnergyObjective):
    """The true labels are told from samples of the unary (NCE ranking)."""

    kind: Literal["contrastive"] = "contrastive"
    samples: Positive = Field(default=16, description="of the proposal, a document and step")
    temperature: Above0 = Field(default=1.0, description="of the proposal; above 1 samples are more diverse")


Objective = Annotated[
    EndToEndConfig | StructuredHingeConfig | ValueNetworkConfig | InferenceNetworkConfig | ContrastiveConfig,
    Field(discriminator="kind"),
]


def with_kind(given: Any) -> Any:
    """A section that names no kind is of the default one."""
    return {"kind": "end_to_end", **given} if isinstance(given, dict) else given


def check_objective(objective: Any, model: Any, training: Training) -> None:
    """Raise `ValueError` where an objective does not go with the rest, naming the key to change."""
    kind = objective.kind
    amortized = getattr(model, "amortized", None)
    # First of all, for no amortised start goes with these either.
    for key in ("label_chunk", "shortlist"):
        if isinstance(model, EnergyModel) and kind != "end_to_end" and getattr(model, key) is not None:
            raise ValueError(f"objective.kind: model.{key} goes with end_to_end alone, got {kind}: set it to null")
    if kind == "inference_network" and isinstance(model, EnergyModel) and amortized is None:
        raise ValueError("objective.kind: inference_network trains an amortised start: set model.amortized")
    if isinstance(objective, EndToEndConfig):
        _check_steps(objective, model)
        return
    if not isinstance(model, EnergyModel):
        raise ValueError(f"objective.kind: {kind} needs model.kind energy_network, got {model.kind}")
    if amortized is not None and kind != "inference_network":
        raise ValueError(f"model.amortized: {kind} does not train it: use objective.kind inference_network, or null")
    if not isinstance(model.gradient, UnrollConfig):
        raise ValueError(f"model.gradient: {kind} does not differentiate inference: leave it out")
    if getattr(model.solver, "learn_step_sizes", False):
        raise ValueError(f"model.solver.learn_step_sizes: {kind} does not differentiate inference: set it to false")
    of_its_own = isinstance(model.solver, AndersonConfig | BundleEntropyConfig)
    if of_its_own and (kind == "value_network" or getattr(objective, "cost", "") == "f1"):
        what = "value_network" if kind == "value_network" else f"{kind} with cost f1"
        raise ValueError(
            f"model.solver.kind: {what} changes the energy that is minimised, which {model.solver.kind} does not take: "
            "use mirror_descent, gradient_descent or projected_gradient"
        )
    if training.compile != "none":
        raise ValueError(f"training.compile: {kind} goes with none alone, got {training.compile}")


def _check_steps(objective: EndToEndConfig, model: Any) -> None:
    """What the loss of a step needs of inference."""
    if objective.convergence_penalty:
        if not isinstance(model, EnergyModel):
            raise ValueError(f"objective.convergence_penalty: needs model.kind energy_network, got {model.kind}")
        for key in ("label_chunk", "shortlist"):
            if getattr(model, key) is not None:
                raise ValueError(f"objective.convergence_penalty: reads all labels at once: set model.{key} to null")
    if not isinstance(model, EnergyModel):
        return
    if isinstance(model.gradient, ImplicitConfig):
        if objective.steps == "all":
            raise ValueError(
                "objective.steps: all needs steps, and model.gradient implicit knows the last alone: use unroll"
            )
        if objective.convergence_penalty:
            raise ValueError("objective.convergence_penalty: model.gradient implicit assumes convergence: use unroll")
    if isinstance(model.solver, BundleEntropyConfig):
        if objective.steps == "all":
            raise ValueError("objective.steps: all needs steps, and model.solver bundle_entropy knows the last alone")
        if objective.convergence_penalty:
            raise ValueError("objective.convergence_penalty: model.solver bundle_entropy ends at its minimum: use 0")
