"""What a model needs in memory, from its configuration alone: nothing of its size is allocated."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from energynets.energies import Energy, GatheredContext, GatheredEnergy, MeasuredContext, MeasuredEnergy
from energynets.errors import ConfigError
from energynets.inference import BundleEntropy, Implicit, Shortlist, Solver
from energynets.inference.engine import streamed
from energynets.inference.engine.fused import LARGEST
from energynets.inference.engine.gathered import working_numbers
from energynets.inference.implicit import fixed_point
from energynets.models import EnergyNetwork
from energynets.output import ChunkedLinear

if TYPE_CHECKING:
    from energynets.config import Experiment
    from energynets.training.build import Sizes

# Numbers that an optimiser keeps of each weight; torch's sgd keeps one where it has momentum.
_Module = TypeVar("_Module", bound=nn.Module)
_STATE_NUMBERS = {"adam": 2, "adamw": 2}
# Tensors of the size of the logits that a classifier's loss holds at its peak, targets and gradient included, as
# measured: all B x L of them at once, or in chunks of labels.
_LOSS_TENSORS = {"bce": 4, "softmax": 5, "mse": 5, "soft_f1": 4}
_CHUNK_TENSORS = {"bce": 3, "softmax": 2}
# First part of a weight's name within its feature network -> what tables call it; others keep their name.
_PARTS = {"first": "hidden layers", "rest": "hidden layers"}


@dataclass(frozen=True)
class StageMemory:
    """What one stage keeps besides the weights, in bytes.

    Args:
        name: of the stage.
        gradients: of the weights it trains, but for an output that is trained without one.
        optimizer: its state.
        unroll: what the T steps of inference keep for the backward pass, of one batch.
        loss: logits, targets and what else the loss of a classifier takes, of one batch; not counted with an energy.
    """

    name: str
    gradients: int
    optimizer: int
    unroll: int
    loss: int = 0

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.gradients + self.optimizer + self.unroll + self.loss


@dataclass(frozen=True)
class Memory:
    """Weights by component, and bytes by purpose.

    Args:
        components: (name, number of weights), in the order of the network.
        weights: bytes of all weights.
        stages: per training stage.
        batch_size: of the unroll.
        steps: T, 0 for a classifier.
    """

    components: tuple[tuple[str, int], ...]
    weights: int
    stages: tuple[StageMemory, ...]
    batch_size: int
    steps: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(count for _, count in self.components)

    @property
    def largest(self) -> StageMemory:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def total(self) -> int:
        """Bytes of the largest stage: weights and the copy of the best ones, gradients, optimiser, unroll, loss."""
        return 2 * self.weights + self.largest.total

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "parameters": self.parameters,
            "components": dict(self.components),
            "weights_bytes": self.weights,
            "stages": [asdict(stage) for stage in self.stages],
            "batch_size": self.batch_size,
            "steps": self.steps,
            "total_bytes": self.total,
        }


def estimate(experiment: Experiment, sizes: Sizes) -> Memory:
    """Memory of training an experiment on data of these sizes.

    The model is built on torch's meta device, where tensors have shapes and no storage, and one unrolled inference is
    run there to see what autograd would keep. Activations of the feature network are left out: they depend on the
    documents' lengths.

    Args:
        experiment: of a classifier or an energy network.
        sizes: D or V, L, and whether the inputs are tokens.

    Returns:
        A `Memory`.

    Raises:
        ConfigError: the model is a baseline, without weights to count beforehand.
    """
    from energynets.training.build import build_model
    from energynets.training.stages import stage_view

    if not experiment.stages:
        raise ConfigError(f"memory: model.kind {experiment.model.kind} has no weights before it has seen the data")
    with torch.device("meta"):
        model: Any = build_model(experiment, sizes)
    weights = {id(parameter): parameter for parameter in model.parameters()}
    batch_size = experiment.training.batch_size
    unroll = unroll_bytes(model, batch_size) if isinstance(model, EnergyNetwork) else 0
    groups: dict[str, list[nn.Parameter]] = model.parameter_groups()
    stages = []
    for stage in experiment.stages:
        gradients = state = 0
        view = stage_view(model, stage.trains)
        for group in stage.trains:
            trained, rule = _bytes(groups.get(group, ())), stage.optimizer.of(group)
            if not (group == "unary" and rule.plain_sgd and isinstance(getattr(view, "unary", None), ChunkedLinear)):
                gradients += trained
            state += trained * _STATE_NUMBERS.get(rule.kind, 1 if rule.momentum else 0)
        unrolled = unroll if "energy" in stage.trains else 0
        loss = 0 if "energy" in stage.trains else loss_bytes(experiment.objective.loss, view, batch_size)
        stages.append(StageMemory(stage.name, gradients, state, unrolled, loss))
    steps = model.solver.steps if isinstance(model, EnergyNetwork) else 0
    return Memory(tuple(_components(model).items()), _bytes(weights.values()), tuple(stages), batch_size, steps)


def loss_bytes(loss: str, model: Any, batch_size: int) -> int:
    """Most bytes at once of a classifier's loss over `batch_size` documents, weights and features left out."""
    output = getattr(model, "unary", None)
    if isinstance(output, ChunkedLinear):
        return 4 * batch_size * min(output.chunk, model.num_labels) * _CHUNK_TENSORS[loss]
    return 4 * batch_size * int(model.num_labels) * _LOSS_TENSORS[loss]


