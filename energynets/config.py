"""The experiment as typed data: what a YAML file may say, checked before anything runs.

A component's keys are the arguments of its class: `features: {kind: xml_cnn, num_filters: 128}` is
`XMLCNN(num_filters=128)`. This module names components and runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from energynets.errors import ConfigError, nearest

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


# ---------------------------------------------------------------------------------------------------------- data


class Text(_Section):
    """How raw text becomes tokens; the vocabulary is built from training documents only."""

    vocabulary_size: Annotated[int, Field(ge=3)] = Field(30_000, description="most frequent training words kept, two reserved ids included")
    min_count: Positive = Field(2, description="a word must occur this often in training")
    max_tokens: Positive = Field(500, description="S: longer documents are cut")
    lowercase: bool = True


class Planted(_Section):
    """A planted data set (`energynets data make`): labels and words of a known joint distribution."""

    num_labels: Positive = 64
    num_documents: Positive = Field(4_000, description="training documents, validation included")
    num_test_documents: Positive = 1_000
    vocabulary_size: Annotated[int, Field(ge=10)] = 2_000
    mean_length: Annotated[float, Field(gt=0)] = Field(30.0, description="mean words a document")
    mean_labels: Annotated[float, Field(gt=0)] = Field(3.0, description="mean labels a document")
    seed: int = 0


class Data(_Section):
    """Which documents: a catalogue `name`, or `format` with files, or `planted`."""

    name: str | None = Field(None, description="catalogue name (`energynets data list`), or a name for the files given")
    format: str | None = Field(None, description="reader of `train` and `test`: mulan_arff, xmc, xmc_pair, xmc_raw, tsv, reuters, svmlight, npz")
    train: str | None = Field(None, description="path of the training file (relative to the data root)")
    validation: str | None = Field(None, description="path of a validation file; else `validation_share` is taken from training")
    test: str | None = Field(None, description="path of the test file")
    labels: str | None = Field(None, description="path of the label set (Mulan XML, or one name a line)")
    planted: Planted | None = None
    root: str | None = Field(None, description="data folder; else $ENERGYNETS_DATA, else ~/.cache/energynets")
    validation_share: Share = Field(0.1, description="share of training documents held out, where no validation file is given")
    test_share: Share = Field(0.2, description="share of all documents held out, where the set has no test file")
    split_seed: int = 0
    inputs: Literal["auto", "tokens", "counts", "tfidf"] = Field("auto", description="auto: text and tokens stay sequences, tables stay tables")
    scaling: Literal["auto", "none", "standardize", "unit_norm"] = Field("auto", description="of tables; auto standardises dense real-valued ones with training statistics")
    text: Text = Text()
    vectors: str | None = Field(None, description="GloVe or word2vec text file that initialises the embedding")
    max_documents: Positive | None = Field(None, description="keep only the first this many documents of each split")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [self.planted is not None, self.format is not None, self.name is not None and self.format is None and self.planted is None]
        if sum(sources) != 1:
            raise ValueError("give one source: a catalogue `name`, or `format` with `train`, or `planted`")
        if self.format is not None and self.train is None:
            raise ValueError("`format` needs `train`, the path of the training file")
        return self


# ------------------------------------------------------------------------------------------------------ features


class BagOfWordsConfig(_Section):
    kind: Literal["bag_of_words"] = "bag_of_words"
    hidden: tuple[Positive, ...] = (512,)
    activation: Literal["relu", "softplus", "tanh"] = "relu"
    input_dropout: Share = 0.1
    dropout: Share = 0.5
    bias: bool = True


class KimCNNConfig(_Section):
    kind: Literal["kim_cnn"] = "kim_cnn"
    embedding_dim: Positive = 300
    windows: tuple[Positive, ...] = (3, 4, 5)
    num_filters: Positive = Field(100, description="filters of each window")
    embedding_dropout: Share = 0.2
    dropout: Share = 0.5
    bias: bool = True


class XMLCNNConfig(_Section):
    kind: Literal["xml_cnn"] = "xml_cnn"
    embedding_dim: Positive = 300
    windows: tuple[Positive, ...] = (2, 4, 8)
    num_filters: Positive = Field(128, description="filters of each window")
    pooling_chunks: Positive = Field(8, description="p: chunks of the dynamic max pooling, cut over each document's own length")
    hidden: Positive = Field(512, description="units of the bottleneck layer, F")
    conv_axis: Literal["words", "embedding"] = Field("words", description="words: as in the paper; embedding: as in the released code")
    max_tokens: Positive = Field(500, description="S, the positions of conv_axis embedding")
    stride: Positive = Field(2, description="stride of conv_axis embedding")
    embedding_dropout: Share = 0.2
    dropout: Share = 0.4
    bias: bool = True


Features = Annotated[BagOfWordsConfig | KimCNNConfig | XMLCNNConfig, Field(discriminator="kind")]

# --------------------------------------------------------------------------------------------- energies, solvers


class SPENConfig(_Section):
    kind: Literal["spen"] = "spen"
    num_measurements: Positive = Field(16, description="K")
    hidden: tuple[Positive, ...] = Field((), description="further layers of the head h; empty is the paper's <c2, softplus(m)>")
    condition_measurements: bool = Field(False, description="add f C^T to the measurements")
    tau: Annotated[float, Field(gt=0)] = Field(1.0, description="weight of the entropy")
    learn_tau: bool = False
    dropout: Share = Field(0.0, description="of the measurements; one mask for all steps")


class ICNNConfig(_Section):
    kind: Literal["icnn"] = "icnn"
    num_measurements: Positive = Field(32, description="K, over all layers together")
    hidden: Annotated[tuple[Positive, ...], Field(min_length=2)] = Field((16, 16), description="widths of the convex layers, two or more")
    gate: bool = Field(False, description="the partially convex gate y * (W f + b)")
    condition_measurements: bool = Field(False, description="add f C^T to the measurements")
    nonnegativity: Literal["projection", "reparametrization"] = "projection"
    tau: Annotated[float, Field(gt=0)] = Field(1.0, description="weight of the entropy")
    learn_tau: bool = False
    dropout: Share = Field(0.0, description="of the measurements; one mask for all steps")


EnergyConfig = Annotated[SPENConfig | ICNNConfig, Field(discriminator="kind")]
StepSize = Annotated[float, Field(gt=0)]


class _Solver(_Section):
    steps: Annotated[int, Field(ge=0)] = Field(10, description="T")
    step_size: StepSize | tuple[StepSize, ...] = Field(1.0, description="eta: one value, or T of them")
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    learn_step_sizes: bool = False
    initial: Literal["unary", "uniform"] = Field("unary", description="z_0: the unary logits, or 0")

    @model_validator(mode="after")
    def _one_size_a_step(self) -> Self:
        if isinstance(self.step_size, tuple) and len(self.step_size) != self.steps:
            raise ValueError(f"step_size has {len(self.step_size)} values for {self.steps} steps")
        return self


class MirrorDescentConfig(_Solver):
    kind: Literal["mirror_descent"] = "mirror_descent"


class GradientDescentConfig(_Solver):
    kind: Literal["gradient_descent"] = "gradient_descent"


class ProjectedGradientConfig(_Solver):
    kind: Literal["projected_gradient"] = "projected_gradient"
    step_size: StepSize | tuple[StepSize, ...] = Field(0.1, description="eta: one value, or T of them")


SolverConfig = Annotated[MirrorDescentConfig | GradientDescentConfig | ProjectedGradientConfig, Field(discriminator="kind")]

# -------------------------------------------------------------------------------------------------------- models


class ClassifierModel(_Section):
    """logits = f U^T + u0: XML-CNN, Kim-CNN or bag of words with its own output layer."""

    kind: Literal["classifier"] = "classifier"
    features: Features
    bias: bool = Field(True, description="of the output layer")


class EnergyModel(_Section):
    """logits = argmin of an energy, by T unrolled steps."""

    kind: Literal["energy_network"] = "energy_network"
    features: Features
    energy: EnergyConfig
    solver: SolverConfig = MirrorDescentConfig()


class LinearModel(_Section):
    """One-vs-rest linear classifiers (scikit-learn), over tf-idf where the inputs are token sequences."""

    kind: Literal["linear"] = "linear"
    loss: Literal["logistic", "hinge"] = "logistic"
    C: Annotated[float, Field(gt=0)] = Field(1.0, description="inverse of the L2 penalty")


class NeighboursModel(_Section):
    """k nearest training documents by cosine (scikit-learn), labels weighted by similarity."""

    kind: Literal["neighbours"] = "neighbours"
    num_neighbours: Positive = 20


class FrequencyModel(_Section):
    """Every document gets the training label frequencies: what knowing nothing of x scores."""

    kind: Literal["label_frequency"] = "label_frequency"


class BayesModel(_Section):
    """The exact posterior of planted data: what no model can beat on average."""

    kind: Literal["bayes_optimal"] = "bayes_optimal"


Model = Annotated[
    ClassifierModel | EnergyModel | LinearModel | NeighboursModel | FrequencyModel | BayesModel, Field(discriminator="kind")
]

# ------------------------------------------------------------------------------------------ objective, training


class EndToEndConfig(_Section):
    kind: Literal["end_to_end"] = "end_to_end"
    loss: Literal["bce", "softmax", "mse", "soft_f1"] = "bce"
    steps: Literal["last", "all"] = Field("last", description="loss on z_T, or its mean over z_1..z_T weighted towards the last")


Group = Literal["features", "unary", "energy"]


class Optimizer(_Section):
    kind: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="of sgd")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="of the learning rate over the stage, down to 0")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(None, description="largest gradient norm")


class Stage(_Section):
    """One stretch of training. What it trains decides the rest: without `energy` the model is its own unary
    classifier; without `features` they are frozen, computed once and cached."""

    name: str
    trains: tuple[Group, ...] = ("features", "unary", "energy")
    epochs: Positive = 20
    optimizer: Optimizer = Optimizer()
    patience: Positive | None = Field(None, description="evaluations without gain on validation before the stage ends")


class Training(_Section):
    batch_size: Positive = 64
    stages: tuple[Stage, ...] | None = Field(None, description="default: one stage for a classifier; unary, energy, joint for an energy network")
    monitor: str = Field("f1_example", description="validation metric (or `loss`) that picks the best checkpoint")
    evaluate_every: Positive = Field(1, description="epochs between evaluations on validation")
    checkpoint_every: Positive | None = Field(None, description="steps between checkpoints; always one at each epoch's end")
    cache: Literal["memory", "disk"] = Field("memory", description="where frozen features are kept")


class Evaluation(_Section):
    ks: tuple[Positive, ...] = (1, 3, 5)
    propensity: tuple[float, float] = Field((0.55, 1.5), description="(a, b) of the propensity model")
    threshold_rule: Literal["f1_example"] = Field("f1_example", description="what the one global threshold maximises on validation")
    top: Positive | None = Field(None, description="scores kept of each document; default: all up to 1,024 labels, else 256")
    batch_size: Positive = 256


class Experiment(_Section):
    """One experiment: data, model, objective, training, evaluation."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="the run's folder and row")
    seed: int = 0
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    data: Data
    model: Model
    objective: EndToEndConfig = EndToEndConfig()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _stages_fit_model(self) -> Self:
        for number, stage in enumerate(self.training.stages or ()):
            if not isinstance(self.model, EnergyModel) and "energy" in stage.trains:
                raise ValueError(f"training.stages[{number}] trains 'energy', but model.kind is {self.model.kind!r}")
        return self

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that run: those given, or the default of the model's kind."""
        if self.training.stages is not None:
            return self.training.stages
        if isinstance(self.model, EnergyModel):
            return (
                Stage(name="unary", trains=("features", "unary"), epochs=30, patience=5),
                Stage(name="energy", trains=("energy",), epochs=10, patience=3),
                Stage(name="joint", epochs=10, patience=3, optimizer=Optimizer(learning_rate=1e-4)),
            )
        if isinstance(self.model, ClassifierModel):
            return (Stage(name="unary", trains=("features", "unary"), epochs=50, patience=5),)
        return ()

    def hash(self) -> str:
        """Identity of the experiment: equal for equal resolved settings, whatever the seed, name, device or data folder."""
        settings = self.model_dump(mode="json", exclude={"seed": True, "name": True, "device": True, "data": {"root"}})
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """The resolved configuration, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

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
    def from_tree(cls, tree: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "configuration") -> Experiment:
        """Check a tree of plain values (what YAML holds), overrides applied.

        Raises:
            ConfigError: as `load`.
        """
        merged = json.loads(json.dumps(tree))
        for override in overrides:
            _apply_override(merged, override)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise ConfigError(f"{source}: {_explain(error, merged)}") from None


# ------------------------------------------------------------------------------------------------- strict YAML


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1's surprises removed: duplicate keys are errors, `1e-3` is a number."""


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(key, str):
            raise ConfigError(f"line {key_node.start_mark.line + 1}: expected a name as key, got {key!r}")
        if key in seen:
            raise ConfigError(f"line {key_node.start_mark.line + 1}: duplicate key {key!r}")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
