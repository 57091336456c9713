"""What one training step holds at its fullest moment, gradients included: measured on made-up documents."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from energynets.data.batches import Batch, BatchInputs, CachedFeatures, SparseBatch, TokenBatch
from energynets.errors import NotConvergedWarning
from energynets.features import Observing

if TYPE_CHECKING:
    from energynets.config import Experiment
    from energynets.config_training import Stage
    from energynets.training.build import Sizes
    from energynets.training.optimizers import Optimizers
    from energynets.training.update import Update

POSITIVES = 5
"""Labels of a made-up document."""
ENTRIES = 100
"""Non-zero entries of a made-up row of a table, at most."""
FEW = 1 << 22
"""Numbers of a (B, L) tensor up to which a step is run over all labels."""
WORDS = 50_000
"""Rows of an embedding, at most, that documents are read with: the others are only counted."""


class Tracker(TorchDispatchMode):
    """Bytes of the tensors made within it that are alive: now, and at most since `reset`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def reset(self) -> None:
        """The peak starts anew."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return found

    def known(self, *tensors: Tensor | None) -> None:
        """Not to be counted, whatever makes views of them."""
        for tensor in tensors:
            if tensor is not None:
                self._add(tensor, count=False)

    def _add(self, tensor: Tensor, *, count: bool = True) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes() if count else 0

        def gone(_: Any, key: int = key, size: int = size) -> None:
            self._alive.pop(key, None)
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True)
class _Phases:
    """Bytes over what is there between steps: at most up to the gradients, and at most while weights change."""

    gradients: float
    update: float

    def at(self, x: float, other: _Phases) -> _Phases:
        """On the line through both, 0 being here and 1 there."""
        return _Phases(*(a + x * (b - a) for a, b in zip(self._pair(), other._pair(), strict=True)))

    def _pair(self) -> tuple[float, float]:
        return self.gradients, self.update


def step_bytes(experiment: Experiment, sizes: Sizes, stage: Stage) -> int:
    """Bytes over weights and optimiser state.

    The feature network and what follows it are run one after the other, for only the latter knows labels:

        max(activations + head up to its gradients, feature network + gradients of the head, all gradients)
    """
    features_peak = activations = features_gradients = 0
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore", NotConvergedWarning)  # made-up documents need not converge
        if "features" in stage.trains:
            features_peak, activations, features_gradients = _features_bytes(experiment, sizes)
        head = _head_bytes(experiment, sizes, stage)
    during = max(activations + head.gradients, features_peak + head.update)
    return round(max(during, features_gradients + head.update))


def _features_bytes(experiment: Experiment, sizes: Sizes) -> tuple[int, int, int]:
    """At most in the feature network, what it leaves for its backward pass, its gradients."""
    from energynets.training.build import Sizes, build_model

    # Only the words that occur have activations.
    few = Sizes(min(sizes.inputs, WORDS), POSITIVES, sizes.tokens)
    features: Any = build_model(experiment, few).features
    features.train()
    inputs = made_up_inputs(experiment, few)
    with Tracker() as tracker:
        tracker.known(*features.parameters(), *features.buffers())
        found = features(inputs)
        activations = tracker.now
        if found.requires_grad:
            found.sum().backward()
        del found
    gradients = sum(weight.nbytes for weight in features.parameters() if weight.requires_grad)
    missing = _missing_rows(features, sizes.inputs - few.inputs, sizes.labels - few.labels)
    return tracker.peak + missing, activations, gradients + missing


def _head_bytes(experiment: Experiment, sizes: Sizes, stage: Stage) -> _Phases:
    """Of what follows the features, with its gradients."""
    chunk = _chunk(experiment)
    moving = getattr(experiment.model, "shortlist", None)
    candidates = 0 if moving is None else moving.candidates
    enough = max(FEW // experiment.training.batch_size, 2 * max(chunk, candidates))
    if sizes.labels <= enough:
        return _run(experiment, sizes.inputs, sizes.labels, stage)
    from energynets.inference.engine.fused import standing_for

    with standing_for(sizes.labels):
        less, more = (_run(experiment, sizes.inputs, some, stage) for some in (enough // 2, enough))
    return less.at((sizes.labels - enough // 2) / (enough - enough // 2), more)


def _run(experiment: Experiment, inputs: int, labels: int, stage: Stage) -> _Phases:
    from energynets.config import is_linear
    from energynets.training.build import Sizes, build_model

    size, network = experiment.training.batch_size, experiment.model.features  # type: ignore[union-attr]
    # Of the feature network its output is used alone, which without hidden layers is as wide as x.
    few = Sizes(inputs if is_linear(network) else POSITIVES, labels, network.kind != "bag_of_words")
    model: Any = build_model(experiment, few)
    if isinstance(model.features, Observing):  # what they would read has been read
        model.features = model.features.network
    if model.neighbours is not None:
        model.neighbours = _FoundNeighbours(model.neighbours.weight, labels)
    model.train()
    width = model.features.num_features if stage.cross_fit is None else labels
    features = torch.randn(size, width, requires_grad="features" in stage.trains)
    revealed = None if experiment.training.reveal is None else torch.arange(labels) % 2 > torch.zeros(size, 1)
    batch = Batch(CachedFeatures(features), made_up_labels(size, labels), torch.arange(size), revealed)
    with stage_update(experiment, model, stage) as (update, optimizer):
        update.gradients(batch)  # optimisers make their state in their first step
        update.apply()
        optimizer.zero_grad(set_to_none=True)
        features.grad = None
        with Tracker() as tracker:
            tracker.known(*model.parameters(), features, *optimizer.tensors().values())
            update.gradients(batch)
            gradients = tracker.peak
            tracker.reset()
            update.apply()
        return _Phases(gradients, tracker.peak)


class _FoundNeighbours(nn.Module):
    """Stands for `NeighbourLogits` where there are no documents: as many logits, of no neighbour."""

    def __init__(self, weight: nn.Parameter, num_labels: int) -> None:
        super().__init__()
        self.weight = weight
        self.num_labels = num_labels

    def forward(self, inputs: CachedFeatures) -> Tensor:
        return self.weight * torch.zeros(len(inputs), self.num_labels)


@contextlib.contextmanager
def stage_update(experiment: Experiment, model: Any, stage: Stage) -> Iterator[tuple[Update, Optimizers]]:
    """The steps of a stage, as training takes them."""
    from energynets.training.build import build_objective
    from energynets.training.optimizers import Optimizers
    from energynets.training.stages import stage_objective, stage_view, trained
    from energynets.training.update import Update

    propensity = None if getattr(experiment.objective, "propensity", None) is None else torch.ones(model.num_labels)
    view = stage_view(model, stage.trains, cross_fit=stage.cross_fit is not None)
    objective = stage_objective(build_objective(experiment, propensity), stage)
    with trained(view, stage.trains, stage.name) as parameters:
        optimizer = Optimizers(stage.optimizer, view, stage.trains)
        clip_norm = stage.optimizer.clip_norm
        try:
            yield Update(view, objective, parameters, optimizer, clip_norm=clip_norm, project=model.project), optimizer
        finally:
            optimizer.close()


def made_up_inputs(experiment: Experiment, sizes: Sizes) -> BatchInputs:
    """A batch of documents, words by Zipf's law."""
    size, draw = experiment.training.batch_size, torch.Generator().manual_seed(0)
    if not sizes.tokens:
        entries = min(ENTRIES, sizes.inputs)
        columns = torch.rand(size, sizes.inputs, generator=draw).topk(entries).indices.sort().values
        return SparseBatch(
            columns.flatten(),
            torch.rand(columns.numel(), generator=draw),
            entries * torch.arange(size + 1),
            sizes.inputs,
        )
    length = experiment.data.text.max_tokens
    ranks = torch.exp(torch.rand(size, length, generator=draw) * torch.tensor(max(sizes.inputs - 1, 1)).log())
    tokens = ranks.long().clamp(1, max(sizes.inputs - 1, 1))
    return TokenBatch(tokens, torch.full((size,), length))


def made_up_labels(size: int, labels: int) -> SparseBatch:
    count = min(POSITIVES, labels)
    columns = torch.randint(labels, (size, 1), generator=torch.Generator().manual_seed(0)) + torch.arange(count)
    return SparseBatch((columns % labels).flatten(), torch.ones(size * count), count * torch.arange(size + 1), labels)


def _chunk(experiment: Experiment) -> int:
    """Labels at a time; 0 where all are."""
    model: Any = experiment.model
    return int(getattr(model, "label_chunk", None) or getattr(getattr(model, "output", None), "chunk", None) or 0)


def _missing_rows(features: Any, words: int, labels: int) -> int:
    """Bytes of the gradients of what has a row for each of so many more words, or of as many more labels."""
    if isinstance(features, Observing):
        own = 2 * labels * features.known_true.shape[1] * features.known_true.element_size()
        return own + _missing_rows(features.network, words, 0)
    table: Any = getattr(features, "embedding", None) or getattr(features, "first", None)
    return 0 if table is None else words * table.weight.shape[1] * table.weight.element_size()
