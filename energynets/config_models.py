"""The model section: feature networks, energies, solvers and what is built of them.

A component's keys are the arguments of its class: `features: {kind: xml_cnn, num_filters: 128}` is
`XMLCNN(num_filters=128)`. This module names components and builds nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator


class Section(BaseModel):
    """A mapping of the YAML file: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0)]
From0 = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]

# ------------------------------------------------------------------------------------------------------ features


class BagOfWordsConfig(Section):
    """Sparse rows through dense hidden layers."""

    kind: Literal["bag_of_words"] = "bag_of_words"
    hidden: tuple[Positive, ...] = Field(default=(512,), description="units of each hidden layer; the last is F")
    activation: Literal["relu", "softplus", "tanh"] = Field(default="relu", description="of the hidden layers")
    input_dropout: Share = Field(default=0.1, description="share of input values dropped")
    dropout: Share = Field(default=0.5, description="share of hidden units dropped")
    bias: bool = Field(default=True, description="of the hidden layers")


class KimCNNConfig(Section):
    """Filters over words, the maximum of each over the document (Kim 2014)."""

    kind: Literal["kim_cnn"] = "kim_cnn"
    embedding_dim: Positive = Field(default=300, description="numbers a word")
    windows: tuple[Positive, ...] = Field(
        default=(3, 4, 5), min_length=1, description="widths of the filters, in words"
    )
    num_filters: Positive = Field(default=100, description="filters of each window")
    embedding_dropout: Share = Field(default=0.2, description="share of embedding values dropped")
    dropout: Share = Field(default=0.5, description="share of pooled values dropped")
    bias: bool = Field(default=True, description="of the filters")


class XMLCNNConfig(Section):
    """Filters over words, dynamic max pooling and a bottleneck layer (Liu et al. 2017)."""

    kind: Literal["xml_cnn"] = "xml_cnn"
    embedding_dim: Positive = Field(default=300, description="numbers a word")
    windows: tuple[Positive, ...] = Field(default=(2, 4, 8), min_length=1, description="widths of the filters")
    num_filters: Positive = Field(default=128, description="filters of each window")
    pooling_chunks: Positive = Field(
        default=8, description="p: chunks of the pooling, cut over each document's own length"
    )
    hidden: Positive = Field(default=512, description="units of the bottleneck layer, F")
    conv_axis: Literal["words", "embedding"] = Field(
        default="words", description="words: as in the paper; embedding: as in the released code"
    )
    max_tokens: Positive = Field(default=500, description="S, the positions of conv_axis embedding")
    stride: Positive = Field(default=2, description="stride of conv_axis embedding")
    embedding_dropout: Share = Field(default=0.2, description="share of embedding values dropped")
    dropout: Share = Field(default=0.4, description="share of bottleneck units dropped")
    bias: bool = Field(default=True, description="of the filters and the bottleneck")


def is_linear(features: Any) -> bool:
    """Whether the features are x itself, so that a model over them is linear in x and there is nothing to train."""
    return isinstance(features, BagOfWordsConfig) and not features.hidden


Features = Annotated[BagOfWordsConfig | KimCNNConfig | XMLCNNConfig, Field(discriminator="kind")]

# --------------------------------------------------------------------------------------------- energies, solvers


def _check_counting(counting: int, measurements: int) -> None:
    if counting > measurements:
        raise ValueError(f"counting_measurements: expected at most {measurements}, all measurements, got {counting}")


class SPENConfig(Section):
    """h is any smooth network of the measurements (Belanger & McCallum 2016)."""

    kind: Literal["spen"] = "spen"
    num_measurements: Positive = Field(default=16, description="K")
    hidden: tuple[Positive, ...] = Field(
        default=(), description="further layers of the head h; none is the paper's <c2, softplus(m)>"
    )
    condition_measurements: bool = Field(default=False, description="add f C^T to the measurements")
    counting_measurements: Count = Field(
        default=0, description="rows of A that start as all ones, so that they count labels"
    )
    tau: Above0 = Field(default=1.0, description="weight of the entropy")
    learn_tau: bool = Field(default=False, description="train tau with the energy")
    dropout: Share = Field(default=0.0, description="of the measurements; one mask for all steps")
    bias: bool = Field(default=True, description="of the unary logits")

    @model_validator(mode="after")
    def _rows_that_count(self) -> Self:
        _check_counting(self.counting_measurements, self.num_measurements)
        return self


