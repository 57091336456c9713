"""What an energy network has learned, for people: certificates, label ties, predictions that inference changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.sparse import csr_array

from energynets.data.dataset import Documents, MultiLabelDataset
from energynets.energies import Box
from energynets.inference.certificate import NO_CERTIFICATE
from energynets.metrics import TopScores
from energynets.models import EnergyNetwork
from energynets.training.diagnostics.changes import changes
from energynets.training.diagnostics.inferred import inferred
from energynets.training.diagnostics.ties import LabelTies, why_no_ties

__all__ = ["Diagnostics", "diagnose"]

TRACED = 256  # documents of validation whose inference is looked at
EXAMINED = 1024  # documents whose predictions are compared
_NUMBERS = 1 << 22  # of one (B, L) tensor


@dataclass(frozen=True)
class Diagnostics:
    """How to look at a model.

    Args:
        dataset: prepared for the model.
        raw: the same documents as read, for excerpts.
        predict: scores -> label sets (N, L), the run's own rule.
        choose: scores and labels of validation -> the rule of this kind that is best there, for the unary alone: at
            the threshold of another model its predictions would say little. None leaves it the run's.
        top: scores kept of each document.
        loss: what probabilities are, as `objectives.losses.probabilities` takes it.
        batch_size: documents at once, fewer where there are many labels.
        device: where the model is.
    """

    dataset: MultiLabelDataset
    raw: Documents
    predict: Callable[[TopScores], csr_array]
    top: int
    choose: Callable[[TopScores, csr_array], Callable[[TopScores], csr_array]] | None = None
    loss: str = "bce"
    batch_size: int = 256
    device: torch.device | str = "cpu"

    def split(self, *names: str) -> str:
        """The first of these splits that has documents."""
        return next(name for name in names if len(self.dataset.splits.get(name, ())))

    def batches_of(self, num_labels: int) -> int:
        """Documents at once, so that no (B, L) tensor is large."""
        return max(1, min(self.batch_size, _NUMBERS // num_labels))


def diagnose(model: Any, how: Diagnostics, *, label_shards: int = 1) -> dict[str, Any] | None:
    """The contents of diagnostics.json; None of a model without an energy.

    Three parts, each of which may instead be `{"skipped": why}`: `certificates` (upper bounds on E(y) - min E of the
    first validation documents), `ties` (the pairs of labels that attract and repel each other most, and what the
    measurements measure), `changes` (test documents whose predicted labels inference changed). Looks at a bounded
    number of documents, and never holds more than a batch of scores of all labels.

    Args:
        model: trained.
        how: to look at it.
        label_shards: processes over which the labels lie.
    """
    if not isinstance(model, EnergyNetwork):
        return None
    if (reason := _too_large(model, label_shards)) is not None:
        return {part: {"skipped": reason} for part in ("certificates", "ties", "changes")}
    model.eval()
    split = how.split("validation", "test", "train")
    rows = how.dataset.splits[split][:TRACED]
    ties = None if (no_ties := why_no_ties(model.energy)) else LabelTies(model.energy)
    certificates: list[float] = []
    for found in inferred(model, how.dataset.documents[rows], how.batches_of(model.num_labels), how.device):
        if found.result.certificate is not None:
            certificates += found.result.certificate.tolist()
        if ties is not None:
            ties.add(found.result.y, found.context)
    parts: dict[str, Any] = {
        "certificates": {"split": split, "values": certificates}
        if model.energy.convex
        else {"skipped": NO_CERTIFICATE},
        "ties": {"skipped": no_ties} if ties is None else {"split": split} | ties.found(_training_labels(how.dataset)),
        "changes": changes(model, how, how.split("test", "validation", "train"), EXAMINED)
        if isinstance(model.domain, Box)
        else {"skipped": f"y in {model.domain} is no set of labels"},
    }
    return parts | {"label_names": _names(parts, how.dataset.label_names)}


def _too_large(model: EnergyNetwork, label_shards: int) -> str | None:
    if model.shortlist is not None:
        return "the energy moves a shortlist of the labels of each document"
    if model.streams:
        return "the labels come in chunks, and never all at once"
    return "the labels lie over several processes" if label_shards > 1 else None


def _training_labels(dataset: MultiLabelDataset) -> csr_array:
    return dataset.documents.labels[dataset.splits["train"]]


def _names(parts: dict[str, Any], names: tuple[str, ...] | None) -> dict[str, str]:
    """Names of the labels that the parts mention, by id."""
    if names is None:
        return {}
    ties, compared = parts["ties"], parts["changes"]
    used = {
        pair[end] for side in ("attracting", "repelling") for pair in ties.get(side, ()) for end in ("first", "second")
    }
    used |= {label for row in ties.get("measurements", ()) for label, _ in row["weights"]}
    for example in (*compared.get("better_examples", ()), *compared.get("worse_examples", ())):
        used |= {label for kind in ("true", "unary", "energy") for label in example[kind]}
    return {str(label): names[label] for label in sorted(used)}
