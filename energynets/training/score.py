"""Top-k scores of documents, batch by batch: never a dense N x L, nor B x L where a model has its labels in chunks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from energynets.data.batches import SparseBatch, batches
from energynets.data.dataset import Documents
from energynets.data.reveal import GivenReveal, Reveal
from energynets.errors import ConfigError, InferenceError
from energynets.inference import InferenceResult
from energynets.inference.engine.gathered import targets_at
from energynets.masks import where
from energynets.metrics import NOT_RANKED, TopScores
from energynets.models import EnergyNetwork, observed_in
from energynets.objectives.losses import probabilities
from energynets.top import top_positions
from energynets.training.machine import synchronize

# Scores a baseline is asked for first where some will be left out: so many for one that is kept, and at least.
_SPARE, _SPARE_LEAST = 4, 1024
_BASELINE_ROWS = 1024
_BASELINE_SCORES = 2**24  # held at a time where that was not enough

OnBatch = Callable[[int, int], None]
OnInference = Callable[[InferenceResult], None]


def score(
    model: nn.Module | Any,
    documents: Documents,
    *,
    k: int,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    loss: str = "bce",
    rows: np.ndarray | None = None,
    features: Tensor | None = None,
    on_batch: OnBatch | None = None,
    on_inference: OnInference | None = None,
    seconds: list[float] | None = None,
    reveal: Reveal | None = None,
) -> TopScores:
    """The k largest probabilities of each document, with their labels.

    Args:
        model: x -> logits (B, L), or a baseline with `scores(documents, k)`.
        documents: N documents whose inputs are prepared for the model.
        k: labels kept of each document, at most L.
        batch_size: B.
        device: where to compute; None is where the model's weights are.
        loss: "softmax" makes probabilities over labels, any other one for each label.
        rows: only these documents, in this order; N is then their number.
        features: (N, F) cached features of the documents, instead of their inputs.
        on_batch: called with (documents done, N).
        on_inference: called with the `InferenceResult` of each batch, where the model is an energy network; not where
            it has its labels in chunks or a shortlist: the result is of all labels at once.
        reveal: labels that the model is shown, as `documents.labels` have them. These, and labels that nobody knows
            (`documents.unknown`), are not ranked.
        seconds: gets the seconds per document of each batch appended: transfer to the device, forward and top k.

    Returns:
        TopScores with indices (N, k) and values (N, k) in [0, 1], descending; ties by smaller label. Besides one batch
        they are all that is held, 8 bytes a label kept.

    Raises:
        ConfigError: labels to leave out of a ranking in chunks or of a shortlist.
        InferenceError: a score is not a number.
    """
    k = min(k, documents.num_labels)
    if not isinstance(model, nn.Module):
        return _score_baseline(model, documents, k, on_batch, seconds, reveal)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    streamed: Any = model if getattr(model, "streams", False) else None
    partly = reveal is not None or documents.unknown is not None
    if streamed is not None and partly:
        raise ConfigError("labels in chunks or a shortlist: none can be known beforehand, or left out of the ranking")
    count = len(documents) if rows is None else len(rows)
    training = model.training
    model.eval()
    # Batches are written where they belong: stacking them afterwards would hold everything twice.
    found_NK, found_values_NK = np.empty((count, k), np.int32), np.empty((count, k), np.float32)
    recall_N = None if getattr(model, "shortlist", None) is None else np.empty(count, np.float32)
    ranked_N = np.empty(count, np.int64) if partly else None
    num_labels, done = documents.num_labels, 0
    try:
        with torch.no_grad():
            for batch in batches(documents, batch_size, order=rows, features=features, reveal=reveal):
                began = time.perf_counter()
                if partly:
                    batch = batch.to(device)  # the labels too, which a model may be shown
                inputs, left_out_BL, out_BK = batch.inputs.to(device), batch.left_out, None
                if streamed is not None:
                    indices_BK, logits_BK, total_B, num_labels, candidates_BN = streamed.top_k(inputs, k)
                    log_values_BK = logits_BK - total_B[:, None]
                    values_BK = log_values_BK.exp() if loss == "softmax" else torch.sigmoid(logits_BK)
                else:
                    observed = observed_in(batch)
                    given: dict[str, Any] = {} if observed is None else {"observed": observed}
                    if on_inference is not None and isinstance(model, EnergyNetwork):
                        result = model.infer(inputs, **given)
                        on_inference(result)
                        logits_BL = result.logits
                    else:
                        logits_BL = model(inputs, **given)
                    indices_BK, values_BK = top_probabilities(logits_BL, k, loss, left_out_BL)
                    if left_out_BL is not None:
                        out_BK = values_BK == float(NOT_RANKED)
                    logits_BK, num_labels = logits_BL.gather(1, indices_BK), logits_BL.shape[1]
                here = slice(done, done + len(batch))
                found_NK[here], values = indices_BK.int().cpu().numpy(), values_BK.float().cpu().numpy()
                synchronize(device)
                if seconds is not None:
                    seconds.append((time.perf_counter() - began) / len(batch))
                if ranked_N is not None and left_out_BL is not None:
                    ranked_N[here] = (~left_out_BL).sum(1).cpu().numpy()
                if recall_N is not None:
                    recall_N[here] = shortlist_recall(candidates_BN, batch.labels)
                # Not a number sorts first, so the kept logits show it; a sigmoid would hide an infinity.
                good_BK = torch.isfinite(logits_BK)
                bad_B = ~(good_BK if out_BK is None else good_BK | out_BK).all(dim=1).cpu()
                if bad_B.any():
                    row = int(batch.rows.cpu()[bad_B][0])
                    raise InferenceError(
                        f"document {row}: its scores are not numbers; the weights or inputs are not finite"
                    )
                # Vectorised sigmoids differ between lanes in the last bit, which can undo the order of two logits.
                found_values_NK[here] = np.minimum.accumulate(values, axis=1)
                done += len(batch)
                if on_batch is not None:
                    on_batch(done, count)
    finally:
        model.train(training)
    return TopScores(found_NK, found_values_NK, num_labels, recall_N, ranked_N)


def shortlist_recall(candidates_BN: Tensor, labels: SparseBatch) -> np.ndarray:
    """Share of each document's labels among its candidates, (B,) float32, NaN where it has none.

    Args:
        candidates_BN: ascending.
        labels: (B, L), each label once.
    """
    labels = labels.to(candidates_BN.device)
    found_B = targets_at(labels, candidates_BN, torch.zeros((), device=candidates_BN.device)).bool().sum(1)
    return (found_B / labels.offsets.diff()).float().cpu().numpy()


def top_probabilities(logits_BL: Tensor, k: int, loss: str, left_out_BL: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Labels and probabilities of the k largest logits of each row, descending, ties by smaller label.

    Ranked by logit: in float32 probabilities near 1 are equal long before their logits are. Labels that are left out
    come last, with `NOT_RANKED` for a value, and have no part in a softmax.

    Returns:
        indices (B, k) int64 and values (B, k).
    """
    if left_out_BL is not None:
        logits_BL = where(left_out_BL, logits_BL.new_full((1, 1), -torch.inf).expand_as(logits_BL), logits_BL)
    indices_BK = top_positions(logits_BL, k)
    values_BK = probabilities(logits_BL, loss).gather(1, indices_BK)
    if left_out_BL is not None:
        values_BK = values_BK.masked_fill(left_out_BL.gather(1, indices_BK), float(NOT_RANKED))
    return indices_BK, values_BK