class ICNNConfig(Section):
    """h is input-convex, so the energy is convex in y (Amos, Xu & Kolter 2017)."""

    kind: Literal["icnn"] = "icnn"
    hidden: tuple[Positive, ...] = Field(
        default=(16, 16), min_length=2, description="widths of the convex layers, two or more; K is their sum"
    )
    gate: bool = Field(default=False, description="the partially convex gate y * (W f + b)")
    condition_measurements: bool = Field(default=False, description="add f C^T to the measurements")
    counting_measurements: Count = Field(
        default=0, description="rows of A that start as all ones, so that they count labels"
    )
    nonnegativity: Literal["projection", "reparametrization"] = Field(
        default="projection", description="how the hidden-to-hidden weights stay non-negative"
    )
    tau: Above0 = Field(default=1.0, description="weight of the entropy")
    learn_tau: bool = Field(default=False, description="train tau with the energy")
    dropout: Share = Field(default=0.0, description="of the measurements; one mask for all steps")
    bias: bool = Field(default=True, description="of the unary logits")

    @model_validator(mode="after")
    def _rows_that_count(self) -> Self:
        _check_counting(self.counting_measurements, sum(self.hidden))
        return self


EnergyConfig = Annotated[SPENConfig | ICNNConfig, Field(discriminator="kind")]


class _Solver(Section):
    steps: int = Field(default=10, ge=0, description="T")
    step_size: Above0 | tuple[Above0, ...] = Field(default=1.0, description="eta: one number, or a list of T")
    momentum: Share = Field(default=0.0, description="share of the last step kept in the next")
    learn_step_sizes: bool = Field(default=False, description="train the step sizes with the energy")
    initial: Literal["unary", "uniform"] = Field(default="unary", description="z_0: the unary logits, or 0")
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="of the factors of products with A; bf16 needs the engine's path"
    )
    memory: Positive | None = Field(
        default=None,
        description="iterates kept for the backward pass, the others made again; null: all, or what mirror descent has "
        "room for",
    )
    tolerance: From0 = Field(
        default=0.0,
        description="prediction ends for a document once a step would move no label by more; 0: after T steps",
    )
    line_search: bool = Field(default=False, description="prediction halves a document's step until its energy drops")

    @model_validator(mode="after")
    def _all_steps_are_rounded(self) -> Self:
        if self.precision != "float32" and (self.tolerance or self.line_search):
            raise ValueError(f"precision: {self.precision} goes with neither tolerance nor line_search")
        return self

    @model_validator(mode="after")
    def _line_search_goes_down(self) -> Self:
        if self.line_search and self.momentum:
            raise ValueError("line_search: a step with momentum need not go down however short: set momentum 0")
        return self

    @model_validator(mode="after")
    def _one_size_a_step(self) -> Self:
        if isinstance(self.step_size, tuple) and len(self.step_size) != self.steps:
            raise ValueError(f"step_size: expected one number or {self.steps}, one a step, got {len(self.step_size)}")
        return self


class MirrorDescentConfig(_Solver):
    """Entropic mirror descent: z <- (1 - eta tau) z + eta (phi - s A)."""

    kind: Literal["mirror_descent"] = "mirror_descent"


class GradientDescentConfig(_Solver):
    """Gradient descent on the logits, through the sigmoid."""

    kind: Literal["gradient_descent"] = "gradient_descent"


class ProjectedGradientConfig(_Solver):
    """Gradient descent on y, clipped to the box."""

    kind: Literal["projected_gradient"] = "projected_gradient"
    step_size: Above0 | tuple[Above0, ...] = Field(default=0.02, description="eta: one number, or a list of T")
    margin: float = Field(default=0.02, gt=0, lt=0.5, description="distance of y from 0 and 1")


