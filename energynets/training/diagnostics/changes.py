"""Documents whose predicted labels inference changed, for better and for worse."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from energynets.data.batches import batches
from energynets.metrics import TopScores
from energynets.metrics.sets import f1_examples
from energynets.training.diagnostics.excerpts import Excerpts
from energynets.training.diagnostics.inferred import inferred
from energynets.training.score import top_probabilities

if TYPE_CHECKING:
    from energynets.models import EnergyNetwork
    from energynets.training.diagnostics import Diagnostics

EXAMPLES = 6  # of each kind


def changes(model: EnergyNetwork, how: Diagnostics, split: str, examined: int) -> dict[str, Any]:
    """The energy's predictions beside those of its unary alone, sigmoid(phi), each under its own rule.

    Args:
        model: over labels.
        how: to look at it.
        split: whose documents.
        examined: the first so many of them.

    Returns:
        {"split", "documents", "changed", "better", "worse" documents by their own F1, "f1_unary", "f1_energy" means,
        "better_examples", "worse_examples": [{"document": its row in the data, "excerpt", "true", "unary", "energy"
        labels, "f1_unary", "f1_energy"}], largest change first}, or {"skipped": why}.
    """
    rows = how.dataset.splits[split][:examined]
    documents = how.dataset.documents[rows]
    before: list[TopScores] = []
    after: list[TopScores] = []
    for found in inferred(model, documents, how.batches_of(model.num_labels), how.device):
        if found.unary is None:
            return {"skipped": f"{type(model.energy).__name__} has no unary logits to compare with"}
        before.append(_top_scores(found.unary, how, found.unknown))
        after.append(_top_scores(found.result.logits, how, found.unknown))
    predict = _rule_of_unary(model, how, examined)
    true = documents.labels
    unary, energy = predict(TopScores.concatenate(before)), how.predict(TopScores.concatenate(after))
    f1_unary, f1_energy = f1_examples(unary, true), f1_examples(energy, true)
    gain = f1_energy - f1_unary
    changed = np.diff((unary != energy).tocsr().indptr) > 0

    excerpts = Excerpts(how.raw)

    def example(place: int) -> dict[str, Any]:
        sets = {"true": true, "unary": unary, "energy": energy}
        labels = {name: _row(matrix, place).tolist() for name, matrix in sets.items()}
        scores = {"f1_unary": float(f1_unary[place]), "f1_energy": float(f1_energy[place])}
        document = int(rows[place])
        return {"document": document, "excerpt": excerpts.of(document)} | labels | scores

    return {
        "split": split,
        "documents": len(rows),
        "changed": int(changed.sum()),
        "better": int((gain > 0).sum()),
        "worse": int((gain < 0).sum()),
        "f1_unary": float(f1_unary.mean()),
        "f1_energy": float(f1_energy.mean()),
        "better_examples": [example(place) for place in np.argsort(-gain, kind="stable")[:EXAMPLES] if gain[place] > 0],
        "worse_examples": [example(place) for place in np.argsort(gain, kind="stable")[:EXAMPLES] if gain[place] < 0],
    }


def _rule_of_unary(model: EnergyNetwork, how: Diagnostics, examined: int) -> Callable[[TopScores], csr_array]:
    if how.choose is None or not len(how.dataset.splits.get("validation", ())):
        return how.predict
    documents = how.dataset.documents[how.dataset.splits["validation"][:examined]]
    parts = []
    for batch in batches(documents, how.batches_of(model.num_labels)):
        with torch.no_grad():
            context, _ = model.condition(batch.inputs.to(how.device))
            unary = model.energy.initial_logits(context)
        assert unary is not None
        parts.append(_top_scores(unary, how, batch.unknown))
    return how.choose(TopScores.concatenate(parts), documents.labels)


def _top_scores(logits_BL: Tensor, how: Diagnostics, unknown_BL: Tensor | None) -> TopScores:
    num_labels, ranked = logits_BL.shape[1], None
    if unknown_BL is not None:
        unknown_BL = unknown_BL.to(logits_BL.device)
        ranked = (~unknown_BL).sum(1).cpu().numpy()
    with torch.no_grad():
        indices, values = top_probabilities(logits_BL, min(how.top, num_labels), how.loss, unknown_BL)
    # As in `score`: vectorised sigmoids differ between lanes in the last bit.
    falling = np.minimum.accumulate(values.float().cpu().numpy(), axis=1)
    return TopScores(indices.int().cpu().numpy(), falling, num_labels, None, ranked)


def _row(matrix: csr_array, place: int) -> np.ndarray:
    return np.sort(matrix.indices[matrix.indptr[place] : matrix.indptr[place + 1]])