def unroll_bytes(model: EnergyNetwork, batch_size: int) -> int:
    """Bytes that autograd keeps of one unrolled inference over `batch_size` documents, weights left out.

    Where labels come in chunks or only a shortlist of them moves, also what the passes over them hold.
    """
    energy, solver = model.energy, model.solver
    if model.shortlist is not None:
        return _shortlist_bytes(model, model.shortlist, batch_size)
    if model.label_chunk is not None:
        chunk = min(model.label_chunk, model.num_labels)
        numbers = streamed.working_numbers(solver.steps, batch_size, energy.num_measurements, chunk)  # type: ignore[arg-type]
        numbers += batch_size * model.num_labels if model.keep_unary else 0
        return numbers * next(energy.parameters()).element_size()
    if not _at_minimum(model):
        energy, solver = _tangible(energy), _tangible(solver)
    width: int = model.features.num_features  # type: ignore[assignment]
    features = torch.empty(batch_size, width, device=next(energy.parameters()).device)
    known = (*energy.parameters(), *solver.parameters(), features)
    return _saved_bytes(model, energy, solver, lambda: energy.condition(features), known)


def _shortlist_bytes(model: EnergyNetwork, shortlist: Shortlist, batch_size: int) -> int:
    """The same where the energy moves some labels: of its T steps over them, and of the passes over all labels."""
    energy, labels = model.energy, model.num_labels
    assert isinstance(energy, MeasuredEnergy)
    count = min(shortlist.candidates, labels)
    chunk = labels if model.label_chunk is None else min(model.label_chunk, labels)
    like = next(energy.parameters())
    one_pass, steps = working_numbers(batch_size, energy.num_measurements, count, chunk)
    features = like.new_empty(batch_size, energy.num_features)
    view = GatheredEnergy(energy, count)

    def condition() -> GatheredContext:
        offset, mask, head = energy.condition_measured(features)
        unary, rows, rest = (
            like.new_empty(batch_size, *shape, requires_grad=True)
            for shape in ((count,), (energy.num_measurements, count), (energy.num_measurements,))
        )
        return GatheredContext(MeasuredContext(unary, offset + rest, (), mask, head), rows)

    known = (*energy.parameters(), *model.solver.parameters(), features)
    kept = _saved_bytes(model, view, model.solver, condition, known)
    return max(one_pass * like.element_size(), steps * like.element_size() + kept)


def _at_minimum(model: EnergyNetwork) -> bool:
    """Whether the minimum is differentiated and no step."""
    return isinstance(model.gradient, Implicit) or isinstance(model.solver, BundleEntropy)


def _saved_bytes(
    model: EnergyNetwork, energy: Energy, solver: Solver, condition: Callable[[], Any], known: Iterable[Tensor]
) -> int:
    """Bytes that autograd keeps of one inference, what is known before left out."""
    gradient, storages = model.gradient, {_storage(tensor) for tensor in known}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in storages:
            kept[_storage(tensor)] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The result is held until the count is taken: a freed storage could lend its identity to another.
        context = condition()
        if _at_minimum(model):
            mode = gradient if isinstance(gradient, Implicit) else Implicit()
            result = fixed_point(energy, context, solver.start(energy, context), mode, None)
        else:
            result = solver.solve(energy, context, gradient=gradient)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del result
    return total