class AndersonConfig(Section):
    """Anderson acceleration of the mean-field update, on K numbers a document."""

    kind: Literal["anderson"] = "anderson"
    steps: int = Field(default=20, ge=0, description="T, the most that a document takes")
    window: int = Field(default=5, ge=0, description="differences of past iterates that are mixed")
    mixing: float = Field(default=1.0, gt=0, le=1, description="beta, smaller where labels are tied strongly")
    regularization: Above0 = Field(default=1e-8, description="ridge of the least squares")
    tolerance: From0 = Field(
        default=1e-4,
        description="prediction ends for a document once a step would move no label by more; 0: after T steps",
    )
    initial: Literal["unary", "uniform"] = Field(default="unary", description="z_0: the unary logits, or 0")


class BundleEntropyConfig(Section):
    """The bundle entropy method: tangents of a convex energy and the entropy itself (Amos et al. 2017)."""

    kind: Literal["bundle_entropy"] = "bundle_entropy"
    steps: int = Field(default=30, ge=0, description="T, the most tangents that a document takes")
    tolerance: Above0 = Field(default=1e-6, description="a document is done once E(y) - min E is at most this")
    initial: Literal["unary", "uniform"] = Field(default="unary", description="z_0: the unary logits, or 0")


SolverConfig = Annotated[
    MirrorDescentConfig | GradientDescentConfig | ProjectedGradientConfig | AndersonConfig | BundleEntropyConfig,
    Field(discriminator="kind"),
]


class UnrollConfig(Section):
    """Through all T steps, exactly."""

    kind: Literal["unroll"] = "unroll"


class TruncatedConfig(Section):
    """Through the last steps alone."""

    kind: Literal["truncated"] = "truncated"
    steps: Positive = Field(default=1, description="how many")


class ImplicitConfig(Section):
    """Of the fixed point that inference converged to; warns where it has not."""

    kind: Literal["implicit"] = "implicit"
    tolerance: Above0 = Field(default=1e-4, description="largest residual that counts as converged")
    max_iterations: Positive = Field(default=50, description="of the adjoint's linear solver")


GradientConfig = Annotated[UnrollConfig | TruncatedConfig | ImplicitConfig, Field(discriminator="kind")]

# -------------------------------------------------------------------------------------------------------- models


class LinearOutputConfig(Section):
    """All logits of a batch at once."""

    kind: Literal["linear"] = "linear"


class ChunkedOutputConfig(Section):
    """For very many labels: loss and gradients a chunk of labels at a time, no batch of logits or dense targets."""

    kind: Literal["chunked"] = "chunked"
    chunk: Positive = Field(default=4096, description="labels at a time")
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="of the factors of the loss's products; sums stay float32"
    )
    weights: Literal["float32", "bf16"] = Field(
        default="float32", description="bf16: half the memory and bf16 products; trained by sgd without momentum alone"
    )


OutputConfig = Annotated[LinearOutputConfig | ChunkedOutputConfig, Field(discriminator="kind")]


class NeighboursConfig(Section):
    """A memory of the training documents: phi has w log(share + smoothing) of the nearest ones' labels, w learned."""

    num_neighbours: Positive = Field(default=20, description="k, by cosine")
    power: Above0 = Field(default=2.0, description="of a neighbour's similarity in its weight")
    smoothing: Above0 = Field(default=1e-3, description="share that a label counts as which no neighbour has")


_OBSERVES = "features have two more inputs a label, known to be true and known to be false"
_NEIGHBOURS = "what the labels of the nearest training documents add to the logits; null: nothing"


class ClassifierModel(Section):
    """logits = f U^T + u0: XML-CNN, Kim-CNN or bag of words with its own output layer."""

    kind: Literal["classifier"] = "classifier"
    features: Features = Field(description="x -> f")
    observes: bool = Field(default=False, description=_OBSERVES)
    bias: bool = Field(default=True, description="of the output layer")
    output: OutputConfig = Field(default=LinearOutputConfig(), description="how its loss is computed")
    neighbours: NeighboursConfig | None = Field(default=None, description=_NEIGHBOURS)

    @model_validator(mode="after")
    def _neighbours_fit(self) -> Self:
        if self.neighbours is not None and isinstance(self.output, ChunkedOutputConfig):
            raise ValueError("neighbours: add to the logits of all labels at once: set output.kind to linear")
        return self


