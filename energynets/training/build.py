"""From an experiment to the objects it names: data, preparation, model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from energynets.baselines import BASELINES, BayesOptimal, NearestNeighbours
from energynets.data.dataset import MultiLabelDataset, TokenSequences
from energynets.data.load import find_file, load_dataset
from energynets.data.prepare import Preparation, TextOptions
from energynets.data.vectors import read_vectors
from energynets.energies import ENERGIES
from energynets.errors import ConfigError, DataError
from energynets.features import FEATURES, Observing
from energynets.inference import GRADIENTS, SOLVERS, AmortizedStart, Shortlist
from energynets.metrics import inverse_propensity
from energynets.models import Classifier, EnergyNetwork
from energynets.objectives import OBJECTIVES, EndToEnd, EnergyObjective
from energynets.output import ChunkedLinear, NeighbourLogits

if TYPE_CHECKING:
    from energynets.config import Experiment
    from energynets.training.progress import Progress


# Keys of the data section that are arguments of `load_dataset`.
_FILES = ("name", "format", "train", "validation", "test", "labels", "columns", "root")
_SOURCE = (*_FILES, "validation_share", "test_share", "split_seed", "max_documents")


@dataclass(frozen=True)
class BuiltData:
    """The data as read, what prepares it, and the data as models take it."""

    raw: MultiLabelDataset
    preparation: Preparation
    prepared: MultiLabelDataset


@dataclass(frozen=True)
class Sizes:
    """What of the data a model's weights depend on.

    Args:
        inputs: D of tables, V of tokens.
        labels: L.
        tokens: whether the inputs are token sequences.
    """

    inputs: int
    labels: int
    tokens: bool

    @classmethod
    def of(cls, dataset: MultiLabelDataset) -> Sizes:
        """Of prepared data."""
        size = dataset.documents.input_size
        assert size is not None
        return cls(size, dataset.num_labels, isinstance(dataset.documents.inputs, TokenSequences))


def build_dataset(
    experiment: Experiment, *, preparation: Preparation | None = None, progress: Progress | None = None
) -> BuiltData:
    """Read the data and prepare it.

    Args:
        experiment: its `data` section says which.
        preparation: one fitted before; None fits it on the training split.
        progress: told what has been read.

    Raises:
        DataError: as the reader of the format.
    """
    settings = experiment.data
    reading = None if progress is None else progress.reading
    raw = load_dataset(
        **{name: getattr(settings, name) for name in _SOURCE},
        missing=0.0 if settings.missing is None else settings.missing.fraction,
        missing_seed=0 if settings.missing is None else settings.missing.seed,
        planted=None if settings.planted is None else settings.planted.model_dump(),
        progress=reading,
    )
    if preparation is None:
        text = TextOptions(**settings.text.model_dump())
        preparation = Preparation.fit(
            raw, inputs=settings.inputs, scaling=settings.scaling, text=text, progress=reading
        )
    return BuiltData(raw, preparation, preparation.prepare(raw, reading))


def prepared_documents(experiment: Experiment, data: BuiltData) -> MultiLabelDataset:
    """The data as this experiment's model takes it: prepared, but as drawn for the exact posterior."""
    return data.raw if experiment.model.kind == "bayes_optimal" else data.prepared


def build_vectors(
    experiment: Experiment, preparation: Preparation, *, progress: Progress | None = None
) -> Tensor | None:
    """The pretrained word vectors that `data.vectors` names, (V, D) with NaN rows for words without one; or None.

    Raises:
        ConfigError: the inputs were never words.
        DataError: the file is missing or no file of vectors.
    """
    settings = experiment.data
    if settings.vectors is None:
        return None
    if preparation.words is None:
        raise ConfigError("data.vectors: the inputs are not text, so there are no words that vectors could belong to")
    try:
        path = find_file(settings.vectors, settings.root)
    except DataError as error:
        raise DataError(f"data.vectors: {error}; `--set data.vectors=null` starts from random vectors") from None
    matrix, coverage = read_vectors(
        path, preparation.words, counts=preparation.word_counts, progress=None if progress is None else progress.reading
    )
    if progress is not None:
        progress.note(f"{path.name}: {coverage}")
    return torch.from_numpy(matrix)


def build_neighbours(experiment: Experiment, dataset: MultiLabelDataset) -> NearestNeighbours | None:
    """The training documents that `model.neighbours` looks into, fitted; or None.

    Args:
        experiment: its `model` section.
        dataset: prepared for the model.
    """
    nearest = _unfitted_neighbours(experiment)
    return None if nearest is None else nearest.fit(dataset.split("train"))