def _tangible(module: _Module) -> _Module:
    """A copy in memory, of zeros, of what has none but is small: native code, which then computes it, keeps whole
    vectors of its own."""
    parameters = list(module.parameters())
    if any(parameter.device.type != "meta" for parameter in parameters) or _bytes(parameters) > 8 * LARGEST:
        return module
    copied = copy.deepcopy(module).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    return copied


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _components(model: nn.Module) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        room, part = (*name.split("."), "")[:2]
        if room == "features":
            component = _PARTS.get(part, part)
        elif "unary" in (room, part):
            component = "output"
        else:
            component = {"solver": "step sizes"}.get(room, room)
        counts[component] = counts.get(component, 0) + parameter.numel()
    # The output follows the features it reads, whatever order the modules are held in.
    return dict(sorted(counts.items(), key=lambda item: item[0] in ("energy", "step sizes")))


# -------------------------------------------------------------------------------------------------------- sizes


def sizes_of(experiment: Experiment, *, inputs: int | None = None, labels: int | None = None) -> Sizes:
    """Sizes of the data: those given, what the configuration or the catalogue says, else read from the data.

    Args:
        experiment: its data section.
        inputs: D or V, where known better.
        labels: L, where known better.
    """
    from energynets.training.build import Sizes, build_dataset, prepared_documents

    data = experiment.data
    features = getattr(experiment.model, "features", None)
    tokens = features is not None and features.kind != "bag_of_words"
    known_inputs, known_labels = _known(experiment)
    inputs, labels = inputs or known_inputs, labels or known_labels
    if inputs is None or labels is None:
        read = Sizes.of(prepared_documents(experiment, build_dataset(experiment)))
        return Sizes(inputs or read.inputs, labels or read.labels, read.tokens)
    if data.planted is not None:
        tokens = data.inputs in ("auto", "tokens")
    return Sizes(inputs, labels, tokens)


def _known(experiment: Experiment) -> tuple[int | None, int | None]:
    data = experiment.data
    if data.planted is not None:
        return data.planted.vocabulary_size, data.planted.num_labels
    if data.format is not None:
        return None, None
    from energynets.data.catalogue import CATALOGUE

    entry = CATALOGUE.get(data.name) if data.name else None
    if entry is None:
        return None, None
    # A vocabulary is cut from the training text: its size is at most what the configuration allows.
    return entry.facts.features or data.text.vocabulary_size, entry.facts.num_labels


# ------------------------------------------------------------------------------------------------------ printing


def count_text(count: int) -> str:
    """9000000 -> '9.00 M', 224000 -> '224 K'."""
    for unit, size, digits in (("G", 10**9, 2), ("M", 10**6, 2), ("K", 10**3, 0)):
        if count >= size:
            return f"{count / size:.{digits}f} {unit}"
    return str(count)


def bytes_text(count: int) -> str:
    """1434221824 -> '1.34 GiB'."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def report_lines(memory: Memory) -> list[str]:
    """The estimate as aligned text."""
    lines = [f"{name:<16}{count_text(count):>10}  ({count:,})" for name, count in memory.components]
    lines.append(f"{'total':<16}{count_text(memory.parameters):>10}  ({memory.parameters:,})")
    stage = memory.largest
    rows = [
        ("weights", memory.weights, "float32" if memory.weights == 4 * memory.parameters else "float32 and bf16"),
        ("best weights", memory.weights, "the copy that validation picked"),
        ("gradients", stage.gradients, f"stage {stage.name}"),
        ("optimiser", stage.optimizer, f"stage {stage.name}"),
    ]
    if memory.steps:
        rows.append(("unroll", stage.unroll, f"{memory.steps} steps, batch {memory.batch_size}"))
    if stage.loss:
        rows.append(("loss", stage.loss, f"batch {memory.batch_size}"))
    rows.append(("training", memory.total, "and the activations of the feature network"))
    return [*lines, "", *(f"{name:<16}{bytes_text(count):>10}  {note}" for name, count, note in rows)]
