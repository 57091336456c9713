"""An energy that moves only the best labels of each document: what it asks of a model, its loss, its best labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from energynets.energies import Box, Energy, GatheredContext, GatheredEnergy, MeasuredContext, MeasuredEnergy
from energynets.errors import ConfigError, ShapeError, counts
from energynets.inference.anderson import Anderson
from energynets.inference.engine import asked_for_general_path, unmeasured
from energynets.inference.engine.autocast import full_precision
from energynets.inference.engine.gathered import (
    Gathered,
    GatherFunction,
    Places,
    Survey,
    columns_of,
    distinct,
    find,
    gathered,
    survey,
)
from energynets.inference.engine.streamed import Inputs, in_chunks
from energynets.inference.gradient import GradientMode, NoGradient
from energynets.inference.solver import Solver
from energynets.linear import linear
from energynets.parallel.draws import labelled
from energynets.top import TopLabels, top_positions

if TYPE_CHECKING:
    from energynets.data.batches import SparseBatch


@dataclass(frozen=True)
class Shortlist:
    """The energy moves n candidates of each document; every other label stays at its unary value, y_j = sigmoid(phi_j).

    Candidates are the n labels with the largest phi. In training the worst of them may give place to random labels and
    to the document's true ones, so that a list has n labels still, or with `positives` in a batch where a document has
    more true labels, as many as that. Fixed labels take part in the measurements, a constant of the document, and in
    the loss, so that a true label that is no candidate is learned from all the same. With n = L all of it is the energy
    itself.

    Args:
        candidates: n >= 1; all L where n > L.
        negatives: r, labels drawn for each document in training, uniformly from all L, 0 <= r < n. One that is a
            candidate anyway changes nothing.
        generator: what draws them, on the device of the model; None is torch's own, which training seeds and
            checkpoints.
        positives: whether a document's true labels are candidates in training whatever their phi. Then a candidate of
            low phi is a true one, an energy learns that instead, and prediction has no such lists (measured in
            docs/inference.md).

    Raises:
        ConfigError: a number out of its range.

    Example:
        >>> from energynets import SPEN, BagOfWords, EnergyNetwork
        >>> from energynets.inference import Shortlist
        >>> features = BagOfWords(num_inputs=100, hidden=(16,))
        >>> model = EnergyNetwork(features, SPEN(num_features=16, num_labels=500), shortlist=Shortlist(50, 10))
    """

    candidates: int
    negatives: int = 0
    generator: torch.Generator | None = None
    positives: bool = False

    def __post_init__(self) -> None:
        if not counts(self.candidates):
            raise ConfigError(
                f"shortlist.candidates: expected 1 label or more, a whole number, got {self.candidates!r}"
            )
        if not counts(self.negatives, least=0) or self.negatives >= self.candidates:
            raise ConfigError(
                f"shortlist.negatives: expected a whole number, 0 or more and fewer than the {self.candidates} "
                f"candidates, got {self.negatives!r}"
            )

    def before_all(self, targets: SparseBatch) -> tuple[Tensor, int]:
        """Labels that are candidates in training whatever their phi, (B, p), -1 where there is none; and n.

        Both are of the whole batch where processes share it, and so those of one process alone.
        """
        targets, own = labelled(targets)
        true = self._true(targets)
        most = int(distinct(true).sum(1).max()) if true.numel() else 0
        drawn = torch.randint(
            targets.num_columns, (len(true), self.negatives), generator=self.generator, device=true.device
        )
        return torch.cat((true, drawn), 1)[own], min(max(self.candidates, most), targets.num_columns)

    def _true(self, targets: SparseBatch) -> Tensor:
        """(B, p), -1 where a document has fewer; p = 0 without `positives`."""
        if not self.positives:
            return targets.columns.new_empty(len(targets), 0)
        rows, counts = targets.row_indices(), targets.offsets.diff()
        true = targets.columns.new_full((len(counts), int(counts.max()) if len(counts) else 0), -1)
        true[rows, torch.arange(len(rows), device=rows.device) - targets.offsets[rows]] = torch.where(
            targets.values > 0, targets.columns, -1
        )
        return true


@dataclass(frozen=True)
class ShortlistStream:
    """One batch ready to be minimised over, a chunk of labels at a time.

    Args:
        shortlist: how many candidates.
        energy: one that `check_shortlist` takes.
        solver: likewise.
        gradient: how training differentiates it.
        features: f (B, F).
        chunk: C; L makes a single one.
    """

    shortlist: Shortlist
    energy: MeasuredEnergy
    solver: Solver
    gradient: GradientMode
    features: Tensor
    chunk: int

    @full_precision
    def bce(self, targets: SparseBatch, *, training: bool) -> Tensor:
        """Binary cross-entropy over all L labels, z_T of candidates and phi of the others: differentiable.

        Args:
            targets: (B, L), sparse.
            training: whether random labels, and with `positives` true ones, are among the candidates.

        Raises:
            ShapeError: targets of another shape.
        """
        found = self.gather(targets, training=training)
        loss = functional.binary_cross_entropy_with_logits(self.minimise(found), found.targets, reduction="sum")
        return (loss + found.loss) / max(len(self.features), 1)

    @full_precision
    def gather(self, targets: SparseBatch, *, training: bool) -> Gathered:
        """The candidates and what all other labels add: one pass over the labels, and another in the backward pass.

        Args and raises as `bce`.
        """
        shape = (len(self.features), self.energy.num_labels)
        if (len(targets), targets.num_columns) != shape:
            raise ShapeError(f"targets: expected {shape}, got {(len(targets), targets.num_columns)}")
        count = min(self.shortlist.candidates, shape[1])
        first = targets.columns.new_empty(shape[0], 0)
        if training:
            first, count = self.shortlist.before_all(targets)
        inputs = self._inputs()
        if asked_for_general_path():
            return self._plainly(inputs, find(inputs, self.chunk, count, first, targets)[0], targets)
        return Gathered(*GatherFunction.apply(self.chunk, count, first, targets, *inputs[:4]))

    @full_precision
    def minimise(self, found: Gathered) -> Tensor:
        """z_T of the candidates, (B, n): the solver's steps, which know nothing of L."""
        offset, mask, head = self.energy.condition_measured(self.features)
        measured = MeasuredContext(found.unary, offset + found.rest, (), mask, head)
        view = GatheredEnergy(self.energy, found.unary.shape[1])
        gradient = self.gradient if torch.is_grad_enabled() else NoGradient()
        return self.solver.solve(view, GatheredContext(measured, found.rows), gradient=gradient)

    @full_precision
    def logits(self) -> Tensor:
        """z_T of candidates and phi of the others, (B, L), by plain operations: differentiable, and of that size."""
        inputs = self._inputs()
        with torch.no_grad():
            labels, phi = self._best(self._survey(inputs))
        unary = linear(self.features, inputs.weight, inputs.bias)
        share = torch.sigmoid(unary).scatter(1, labels, 0)
        rows = columns_of(inputs.rows, labels)
        found = Gathered(unary.gather(1, labels), rows, share @ inputs.rows.T, unary.new_zeros(()), labels, phi)
        return unary.scatter(1, labels, self.minimise(found))

    @torch.no_grad()
    @full_precision
    def logits_in_chunks(self) -> Iterator[Tensor]:
        """The same (B, C) of labels 0 .. C - 1, of the next C, and so on."""
        inputs = self._inputs()
        seen = self._survey(inputs)
        labels, phi = self._best(seen)
        z = self.minimise(gathered(inputs, seen, labels, phi, None)).flatten()
        places = Places.of(labels, self.chunk, self.energy.num_labels)
        for number, here in enumerate(in_chunks(inputs, self.chunk)):
            which, at = places.at(number)
            here.phi[at] = z[which]
            yield here.phi

    @torch.no_grad()
    @full_precision
    def top_k(self, k: int) -> TopLabels:
        """The k best labels, in one pass: they are among the candidates and the k best others."""
        inputs = self._inputs()
        seen = self._survey(inputs, more=k)
        labels, phi = self._best(seen)
        count = labels.shape[1]
        z = self.minimise(gathered(inputs, seen, labels, phi, None))
        others, their_phi = seen.best.labels[:, count:], seen.best.logits[:, count:]
        order = torch.cat((labels, others), 1).sort(dim=1)
        logits = torch.cat((z, their_phi), 1).gather(1, order.indices)
        positions = top_positions(logits, min(k, logits.shape[1]))
        # The fixed labels' share of sum exp phi: what is left of all of it. Exact to rounding of the whole.
        left = torch.log1p(-(phi.logsumexp(1) - seen.best.log_total).clamp(max=0).exp())
        total = torch.logaddexp(seen.best.log_total + left, z.logsumexp(1))
        num_labels = seen.best.num_labels
        return TopLabels(order.values.gather(1, positions), logits.gather(1, positions), total, num_labels, labels)

    def _inputs(self) -> Inputs:
        unary = self.energy.unary
        return Inputs(self.features, unary.weight, unary.bias, self.energy.measure, self.energy.offset)

    def _survey(self, inputs: Inputs, more: int = 0) -> Survey:
        """Of the candidates and so many labels more."""
        nothing = torch.empty(len(self.features), 0, dtype=torch.int64, device=self.features.device)
        count = min(self.shortlist.candidates + more, self.energy.num_labels)
        return survey(inputs, self.chunk, count, nothing, None)

    def _best(self, seen: Survey) -> tuple[Tensor, Tensor]:
        """The candidates, ascending (B, n), and their phi."""
        order = seen.best.labels[:, : self.shortlist.candidates].sort(dim=1)
        return order.values, seen.best.logits.gather(1, order.indices)

    def _plainly(self, inputs: Inputs, found: Gathered, targets: SparseBatch) -> Gathered:
        """The same by plain operations on (B, L), differentiable as often as one likes."""
        unary = linear(self.features, inputs.weight, inputs.bias)
        fixed = torch.ones_like(unary).scatter_(1, found.labels, 0)
        dense = targets.dense(unary.dtype)
        loss = (fixed * functional.binary_cross_entropy_with_logits(unary, dense, reduction="none")).sum()
        rest = (fixed * torch.sigmoid(unary)) @ inputs.rows.T
        rows = columns_of(inputs.rows, found.labels)
        return Gathered(unary.gather(1, found.labels), rows, rest, loss, found.labels, found.targets)


def check_shortlist(energy: Energy, solver: Solver) -> None:
    """Raise `ConfigError` where an energy cannot be minimised over a shortlist, saying what is in the way."""
    if reason := unmeasured(energy):
        raise ConfigError(f"shortlist: needs a measured energy, and {reason}")
    assert isinstance(energy, MeasuredEnergy)
    refused = {
        f"domain {energy.domain}: use Box()": type(energy.domain) is not Box,
        f"gates of {type(energy).__name__}: use gate=False": bool(energy.gate_widths),
        "solver Anderson, whose K unknowns are of all labels: use MirrorDescent": isinstance(solver, Anderson),
        "products in bf16: set solver.precision float32": getattr(solver, "precision", "float32") != "float32",
        "a budget of iterates, which are small here: set solver.memory null": getattr(solver, "memory", None)
        is not None,
    }
    for what, present in refused.items():
        if present:
            raise ConfigError(f"shortlist: does not go with {what}")
