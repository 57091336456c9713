"""Inference over documents, a batch at a time, with what it started from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from energynets.data.batches import batches
from energynets.data.dataset import Documents
from energynets.inference import InferenceResult, NoGradient, infer
from energynets.models import EnergyNetwork


class Inferred(NamedTuple):
    """One batch.

    Args:
        rows: the documents' positions, (B,).
        context: what the energy keeps of x.
        unary: phi (B, L), or None where inference does not start there.
        result: where it arrived.
        unknown: labels that nobody knows, (B, L) bool; None where all are known.
    """

    rows: Tensor
    context: Any
    unary: Tensor | None
    result: InferenceResult
    unknown: Tensor | None


def inferred(
    model: EnergyNetwork, documents: Documents, batch_size: int, device: torch.device | str
) -> Iterator[Inferred]:
    """Features once, then the model's own solver from its own start; keeps no graph."""
    for batch in batches(documents, batch_size):
        with torch.no_grad():
            context, start = model.begin(batch.inputs.to(device))
            result = infer(model.energy, context, solver=model.solver, gradient=NoGradient(), initial=start)
        yield Inferred(batch.rows, context, model.energy.initial_logits(context), result, batch.unknown)
