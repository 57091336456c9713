"""Everything that predicts is a module x -> logits (B, L)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from energynets.data.batches import Batch, BatchInputs, CachedFeatures, SparseBatch
from energynets.energies import Box, Domain, Energy, MeasuredEnergy
from energynets.errors import ConfigError, ShapeError, counts
from energynets.features.observing import Observing
from energynets.inference import (
    GradientMode,
    Implicit,
    InferenceResult,
    MirrorDescent,
    NoGradient,
    Observed,
    Shortlist,
    Solver,
    StepLoss,
    Truncated,
    Unroll,
    infer,
)
from energynets.inference.amortized import AmortizedStart, amortized_start
from energynets.inference.engine import asked_for_general_path
from energynets.inference.gradient import gradient_mode
from energynets.inference.shortlist import ShortlistStream, check_shortlist
from energynets.inference.solver import checked_solver
from energynets.inference.streaming import LabelStream, check_measured, check_streamed, energy_stream
from energynets.linear import Linear
from energynets.output import ChunkedLinear, NeighbourLogits
from energynets.parallel import WHOLE, LabelShard
from energynets.top import TopLabels, top_labels


def observed_in(batch: Batch) -> Observed | None:
    """The labels that a batch shows, as a model takes them."""
    return None if batch.revealed is None else Observed(batch.labels.dense(), batch.revealed)


class _Model(nn.Module, ABC):
    """x is read once: by the feature network, or before, when the batch brings `CachedFeatures`."""

    features: nn.Module
    num_labels: int
    domain: Domain
    """Where y(logits) lives."""
    neighbours: NeighbourLogits | None
    """What phi has of x besides f, or None."""

    @property
    @abstractmethod
    def streams(self) -> bool:
        """Whether the loss and the best labels are computed a chunk of labels at a time, without a (B, L) tensor."""

    @abstractmethod
    def logits_in_chunks(self, inputs: BatchInputs) -> Iterator[Tensor]:
        """Logits (B, C) of labels 0 .. C - 1, of the next, and so on, where the model `streams`; or all (B, L).

        Of a shard of the labels, its own. Keeps no graph. Each may be overwritten once the next is asked for.
        """

    @abstractmethod
    def loss_in_chunks(self, inputs: BatchInputs, labels: SparseBatch, loss: str, steps: str) -> Tensor:
        """What `EndToEnd(loss, steps=steps)` is, where the model `streams`: differentiable.

        Raises:
            ConfigError: a loss or steps that labels in chunks have not.
        """

    @torch.no_grad()
    def top_k(self, inputs: BatchInputs, k: int) -> TopLabels:
        """The k best labels of each document (all L where k > L), in chunks where the model `streams`.

        Raises:
            ConfigError: k is no whole number from 1 on.
        """
        _check_top(k)
        return self.label_shard.top(top_labels(self.logits_in_chunks(inputs), k), k)

    @property
    def label_shard(self) -> LabelShard:
        """Which labels this process has, where there are several."""
        energy = getattr(self, "energy", None)
        return getattr(getattr(self if energy is None else energy, "unary", None), "shard", WHOLE)

    @property
    def observes(self) -> bool:
        """Whether the features see known labels, so that they are not of x alone."""
        return isinstance(self.features, Observing)

    @property
    def cacheable(self) -> bool:
        """Whether f, computed once, can stand for x: not where it depends on known labels or phi on neighbours."""
        return not self.observes and self.neighbours is None

    def with_neighbours(self, unary: Tensor, inputs: BatchInputs) -> Tensor:
        """phi (B, L), from the linear part of it.

        Raises:
            ShapeError: neighbours of another number of labels.
        """
        if self.neighbours is None:
            return unary
        term = self.neighbours(inputs)
        if term.shape != unary.shape:
            raise ShapeError(
                f"neighbours: expected terms of the model's labels, {tuple(unary.shape)}, got {tuple(term.shape)}: "
                "fit them on documents of these labels"
            )
        return unary + term

    def compute_features(self, inputs: BatchInputs, observed: Observed | None = None) -> Tensor:
        """f (B, F).

        Raises:
            ShapeError: cached features of known labels, which they have not seen.
        """
        if not self.observes or observed is None:
            return inputs.values if isinstance(inputs, CachedFeatures) else self.features(inputs)
        if isinstance(inputs, CachedFeatures):
            raise ShapeError("cached features: expected inputs that have not been read, for features see known labels")
        return self.features(inputs, *observed)


def _check_top(k: int) -> None:
    if not counts(k):
        raise ConfigError(f"top_k: expected k to be 1 label or more, a whole number, got {k!r}")


class Classifier(_Model):
    """logits = f U^T + u0 (+ neighbours): a feature network with a linear output, labels independent given f.

    Args:
        features: x -> (B, F), with `num_features`.
        num_labels: L.
        bias: whether there is u0.
        output: use this linear layer (F, L) instead of a new one, e.g. an energy's unary, or a `ChunkedLinear`, whose
            loss needs no (B, L) tensor.
        domain: where y lives, `Box()` by default.
        neighbours: what the labels of x's nearest training documents add to the logits; not to a `ChunkedLinear`.

    Raises:
        ConfigError: neighbours, and labels that come in chunks; an output of another number of labels.

    Example:
        >>> import torch
        >>> from energynets import BagOfWords, Classifier
        >>> model = Classifier(BagOfWords(num_inputs=100, hidden=(16,)), num_labels=5)
    """

    def __init__(
        self,
        features: nn.Module,
        num_labels: int,
        *,
        bias: bool = True,
        output: nn.Linear | None = None,
        domain: Domain | None = None,
        neighbours: NeighbourLogits | None = None,
    ) -> None:
        super().__init__()
        if neighbours is not None and isinstance(output, ChunkedLinear):
            raise ConfigError("neighbours: add to the logits of all labels at once: no ChunkedLinear")
        self.domain = Box() if domain is None else domain
        self.domain.check(num_labels)
        given = getattr(output, "out_features", num_labels)
        if given != num_labels and getattr(output, "shard", WHOLE).count == 1:
            raise ConfigError(f"Classifier: expected an output of num_labels, {num_labels}, got one of {given}")
        self.features = features
        self.num_labels = num_labels
        self.unary = Linear(features.num_features, num_labels, bias=bias) if output is None else output  # type: ignore[arg-type]
        self.neighbours = neighbours

    def forward(self, inputs: BatchInputs, observed: Observed | None = None) -> Tensor:
        """Logits (B, L), those of known labels being what they are known to be.

        Args:
            inputs: B documents.
            observed: labels that are known; only features that are `Observing` tell the others of them.

        Raises:
            ShapeError: known labels of another shape than (B, L), or values that are none of the domain's.
        """
        if observed is not None:
            observed = Observed(*observed)
            like = observed.values.new_empty(()).expand(len(inputs), self.num_labels)
            observed = observed.check(self, like)  # type: ignore[arg-type]  # it reads the domain alone
        logits = self.with_neighbours(self.unary(self.compute_features(inputs, observed)), inputs)
        if observed is None:
            return logits
        exact = torch.promote_types(logits.dtype, torch.float32)  # which autocast's are not
        return Observed(observed.values.to(exact), observed.mask).logits(logits, self.domain)

    @property
    def streams(self) -> bool:
        return isinstance(self.unary, ChunkedLinear)

    @torch.no_grad()
    def logits_in_chunks(self, inputs: BatchInputs) -> Iterator[Tensor]:
        if isinstance(self.unary, ChunkedLinear):
            yield from self.unary.in_chunks(self.compute_features(inputs))
        else:
            yield self(inputs)

    def loss_in_chunks(self, inputs: BatchInputs, labels: SparseBatch, loss: str, steps: str) -> Tensor:
        if not isinstance(self.domain, Box):
            raise ConfigError(f"ChunkedLinear is an output over labels in a Box, got {self.domain}: use nn.Linear")
        output: ChunkedLinear = self.unary  # type: ignore[assignment]
        return output.loss(self.compute_features(inputs), labels, loss)

    def trajectory(self, inputs: BatchInputs, observed: Observed | None = None) -> Iterator[Tensor]:
        """The logits of every inference step: here there is one answer and no step."""
        yield self(inputs, observed)

    def with_losses(
        self, inputs: BatchInputs, step_loss: StepLoss, observed: Observed | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, L) and their `step_loss(0, logits)`: there is no step."""
        logits = self(inputs, observed)
        return logits, step_loss(0, logits)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What a training stage can train by name: `features` and `unary`, the weight of the neighbours included."""
        return {"features": list(self.features.parameters()), "unary": _parameters(self.unary, self.neighbours)}

    def project(self) -> None:
        """Nothing to keep in a set."""


def _parameters(*parts: nn.Module | None) -> list[nn.Parameter]:
    return [weight for part in parts if part is not None for weight in part.parameters()]


class _Unary(nn.Module):
    """Stands where features are computed: its L features are phi, and come cached."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.num_features = num_labels

    def forward(self, inputs: BatchInputs) -> Tensor:
        raise ConfigError("expected unary logits as CachedFeatures: the model reads nothing else")


