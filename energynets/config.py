"""The experiment as typed data: what a YAML file may say, checked before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from energynets.config_data import Data, Missing, Planted, Text
from energynets.config_errors import explain
from energynets.config_models import (
    Above0,
    AndersonConfig,
    BagOfWordsConfig,
    BayesModel,
    BundleEntropyConfig,
    ChunkedOutputConfig,
    ClassifierModel,
    EnergyConfig,
    EnergyModel,
    Features,
    FrequencyModel,
    GradientConfig,
    GradientDescentConfig,
    ICNNConfig,
    ImplicitConfig,
    KimCNNConfig,
    LabelTreeModel,
    LinearModel,
    LinearOutputConfig,
    MirrorDescentConfig,
    Model,
    NeighboursModel,
    OutputConfig,
    Positive,
    ProjectedGradientConfig,
    Section,
    Share,
    ShortlistConfig,
    SolverConfig,
    SPENConfig,
    TargetEmbeddingModel,
    TruncatedConfig,
    UnrollConfig,
    XMLCNNConfig,
    is_linear,
)
from energynets.config_objectives import (
    ContrastiveConfig,
    EndToEndConfig,
    InferenceNetworkConfig,
    Objective,
    StructuredHingeConfig,
    ValueNetworkConfig,
    check_objective,
    with_kind,
)
from energynets.config_training import (
    GROUPS,
    Group,
    GroupOptimizer,
    LinearFit,
    Optimizer,
    Parallel,
    Reveal,
    Stage,
    Training,
    check_cross_fit,
    check_fit,
    check_stage_losses,
)
from energynets.errors import ConfigError, nearest
from energynets.strict_yaml import apply_override, format_yaml, read_yaml

__all__ = [
    "AndersonConfig",
    "BagOfWordsConfig",
    "BayesModel",
    "BundleEntropyConfig",
    "ChunkedOutputConfig",
    "ClassifierModel",
    "ContrastiveConfig",
    "Data",
    "EndToEndConfig",
    "EnergyConfig",
    "EnergyModel",
    "Evaluation",
    "Experiment",
    "Features",
    "FrequencyModel",
    "GradientConfig",
    "GradientDescentConfig",
    "GroupOptimizer",
    "ICNNConfig",
    "ImplicitConfig",
    "InferenceNetworkConfig",
    "KimCNNConfig",
    "LabelTreeModel",
    "LinearFit",
    "LinearModel",
    "LinearOutputConfig",
    "MirrorDescentConfig",
    "Missing",
    "Model",
    "NeighboursModel",
    "Objective",
    "Optimizer",
    "OutputConfig",
    "Parallel",
    "Planted",
    "ProjectedGradientConfig",
    "Reveal",
    "SPENConfig",
    "ShortlistConfig",
    "SolverConfig",
    "Stage",
    "StructuredHingeConfig",
    "TargetEmbeddingModel",
    "Text",
    "Training",
    "TruncatedConfig",
    "UnrollConfig",
    "ValueNetworkConfig",
    "XMLCNNConfig",
    "is_linear",
]


SEED_LIMIT = 2**32
"""Every seed is below it, as NumPy's legacy generators and scikit-learn's have it."""


class Evaluation(Section):
    """What is measured, and how scores become sets of labels."""

    AFTERWARDS: ClassVar[tuple[str, ...]] = ("observed", "draws", "decoding")
    """What training never looks at: a trained run can be measured anew with other values."""

    ks: tuple[Positive, ...] = Field(default=(1, 3, 5), min_length=1, description="k of P@k, nDCG@k, PSP@k, PSnDCG@k")
    propensity: tuple[Above0, Above0] = Field(default=(0.55, 1.5), description="(a, b) of the propensity model")
    threshold_rule: Literal["f1_example"] = Field(
        default="f1_example", description="what decoding maximises on validation"
    )
    decoding: Literal["global", "per_label", "expected_f1"] = Field(
        default="global",
        description="sets of labels: one threshold, one a label, or the largest expected F1 of each document; "
        "epochs are watched under one threshold",
    )
    top: Positive | None = Field(
        default=None, description="scores kept of each document; default: all up to 1,024 labels, else 256"
    )
    batch_size: Positive = Field(default=256, description="documents a batch of scoring")
    observed: tuple[Share, ...] = Field(
        default=(), description="shares of a document's labels that are shown, each measured on the rest besides"
    )
    draws: Positive = Field(
        default=1, description="times that the labels shown are drawn anew; what is measured of the rest is the mean"
    )

    def metric_names(self) -> tuple[str, ...]:
        """Every metric that is measured, in the order of results."""
        at_k = tuple(f"{metric}@{k}" for k in self.ks for metric in ("precision", "ndcg", "psp", "psndcg"))
        sets = ("f1_example", "f1_micro", "f1_macro", "hamming_loss", "subset_accuracy")
        return at_k + sets + tuple(f"{name}_at_0.5" for name in sets)

    def shares_shown(self) -> tuple[str, ...]:
        """The shares of `observed` above 0, as results name them."""
        return tuple(f"{share:g}" for share in self.observed if share)


class Experiment(Section):
    """One experiment: data, model, objective, training, evaluation.

    Example:
        >>> from energynets import Experiment
        >>> model = {"kind": "classifier", "features": {"kind": "bag_of_words", "hidden": [8]}}
        >>> tree = {"name": "small", "data": {"name": "bibtex"}, "model": model}
        >>> Experiment.from_tree(tree, ["model.features.hidden=[16, 4]"]).model.features.hidden
        (16, 4)
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        max_length=100,
        description="the run's folder and row; default: the file's name",
    )
    seed: int = Field(default=0, ge=0, lt=SEED_LIMIT, description="of weights, batches and dropout")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    data: Data = Field(description="which documents")
    model: Model = Field(description="x -> logits")
    objective: Objective = Field(default=EndToEndConfig(), description="what training minimises")
    training: Training = Field(default=Training(), description="the loop")
    evaluation: Evaluation = Field(default=Evaluation(), description="what is measured")

    @field_validator("objective", mode="before")
    @classmethod
    def _objective_has_a_kind(cls, given: Any) -> Any:
        return with_kind(given)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        names = set()
        for number, stage in enumerate(self.training.stages or ()):
            if not isinstance(self.model, EnergyModel) and "energy" in stage.trains:
                raise ValueError(
                    f"training.stages.{number}.trains: 'energy' needs model.kind energy_network, got {self.model.kind}"
                )
            if "inference" in stage.trains and getattr(self.model, "amortized", None) is None:
                raise ValueError(f"training.stages.{number}.trains: 'inference' needs model.amortized")
            if stage.name in names:
                raise ValueError(f"training.stages.{number}.name: two stages are called {stage.name!r}")
            names.add(stage.name)
        check_objective(self.objective, self.model, self.training)
        stages = self._stages_written()
        check_stage_losses(stages, self.objective, self.model)
        check_cross_fit(stages, self.model, self.training)
        check_fit(stages, self.model, self.objective, self.training)
        self._optimizers_fit()
        self._output_fits()
        if isinstance(self.model, EnergyModel):
            for key in ("label_chunk", "shortlist"):
                if getattr(self.model, key) is not None:
                    self._last_loss_fits(f"model.{key}")
        if self.training.parallel.labels > 1:
            self._shards_fit()
        self._partly_known_labels_fit()
        valid = ("loss", *self.evaluation.metric_names())
        if self.training.monitor not in valid:
            raise ValueError(
                f"training.monitor: unknown metric {self.training.monitor!r}{nearest(self.training.monitor, valid)}"
            )
        if isinstance(self.model, BayesModel) and self.data.planted is None:
            raise ValueError("model.kind: bayes_optimal needs data.planted, whose posterior is known")
        if isinstance(self.model, ClassifierModel | EnergyModel):
            reads_tokens = not isinstance(self.model.features, BagOfWordsConfig)
            if reads_tokens and self.data.inputs in ("counts", "tfidf"):
                raise ValueError(f"data.inputs: {self.model.features.kind} reads tokens, got {self.data.inputs}")
        return self

    def _optimizers_fit(self) -> None:
        for number, stage in enumerate(self._stages_written()):
            for group in GROUPS:
                if getattr(stage.optimizer, group) is not None and group not in stage.trains:
                    raise ValueError(
                        f"training.stages.{number}.optimizer.{group}: the stage trains {', '.join(stage.trains)} alone"
                    )

    def _output_fits(self) -> None:
        output = getattr(self.model, "output", None)
        if not isinstance(output, ChunkedOutputConfig):
            return
        if self.objective.loss not in ("bce", "softmax"):
            raise ValueError(
                f"objective.loss: model.output chunked computes bce and softmax, got {self.objective.loss}: "
                "use one of these, or output kind linear"
            )
        for number, stage in enumerate(self.stages if output.weights == "bf16" else ()):
            if "unary" in stage.trains and not stage.optimizer.of("unary").plain_sgd:
                raise ValueError(
                    "model.output.weights: bf16 is trained by sgd without momentum alone: set "
                    f"training.stages.{number}.optimizer.unary: {{kind: sgd, momentum: 0}}"
                )

    def _partly_known_labels_fit(self) -> None:
        model, network = self.model, isinstance(self.model, ClassifierModel | EnergyModel)
        if self.training.reveal is not None and not network:
            raise ValueError(f"training.reveal: model.kind {model.kind} cannot be shown labels: set it to null")
        if self.training.reveal is None and getattr(model, "observes", False):
            raise ValueError("model.observes: no labels are shown in training: set training.reveal")
        propensity = getattr(self.objective, "propensity", None)
        if propensity is not None and self.objective.loss != "bce":
            raise ValueError(f"objective.propensity: goes with loss bce alone, got {self.objective.loss}")
        chunks = {key: "null" for key in ("label_chunk", "shortlist") if getattr(model, key, None) is not None}
        chunks |= {"output.kind": "linear"} if isinstance(getattr(model, "output", None), ChunkedOutputConfig) else {}
        given = {
            "training.reveal": self.training.reveal is not None,
            "evaluation.observed": bool(self.evaluation.observed),
            "objective.propensity": propensity is not None,
        }
        for key in (key for key, there in given.items() if there and chunks):
            remedy = " and ".join(f"model.{where} to {what}" for where, what in chunks.items())
            raise ValueError(f"{key}: needs all labels at once: set {remedy}")

    def _shards_fit(self) -> None:
        """Labels are cut into shards where they come in chunks."""
        model = self.model
        if isinstance(model, EnergyModel) and model.shortlist is not None:
            raise ValueError("training.parallel.labels: shards do not go with model.shortlist: set it to null")
        if isinstance(model, EnergyModel) and model.label_chunk is None:
            raise ValueError("training.parallel.labels: shards need chunks of labels: set model.label_chunk")
        if isinstance(model, ClassifierModel) and not isinstance(model.output, ChunkedOutputConfig):
            raise ValueError(
                "training.parallel.labels: shards need chunks of labels: set model.output: {kind: chunked}"
            )
        if not isinstance(model, EnergyModel | ClassifierModel):
            raise ValueError(f"training.parallel.labels: model.kind {model.kind} is fitted by one process: set it to 1")

    def _last_loss_fits(self, key: str) -> None:
        if self.objective.loss != "bce":
            raise ValueError(f"objective.loss: {key} goes with bce alone, got {self.objective.loss}")
        if self.objective.steps != "last":
            raise ValueError(f"objective.steps: {key} has the loss of the last step alone: use last")
        if self.training.compile != "none":
            raise ValueError(f"training.compile: {key} goes with none alone, got {self.training.compile}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that run: those given, or the default of the model's kind; each says what it trains.

        None of a baseline, which is fitted in one go whatever stages it was given.
        """
        return self._stages_written() if isinstance(self.model, ClassifierModel | EnergyModel) else ()

    def _stages_written(self) -> tuple[Stage, ...]:
        """The same, and those that a baseline was given, which are to be valid too."""
        classifier: tuple[Group, ...] = ("features", "unary")
        found = self.training.stages
        every: tuple[Group, ...] = (*classifier, "energy") if isinstance(self.model, EnergyModel) else classifier
        if getattr(self.model, "amortized", None) is not None:
            every = (*every, "inference")
        if found is None and isinstance(self.model, EnergyModel):
            found = (
                Stage(name="unary", trains=classifier, epochs=30, patience=5),
                Stage(name="energy", trains=("energy",), epochs=10, patience=3),
                Stage(name="joint", epochs=10, patience=3, optimizer=Optimizer(learning_rate=1e-4)),
            )
        elif found is None and isinstance(self.model, ClassifierModel):
            found = (Stage(name="unary", epochs=50, patience=5),)
        return tuple(stage.model_copy(update={"trains": stage.trains or every}) for stage in found or ())

    def hash(self, *, trained: bool = False) -> str:
        """Identity of the experiment: equal for equal settings, whatever the seed, name, device, data folder,
        compiler, labels at a time or processes.

        Args:
            trained: of what training depends on alone: whatever is measured of it afterwards (`Evaluation.AFTERWARDS`).
        """
        how: Any = {"seed": True, "name": True, "device": True, "data": {"root"}, "training": {"compile", "parallel"}}
        how["model"] = {"label_chunk", "keep_unary"}
        how["evaluation"] = set(Evaluation.AFTERWARDS) if trained else set()
        # What there was before there was a choice is left out: runs from then stay theirs.
        if self.evaluation.decoding == "global":
            how["evaluation"] |= {"decoding"}
        if self.evaluation.draws == 1:
            how["evaluation"] |= {"draws"}
        if getattr(self.model, "neighbours", None) is None:
            how["model"] |= {"neighbours"}
        if self.training.initial_bias == "random":
            how["training"] |= {"initial_bias"}
        settings = self.model_dump(mode="json", exclude=how)
        for stage in settings["training"]["stages"] or ():
            if stage["fit"] is None:
                del stage["fit"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """The resolved configuration, every default written out; `load` reads it back as an equal experiment."""
        return format_yaml(self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """Read a YAML file, then apply overrides like `training.batch_size=32`.

        Raises:
            ConfigError: naming the file, the path of the key, and the nearest valid name.
        """
        path = Path(path)
        tree = read_yaml(path)
        tree.setdefault("name", path.stem)
        return cls.from_tree(tree, overrides, source=str(path))

    @classmethod
    def from_tree(
        cls, tree: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "configuration"
    ) -> Experiment:
        """Check a tree of plain values (what YAML holds), overrides applied.

        Raises:
            ConfigError: as `load`.
        """
        try:
            merged = json.loads(json.dumps(tree))
            for override in overrides:
                apply_override(merged, override)
            text = json.dumps(merged)
        except (TypeError, ValueError, RecursionError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{source}: expected names, numbers, text, lists and mappings: {error}") from None
        try:
            # Strict: "64" is not a number, 1 is not a boolean. Only JSON input lets lists be tuples then.
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise ConfigError(f"{source}: {explain(error, cls)}") from None

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema of a configuration file, for editors: what `load` accepts, `extends` included.

        Sections may be partial, as a file that extends another may write any part of them.
        """
        schema = _partial(cls.model_json_schema())
        schema["description"] = schema["description"].partition("\n")[0]  # without the example in Python
        schema["properties"]["extends"] = {
            "type": "string",
            "description": "path, relative to this file, of a configuration whose settings this one changes",
        }
        schema["anyOf"] = [{"required": ["extends"]}, {"required": ["data", "model"]}]
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _partial(node: Any) -> Any:
    if isinstance(node, list):
        return [_partial(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    # A partial section fits several kinds, which oneOf refuses.
    kept = {key: value for key, value in node.items() if key not in ("required", "discriminator")}
    return {("anyOf" if key == "oneOf" else key): _partial(value) for key, value in kept.items()}