# The YAML 1.1 resolver wants a dot and a signed exponent in floats; people write 1e-3.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?|\.inf|\.nan)$", re.IGNORECASE),
    list("-+0123456789."),
)


def parse_yaml(text: str, source: str) -> Any:
    """YAML -> plain values.

    Raises:
        ConfigError: not YAML, or a duplicate key, with the line.
    """
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader subclass
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        raise ConfigError(f"{source}:{where} not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def read_yaml(path: Path, _chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A configuration file with its `extends: other.yaml` (relative to it) merged in, mappings key by key.

    A mapping with another `kind` than the one it extends replaces it whole.

    Raises:
        ConfigError: missing file, not a mapping, a circle of `extends`.
    """
    path = Path(path)
    if path.resolve() in _chain:
        raise ConfigError(f"{path}: `extends` runs in a circle")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(tree).__name__}")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends: expected a path, got {base!r}")
    parent = read_yaml(path.parent / base, (*_chain, path.resolve()))
    parent.pop("name", None)
    return _merge(parent, tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    if "kind" in over and over["kind"] != base.get("kind"):
        return over
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def _apply_override(tree: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {override}: expected path=value, e.g. training.batch_size=32")
    value = parse_yaml(text, f"--set {override}")
    node: Any = tree
    *parents, last = path.split(".")
    for key in parents:
        node = _child(node, key, override)
    if isinstance(node, list):
        node[_position(node, last, override)] = value
    else:
        node[last] = value


def _child(node: Any, key: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, key, override)]
    if node.get(key) is None:
        node[key] = {}
    child = node[key]
    if not isinstance(child, dict | list):
        raise ConfigError(f"--set {override}: {key!r} is a value, not a section")
    return child


def _position(node: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise ConfigError(f"--set {override}: expected a position from 0 to {len(node) - 1}, got {key!r}")
    return int(key)


# --------------------------------------------------------------------------------------- errors that help


def _explain(error: ValidationError, tree: Any) -> str:
    """The first mistake in one line: path, what was expected, what came, the nearest valid name."""
    mistakes = error.errors()
    # An unknown key says more than the missing one it misspells.
    first = next((m for m in mistakes if m["type"] == "extra_forbidden"), mistakes[0])
    section, path = _walk(first["loc"])
    where = ".".join(path) or "configuration"
    if first["type"] == "extra_forbidden":
        message = f"{where}: unknown key {path[-1]!r}" + nearest(path[-1], section.model_fields if section else ())
    elif first["type"] == "missing":
        message = f"{where}: missing"
    elif first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        expected = re.findall(r"'([^']+)'", str((first.get("ctx") or {}).get("expected_tags", "")))
        given = str((first.get("ctx") or {}).get("tag", ""))
        message = f"{where}.kind: unknown kind {given!r}{nearest(given, expected)}" if given else f"{where}.kind: missing; one of {', '.join(_kinds(first))}"
    elif first["type"] == "literal_error":
        expected = re.findall(r"'([^']+)'", first["ctx"]["expected"])
        message = f"{where}: unknown value {first['input']!r}{nearest(str(first['input']), expected)}"
    else:
        text = first["msg"].removeprefix("Value error, ")
        came = f", got {first['input']!r}" if not isinstance(first["input"], dict | BaseModel) else ""
        message = f"{where}: {text[0].lower() + text[1:]}{came}"
    more = len(mistakes) - 1
    return message + (f" (and {more} more)" if more and first["type"] != "extra_forbidden" else "")


def _kinds(mistake: Any) -> list[str]:
    section, _ = _walk(mistake["loc"][:-1])
    annotation = section.model_fields[mistake["loc"][-1]].annotation if section else None
    return [get_args(option.model_fields["kind"].annotation)[0] for option in get_args(annotation)]


def _walk(location: Sequence[str | int]) -> tuple[type[BaseModel] | None, list[str]]:
    """Follow an error's location through the sections, leaving out the tags that pydantic puts in for unions."""
    section: type[BaseModel] | None = Experiment
    owner: type[BaseModel] | None = Experiment
    path: list[str] = []
    options: list[type[BaseModel]] = []
    for step in location:
        tagged = [o for o in options if step in get_args(o.model_fields["kind"].annotation)] if options else []
        if tagged:
            section, options = tagged[0], []
            continue
        path.append(str(step))
        owner = section
        if isinstance(step, int):
            continue
        found = section.model_fields.get(step) if section else None
        candidates = _sections(found.annotation) if found else []
        options = candidates if len(candidates) > 1 else []
        if candidates and len(candidates) == 1:
            section = candidates[0]
        elif found is not None and not candidates:
            section = owner
    return owner, path


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]