class EnergyNetwork(_Model):
    """logits = the solver's z_T on E(y; f): features, energy and inference trained as one.

    Args:
        features: x -> (B, F), with `num_features`.
        energy: any `Energy` over L labels.
        solver: default `MirrorDescent()`.
        gradient: how training differentiates inference: `Unroll()` (default), `Truncated(k)` or `Implicit()`. Where
            torch records no gradients, inference keeps no graph.
        label_chunk: compute the loss and the best labels this many labels at a time, without a (B, L) tensor: for
            measured energies without gates, `MirrorDescent` and `Unroll()`. It costs 2 T + 1 times phi.
        keep_unary: with a `label_chunk`, compute phi once and keep it (B, L): the fastest way where A does not fit a
            CPU's cache, each step reading it once. There 2 T tensors more of that size are kept, y_t and dz_t of all
            steps, where they are no larger than the weights, 2 T B <= F + K. `energy.unary` becomes a `ChunkedLinear`
            of the same weights: SGD without momentum keeps dphi (B, L) then, and never the gradient of U (L, F).
        shortlist: the energy moves so many labels of each document, or as the `Shortlist` says, and the others stay at
            sigmoid(phi): for measured energies without gates, every solver but `Anderson`, all gradients. Its steps
            cost the same whatever L is; phi comes in chunks with a `label_chunk`, and is computed twice.
        amortized: gives z_0 of f, instead of the solver's start; with T = 0 it is the prediction.
        neighbours: what the labels of x's nearest training documents add to phi: for measured energies, with neither
            `label_chunk` nor shortlist.

    Raises:
        ConfigError: a solver or a gradient mode that is none, or `NoGradient()`, with which nothing trains; an implicit
            gradient with learned step sizes: the fixed point does not depend on them; or labels
            that cannot come in chunks, or an energy or solver that no shortlist goes with; or an amortised start or
            neighbours of labels in chunks or of a shortlist; or neighbours of an energy that has no phi.

    Example:
        >>> from energynets import SPEN, BagOfWords, EnergyNetwork, MirrorDescent
        >>> features = BagOfWords(num_inputs=100, hidden=(16,))
        >>> model = EnergyNetwork(features, SPEN(num_features=16, num_labels=5), MirrorDescent(steps=5))
    """

    def __init__(
        self,
        features: nn.Module,
        energy: Energy,
        solver: Solver | None = None,
        gradient: Unroll | Truncated | Implicit | None = None,
        label_chunk: int | None = None,
        keep_unary: bool = False,
        shortlist: int | Shortlist | None = None,
        amortized: AmortizedStart | None = None,
        neighbours: NeighbourLogits | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.energy = energy
        self.domain = energy.domain
        self.solver = MirrorDescent() if solver is None else checked_solver(solver)
        mode = gradient_mode(gradient)
        if isinstance(mode, NoGradient):
            raise ConfigError(
                "gradient: expected Unroll(), Truncated(k) or Implicit(), got NoGradient(): nothing would train; "
                "without gradients recorded, under torch.no_grad(), inference keeps no graph as it is"
            )
        self.gradient = mode
        if isinstance(self.gradient, Implicit) and list(self.solver.parameters()):
            raise ConfigError(
                "gradient: a fixed point does not depend on step sizes: no Implicit() with learn_step_sizes"
            )
        self.num_labels = energy.num_labels
        self.label_chunk, self.keep_unary = label_chunk, keep_unary
        if label_chunk is not None and not counts(label_chunk):
            raise ConfigError(
                f"label_chunk: expected 1 label or more at a time, a whole number, or None for all, got {label_chunk!r}"
            )
        # What is neither is refused as that many candidates would be.
        self.shortlist = shortlist if shortlist is None or isinstance(shortlist, Shortlist) else Shortlist(shortlist)
        self.amortized = amortized
        if amortized is not None and (label_chunk is not None or shortlist is not None):
            raise ConfigError("amortized: z_0 is of all labels at once: no label_chunk, no shortlist")
        self.neighbours = neighbours
        if neighbours is not None and (label_chunk is not None or shortlist is not None):
            raise ConfigError("neighbours: add to phi of all labels at once: no label_chunk, no shortlist")
        if neighbours is not None and not isinstance(energy, MeasuredEnergy):
            raise ConfigError(f"neighbours: add to the phi of a measured energy, and {type(energy).__name__} has none")
        if keep_unary and label_chunk is None:
            raise ConfigError("keep_unary: phi is computed once at any rate where there is no label_chunk")
        if keep_unary and self.shortlist is not None:
            raise ConfigError("keep_unary: a shortlist has two passes over the labels, not 2 T + 1: leave it out")
        if self.shortlist is not None:
            check_shortlist(energy, self.solver)
        elif label_chunk is not None:
            check_streamed(energy, self.solver, self.gradient)
            unary = energy.unary
            if keep_unary and isinstance(unary, nn.Linear) and type(unary) in (Linear, nn.Linear):
                # The same weights; SGD can then descend on them without a gradient of their size.
                energy.unary = ChunkedLinear.sharing(unary, label_chunk)

    @property
    def streams(self) -> bool:
        return self.shortlist is not None or (self.label_chunk is not None and not asked_for_general_path())

    @torch.no_grad()
    def logits_in_chunks(self, inputs: BatchInputs) -> Iterator[Tensor]:
        if self.shortlist is not None:
            yield from self._shortlisted(inputs, self.shortlist).logits_in_chunks()
        elif self.streams:
            yield from self._stream(inputs).logits()
        else:
            yield self(inputs)

    def loss_in_chunks(self, inputs: BatchInputs, labels: SparseBatch, loss: str, steps: str) -> Tensor:
        if (loss, steps) != ("bce", "last"):
            what = "label_chunk: labels in chunks have" if self.shortlist is None else "shortlist: it has"
            raise ConfigError(f"{what} loss bce on the last step, got {loss} on {steps}")
        if self.shortlist is not None:
            return self._shortlisted(inputs, self.shortlist).bce(labels, training=self.training)
        return self.streamed_bce(inputs, labels)

    @torch.no_grad()
    def top_k(self, inputs: BatchInputs, k: int) -> TopLabels:
        if self.shortlist is not None:
            _check_top(k)
            return self._shortlisted(inputs, self.shortlist).top_k(k)
        return super().top_k(inputs, k)

    def _shortlisted(self, inputs: BatchInputs, shortlist: Shortlist) -> ShortlistStream:
        chunk = self.num_labels if self.label_chunk is None else self.label_chunk
        features, energy = self._exact_features(inputs), self.energy
        return ShortlistStream(shortlist, energy, self.solver, self.gradient, features, chunk)  # type: ignore[arg-type]

    def _of_all_labels(self, what: str, instead: str) -> None:
        if self.shortlist is not None:
            raise ConfigError(f"{what}: is of all labels, and the energy moves a shortlist of them: {instead}")

    def streamed_bce(self, inputs: BatchInputs, labels: SparseBatch) -> Tensor:
        """Binary cross-entropy of z_T, summed over labels, averaged over documents, in chunks: differentiable.

        Args:
            inputs: B documents.
            labels: (B, L).

        Raises:
            ConfigError: the model has no `label_chunk`, or the energy's head has dropout that is on by now.
            ShapeError: labels of another shape.
        """
        return self._stream(inputs).bce(labels)

    def _stream(self, inputs: BatchInputs) -> LabelStream:
        if self.label_chunk is None:
            raise ConfigError("EnergyNetwork: labels come in chunks where it is given a label_chunk")
        self._of_all_labels("streamed_bce", "use EndToEnd('bce')")
        check_measured(self.energy)  # whose head's dropout, off when the model was made, may be on now
        features = self._exact_features(inputs)
        return energy_stream(self.solver, self.energy, features, self.label_chunk, keep_unary=self.keep_unary)  # type: ignore[arg-type]

    def _exact_features(self, inputs: BatchInputs) -> Tensor:
        """f (B, F), of no fewer bits than U: an autocast that a feature network was under ends with it."""
        features, energy = self.compute_features(inputs), self.energy
        return features.to(torch.promote_types(features.dtype, energy.unary.weight.dtype))  # type: ignore[union-attr, arg-type]

    def begin(self, inputs: BatchInputs, observed: Observed | None = None) -> tuple[Any, Tensor | None]:
        """The energy's context of x, and z_0 (B, L) where it is not the solver's own."""
        context, features = self.condition(inputs, observed)
        return context, amortized_start(self.amortized, self.energy, context, features)

    def condition(self, inputs: BatchInputs, observed: Observed | None = None) -> tuple[Any, Tensor]:
        """The energy's context of x, and f (B, F)."""
        features = self.compute_features(inputs, observed)
        context = self.energy.condition(features)
        if self.neighbours is not None:
            context = context._replace(unary=self.with_neighbours(context.unary, inputs))
        return context, features

    def forward(self, inputs: BatchInputs, observed: Observed | None = None) -> Tensor:
        """Logits z_T (B, L), phi of labels that a shortlist leaves out.

        Args:
            inputs: B documents.
            observed: labels that are known and stay, whichever they are; inference moves the others.

        Raises:
            ConfigError: known labels of a model with a shortlist.
        """
        if self.shortlist is not None:
            if observed is not None:
                self._of_all_labels("observed", "build the model without a shortlist")
            return self._shortlisted(inputs, self.shortlist).logits()
        gradient = self.gradient if torch.is_grad_enabled() else NoGradient()
        return self.solver.solve(self.energy, *self.begin(inputs, observed), gradient=gradient, observed=observed)

    def trajectory(self, inputs: BatchInputs, observed: Observed | None = None) -> Iterator[Tensor]:
        """Logits z_1, ..., z_T (z_0 where T = 0), for losses that read every step."""
        self._of_all_labels("trajectory", "call the model for its last logits")
        context, start = self.begin(inputs, observed)
        for step, logits in enumerate(self.solver.trajectory(self.energy, context, start, observed=observed)):
            if step or not self.solver.steps:
                yield logits

    def with_losses(
        self, inputs: BatchInputs, step_loss: StepLoss, observed: Observed | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits z_T (B, L) and the sum of `step_loss(t, z_t)` over t = 1 .. T, in memory flat in T by the engine."""
        self._of_all_labels("with_losses", "use EndToEnd('bce'), on the last step")
        context, start = self.begin(inputs, observed)
        solve = self.solver.solve_with_losses
        return solve(self.energy, context, step_loss, start, gradient=self.gradient, observed=observed)

    def infer(
        self,
        inputs: BatchInputs,
        observed: Observed | None = None,
        *,
        gradient: GradientMode | None = None,
        trace: bool = False,
    ) -> InferenceResult:
        """The prediction with its energy, convergence and, if asked, trace. Keeps no graph unless told to."""
        self._of_all_labels("infer", "use top_k, or infer(model.energy, ...)")
        context, initial = self.begin(inputs, observed)
        gradient = NoGradient() if gradient is None else gradient
        how: dict[str, Any] = {"solver": self.solver, "gradient": gradient, "trace": trace}
        return infer(self.energy, context, initial=initial, observed=observed, **how)

    def as_classifier(self) -> Classifier:
        """The same model with h = 0 and tau = 1: the classifier on the unary logits, sharing all its weights.

        With a `label_chunk` its output is a `ChunkedLinear`.

        Raises:
            ConfigError: the energy has no linear `unary`.
        """
        unary = getattr(self.energy, "unary", None)
        if not isinstance(unary, nn.Linear):
            raise ConfigError(f"{type(self.energy).__name__} has no linear `unary` to train alone: train 'energy' too")
        if self.label_chunk is not None:
            unary = ChunkedLinear.sharing(unary, self.label_chunk)
        shared: dict[str, Any] = {"domain": self.domain, "neighbours": self.neighbours}
        return Classifier(self.features, self.num_labels, output=unary, **shared)

    def on_unary(self) -> EnergyNetwork:
        """The same model but for what it reads: phi (B, L) itself, as `CachedFeatures`. It shares all other weights.

        Raises:
            ConfigError: the energy sees x by more than phi.
        """
        if not isinstance(self.energy, MeasuredEnergy) or self.energy.sees_features or self.amortized is not None:
            raise ConfigError(f"{type(self.energy).__name__} sees x by more than its unary logits")
        return EnergyNetwork(_Unary(self.num_labels), self.energy.on_unary(), self.solver, self.gradient)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What a training stage can train by name: `features`, `unary` (the weight of the neighbours included),
        `energy` (learned step sizes included) and the amortised start, where there is one, as `inference`."""
        unary = _parameters(getattr(self.energy, "unary", None), self.neighbours)
        own = {id(parameter) for parameter in unary}
        rest = [parameter for parameter in self.energy.parameters() if id(parameter) not in own]
        groups = {"features": list(self.features.parameters()), "unary": unary}
        groups["energy"] = rest + list(self.solver.parameters())
        return groups if self.amortized is None else groups | {"inference": list(self.amortized.parameters())}

    def project(self) -> None:
        """Bring constrained weights back into their set after an optimiser step (ICNN's non-negativity)."""
        project = getattr(self.energy, "project", None)
        if callable(project):
            project()