class ShortlistConfig(Section):
    """The energy moves each document's best labels alone; a number is that many `candidates`."""

    candidates: Positive = Field(description="n, of the largest unary logits")
    negatives: int = Field(
        default=0, ge=0, description="random labels a document in training, where the worst candidates were"
    )
    positives: bool = Field(
        default=False,
        description="in training a document's true labels too, whatever their logits; the energy then learns that "
        "candidates of low logits are true, which they are not in prediction",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_candidates(cls, given: Any) -> Any:
        return {"candidates": given} if type(given) is int else given

    @model_validator(mode="after")
    def _candidates_are_more(self) -> Self:
        if self.negatives >= self.candidates:
            raise ValueError(f"negatives: expected fewer than the {self.candidates} candidates, got {self.negatives}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        own = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [{"type": "integer", "minimum": 1}, own]}


class AmortizedConfig(Section):
    """A network that gives inference its start: phi and a correction of it, read off the features."""

    hidden: tuple[Positive, ...] = Field(default=(256,), description="units of its hidden layers; none: linear")


class EnergyModel(Section):
    """logits = argmin of an energy, by T steps of a solver."""

    kind: Literal["energy_network"] = "energy_network"
    features: Features = Field(description="x -> f, computed once per x")
    observes: bool = Field(default=False, description=_OBSERVES)
    energy: EnergyConfig = Field(description="(f, y) -> E")
    solver: SolverConfig = Field(default=MirrorDescentConfig(), description="E -> y")
    gradient: GradientConfig = Field(default=UnrollConfig(), description="how training differentiates inference")
    label_chunk: Positive | None = Field(
        default=None,
        description="labels at a time in training and scoring, so that no batch of logits exists; null: all at once",
    )
    keep_unary: bool = Field(
        default=False,
        description="with a label_chunk: compute phi once and keep it, not 2 T + 1 times; small batches keep each step",
    )
    shortlist: ShortlistConfig | None = Field(
        default=None, description="labels of each document that the energy moves, the others staying unary; null: all"
    )
    amortized: AmortizedConfig | None = Field(
        default=None, description="what z_0 is read off the features by; null: the solver's own start"
    )
    neighbours: NeighboursConfig | None = Field(default=None, description=_NEIGHBOURS)

    @model_validator(mode="after")
    def _neighbours_fit(self) -> Self:
        for key in ("label_chunk", "shortlist"):
            if self.neighbours is not None and getattr(self, key) is not None:
                raise ValueError(f"neighbours: add to phi of all labels at once: set {key} to null")
        return self

    @model_validator(mode="after")
    def _an_amortised_start_fits(self) -> Self:
        if self.amortized is None:
            return self
        for key in ("label_chunk", "shortlist"):
            if getattr(self, key) is not None:
                raise ValueError(f"amortized: its start is of all labels at once: set {key} to null")
        if self.solver.initial != "unary":
            raise ValueError(f"amortized: says where inference starts: leave out solver.initial {self.solver.initial}")
        return self

    @model_validator(mode="after")
    def _a_shortlist_fits(self) -> Self:
        if self.shortlist is None:
            return self
        if isinstance(self.solver, AndersonConfig):
            raise ValueError("shortlist: does not go with solver.kind anderson: use mirror_descent")
        if getattr(self.solver, "precision", "float32") != "float32":
            raise ValueError(f"shortlist: goes with solver.precision float32 alone, got {self.solver.precision}")  # type: ignore[union-attr]
        if getattr(self.solver, "memory", None) is not None:
            raise ValueError("shortlist: its iterates are small: set solver.memory null")
        if isinstance(self.energy, ICNNConfig) and self.energy.gate:
            raise ValueError("shortlist: does not go with energy.gate, whose gates have all labels at once")
        if self.keep_unary:
            raise ValueError("shortlist: does not go with keep_unary: it has two passes over the labels, not 2 T + 1")
        return self

    @model_validator(mode="after")
    def _labels_can_come_in_chunks(self) -> Self:
        if self.label_chunk is None and self.keep_unary:
            raise ValueError("keep_unary: goes with a label_chunk alone; without, phi is computed once at any rate")
        if self.label_chunk is None or self.shortlist is not None:
            return self
        if not isinstance(self.solver, MirrorDescentConfig):
            raise ValueError(f"label_chunk: goes with solver.kind mirror_descent alone, got {self.solver.kind}")
        for key, off in (("tolerance", "0"), ("line_search", "false")):
            if getattr(self.solver, key):
                raise ValueError(f"label_chunk: solver.{key} looks at all labels at once: set it to {off}")
        if self.solver.memory is not None:
            raise ValueError("label_chunk: keeps K numbers a step, not iterates: set solver.memory null")
        if not isinstance(self.gradient, UnrollConfig):
            raise ValueError(f"label_chunk: goes with gradient.kind unroll alone, got {self.gradient.kind}")
        if isinstance(self.energy, ICNNConfig) and self.energy.gate:
            raise ValueError("label_chunk: does not go with energy.gate, whose gates have all labels at once")
        return self

    @model_validator(mode="after")
    def _bundles_fit(self) -> Self:
        if isinstance(self.solver, BundleEntropyConfig):
            if not isinstance(self.energy, ICNNConfig):
                raise ValueError(
                    "solver: bundle_entropy needs a convex energy: use energy.kind icnn, or another solver"
                )
            if isinstance(self.gradient, TruncatedConfig):
                raise ValueError("gradient: bundle_entropy has no last steps to differentiate: use unroll or implicit")
        return self

    @model_validator(mode="after")
    def _step_sizes_can_learn(self) -> Self:
        if isinstance(self.gradient, ImplicitConfig) and getattr(self.solver, "learn_step_sizes", False):
            raise ValueError("solver.learn_step_sizes: gradient implicit does not depend on step sizes: use unroll")
        return self


class LinearModel(Section):
    """One-vs-rest linear classifiers (scikit-learn), over tf-idf where the inputs are token sequences."""

    kind: Literal["linear"] = "linear"
    loss: Literal["logistic", "hinge"] = Field(default="logistic", description="of each classifier")
    C: Above0 = Field(default=1.0, description="inverse of the L2 penalty")


class NeighboursModel(Section):
    """k nearest training documents by cosine (scikit-learn), labels weighted by similarity."""

    kind: Literal["neighbours"] = "neighbours"
    num_neighbours: Positive = Field(default=20, description="k")


class TargetEmbeddingModel(Section):
    """Label vectors in few dimensions, ridge regression onto them, nearest neighbours there (scikit-learn)."""

    kind: Literal["target_embedding"] = "target_embedding"
    num_dimensions: Positive = Field(default=100, description="R, at most L")
    ridge: Above0 = Field(default=3.0, description="L2 penalty of the regression")
    num_neighbours: Positive = Field(default=30, description="k")
    power: Above0 = Field(default=8.0, description="of a neighbour's similarity in its weight")


class LabelTreeModel(Section):
    """Probabilistic label trees with a linear classifier at each node (napkinXC)."""

    kind: Literal["label_tree"] = "label_tree"
    loss: Literal["logistic", "hinge"] = Field(default="logistic", description="of each node's classifier")
    C: Above0 = Field(default=10.0, description="inverse of the L2 penalty")
    num_trees: Positive = Field(default=1, description="whose scores are averaged")
    max_leaves: int = Field(default=100, ge=2, description="labels right below the lowest inner nodes")


class FrequencyModel(Section):
    """Every document gets the training label frequencies: what knowing nothing of x scores."""

    kind: Literal["label_frequency"] = "label_frequency"


class BayesModel(Section):
    """The exact posterior of planted data: what no model can beat on average."""

    kind: Literal["bayes_optimal"] = "bayes_optimal"


Model = Annotated[
    ClassifierModel
    | EnergyModel
    | LinearModel
    | NeighboursModel
    | TargetEmbeddingModel
    | LabelTreeModel
    | FrequencyModel
    | BayesModel,
    Field(discriminator="kind"),
]