def build_model(
    experiment: Experiment,
    sizes: Sizes,
    *,
    vectors: Tensor | None = None,
    neighbours: NearestNeighbours | None = None,
) -> nn.Module | Any:
    """The untrained model, on the CPU; its weights depend on nothing but the seed and the settings.

    Args:
        experiment: its `model` section, `seed` and, for the exact posterior, `data.planted`.
        sizes: of the prepared data.
        vectors: initial embedding.
        neighbours: what `build_neighbours` finds in the data; without, a model that has them can be counted, not run.

    Returns:
        A module x -> logits (B, L), or a baseline with `fit` and `scores`.

    Raises:
        ConfigError: features that cannot read these inputs, or a posterior of data that were not planted.
    """
    settings: Any = experiment.model
    if settings.kind in BASELINES:
        return _build_baseline(experiment)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        features = _build_features(settings.features, sizes, vectors)
        if settings.observes:
            features = Observing(features, sizes.labels)
        nearest = _unfitted_neighbours(experiment) if neighbours is None else neighbours
        memory = None if nearest is None else NeighbourLogits(nearest, smoothing=settings.neighbours.smoothing)
        if settings.kind == "classifier":
            output = _build_output(settings, features, sizes)
            return Classifier(features, sizes.labels, bias=settings.bias, output=output, neighbours=memory)
        assert settings.kind == "energy_network"
        # The unary is drawn as a classifier's would be, before the energy: of one seed, an energy network starts as
        # its own baseline weight for weight.
        baseline = Classifier(features, sizes.labels, bias=settings.energy.bias)
        energy = ENERGIES[settings.energy.kind](features.num_features, sizes.labels, **_arguments(settings.energy))
        energy.unary.load_state_dict(baseline.unary.state_dict())
        solver = SOLVERS[settings.solver.kind](**_arguments(settings.solver))
        gradient = GRADIENTS[settings.gradient.kind](**_arguments(settings.gradient))
        shortlist = None if settings.shortlist is None else Shortlist(**settings.shortlist.model_dump())
        amortized = None
        if settings.amortized is not None:
            amortized = AmortizedStart(features.num_features, sizes.labels, **_arguments(settings.amortized))
        chunk, keep = settings.label_chunk, settings.keep_unary
        return EnergyNetwork(features, energy, solver, gradient, chunk, keep, shortlist, amortized, memory)


def build_objective(experiment: Experiment, propensity: Tensor | float | None = None) -> EndToEnd | EnergyObjective:
    """What training minimises.

    Args:
        experiment: its `objective` section.
        propensity: what `build_propensity` finds in the data.
    """
    arguments = _arguments(experiment.objective)
    if "propensity" in arguments:
        arguments["propensity"] = propensity
    return OBJECTIVES[experiment.objective.kind](**arguments)


def build_propensity(experiment: Experiment, dataset: MultiLabelDataset) -> float | Tensor | None:
    """The chance that a true label is listed in a training document, as the objective says: one number, or (L,)."""
    propensity: float | Literal["jain"] | None = getattr(experiment.objective, "propensity", None)
    if propensity != "jain":
        return propensity
    listed = dataset.documents.labels[dataset.splits["train"]]
    return torch.from_numpy(1 / inverse_propensity(listed, *experiment.evaluation.propensity))


def kind_label(experiment: Experiment) -> str:
    """What a table calls the kind of model: its energy, its feature network, or the baseline."""
    model = experiment.model
    if model.kind == "energy_network":
        return str(model.energy.kind)
    return str(model.features.kind) if model.kind == "classifier" else str(model.kind)


def _arguments(section: Any) -> dict[str, Any]:
    """A component's keys are the arguments of its class."""
    return {name: value for name, value in section.model_dump().items() if name != "kind"}


def _build_features(settings: Any, sizes: Sizes, vectors: Tensor | None) -> Any:
    kind = FEATURES[settings.kind]
    if (kind.input_kind == "tokens") != sizes.tokens:
        wanted, given = ("a table", "token sequences") if sizes.tokens else ("token sequences", "a table")
        knob = "set data.inputs: counts (or tfidf)" if sizes.tokens else "use kind: bag_of_words"
        raise ConfigError(f"model.features: {settings.kind} reads {wanted}, but the data are {given}: {knob}")
    extra: dict[str, Any] = {}
    if vectors is not None:
        if not sizes.tokens:
            raise ConfigError(f"data.vectors: {settings.kind} has no embedding for them")
        if vectors.shape[1] != settings.embedding_dim:
            raise ConfigError(
                f"model.features.embedding_dim: {settings.embedding_dim}, but the vectors of data.vectors have "
                f"{vectors.shape[1]} dimensions"
            )
        extra = {"vectors": vectors}
    return kind(sizes.inputs, **_arguments(settings), **extra)


def _unfitted_neighbours(experiment: Experiment) -> NearestNeighbours | None:
    settings: Any = getattr(experiment.model, "neighbours", None)
    return None if settings is None else NearestNeighbours(settings.num_neighbours, power=settings.power)


def _build_output(settings: Any, features: Any, sizes: Sizes) -> ChunkedLinear | None:
    """The output layer that is asked for by name; None is a classifier's own."""
    if settings.output.kind == "linear":
        return None
    return ChunkedLinear(features.num_features, sizes.labels, bias=settings.bias, **_arguments(settings.output))


def _build_baseline(experiment: Experiment) -> Any:
    kind = experiment.model.kind
    if kind == "bayes_optimal":
        if experiment.data.planted is None:
            raise ConfigError("model.kind: bayes_optimal is the posterior of planted data; it needs data.planted")
        return BayesOptimal(experiment.data.planted.model_dump())
    return BASELINES[kind](**_arguments(experiment.model))