def _leaving_out(scores: TopScores, out: Sequence[Reveal], k: int, rows: np.ndarray) -> TopScores:
    """The k best labels of those that none of `out` has, some documents at a time; `rows` are their numbers in it."""
    parts = []
    for begin in range(0, len(scores), _BASELINE_ROWS):
        part = scores[begin : begin + _BASELINE_ROWS]
        here = rows[begin : begin + len(part), None]
        left_out, everywhere = (
            np.logical_or.reduce([reveal.at(here, labels) for reveal in out])
            for labels in (part.indices, np.arange(scores.num_labels))
        )
        parts.append(part.leaving_out(left_out, (~everywhere).sum(1), k))
    return TopScores.concatenate(parts)


def median_milliseconds(seconds: list[float]) -> float | None:
    """Median over batches of the seconds per document, in milliseconds; None without any."""
    return 1000 * statistics.median(seconds) if seconds else None


def _score_baseline(
    model: Any,
    documents: Documents,
    k: int,
    on_batch: OnBatch | None,
    seconds: list[float] | None,
    reveal: Reveal | None,
) -> TopScores:
    began = time.perf_counter()
    out = [] if reveal is None else [reveal]
    out += [] if documents.unknown is None else [GivenReveal(documents.unknown)]
    scores: TopScores
    if out:
        scores = _scores_of_rest(model, documents, out, k)
    else:
        scores = model.scores(documents, k)
    if seconds is not None:
        seconds.append((time.perf_counter() - began) / max(1, len(documents)))
    if on_batch is not None:
        on_batch(len(documents), len(documents))
    return scores


def _scores_of_rest(model: Any, documents: Documents, out: Sequence[Reveal], k: int) -> TopScores:
    """The k best labels that none of `out` has, whatever it leaves of the best ones."""
    num_labels = documents.num_labels
    asked = min(max(_SPARE * k, _SPARE_LEAST), num_labels)
    scores = _leaving_out(model.scores(documents, asked), out, k, np.arange(len(documents)))
    assert scores.ranked is not None
    # Asked for as many as are left out besides, these documents cannot run short again.
    short = np.flatnonzero((scores.values != NOT_RANKED).sum(1) < np.minimum(k, scores.ranked))
    at_once = max(1, _BASELINE_SCORES // num_labels)
    for begin in range(0, len(short) if asked < num_labels else 0, at_once):
        rows = short[begin : begin + at_once]
        enough = min(num_labels, k + num_labels - int(scores.ranked[rows].min()))
        found = _leaving_out(model.scores(documents[rows], enough), out, k, rows)
        scores.indices[rows], scores.values[rows] = found.indices, found.values
    return scores
