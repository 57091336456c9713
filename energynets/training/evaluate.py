"""Metrics of a model on a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array
from torch import nn

from energynets.data.dataset import MultiLabelDataset
from energynets.errors import ConfigError, DataError, nearest
from energynets.metrics import (
    DECODERS,
    Decoder,
    ExpectedF1,
    GlobalThreshold,
    TopScores,
    choose_threshold,
    document_values,
    evaluate_scores,
    inverse_propensity,
)
from energynets.training.completion import mean_metrics, pooled, rest_metrics, reveals, sought
from energynets.training.score import OnBatch, OnInference, score

if TYPE_CHECKING:
    from energynets.config import Evaluation
    from energynets.training.load import TrainedRun

_AT_THRESHOLD = ("f1_example", "f1_micro", "f1_macro", "hamming_loss", "subset_accuracy")
_RANKED = ("precision", "ndcg", "psp", "psndcg")
FIXED_THRESHOLD = 0.5
OnScores = Callable[[TopScores, csr_array], object]


def metric_names(ks: Sequence[int]) -> list[str]:
    """The metrics that an evaluation gives, and `training.monitor` may name (besides `loss`)."""
    ranked = [f"{name}@{k}" for k in ks for name in _RANKED]
    return ranked + list(_AT_THRESHOLD) + [f"{name}_at_0.5" for name in _AT_THRESHOLD]


def check_monitor(monitor: str, ks: Sequence[int]) -> None:
    """Raises ConfigError where `training.monitor` is no metric."""
    names = [*metric_names(ks), "loss"]
    if monitor not in names:
        raise ConfigError(f"training.monitor: unknown metric {monitor!r}{nearest(monitor, names)}")


def scores_kept(labels: int, top: int | None, ks: Sequence[int]) -> int:
    """k of the scores kept: `top`, by default all up to 1,024 labels and else 256, and what the metrics need."""
    top = top if top is not None else (labels if labels <= 1024 else 256)
    return min(labels, max([top, *(k for k in ks if k <= labels)]))


def check_decoding(decoding: str) -> str:
    """The same name, or ConfigError."""
    if decoding not in DECODERS:
        raise ConfigError(f"decoding: unknown decoder {decoding!r}{nearest(decoding, DECODERS)}")
    return decoding


@dataclass(frozen=True)
class Measures:
    """How scores of one data set become metrics: k's, propensities of the training labels, rule and decoder."""

    ks: tuple[int, ...]
    propensity_L: np.ndarray
    top: int
    rule: str = "f1_example"
    decoding: str = "global"

    @classmethod
    def of(cls, settings: Evaluation, dataset: MultiLabelDataset) -> Measures:
        """From the configuration and the training labels.

        Raises:
            DataError: there is no training split.
        """
        return cls.make(
            dataset, settings.ks, settings.propensity, settings.top, settings.threshold_rule, settings.decoding
        )

    @classmethod
    def make(
        cls,
        dataset: MultiLabelDataset,
        ks: Sequence[int],
        propensity: tuple[float, float],
        top: int | None,
        rule: str = "f1_example",
        decoding: str = "global",
    ) -> Measures:
        labels = dataset.num_labels
        ks = tuple(k for k in ks if k <= labels) or (1,)
        if "train" not in dataset.splits:
            raise DataError(
                f"data set {dataset.name!r}: expected a training split, whose label frequencies say the propensities "
                f"of psp@k and psndcg@k; it has {', '.join(dataset.splits)}: give it the training documents besides"
            )
        training = dataset.documents.labels[dataset.splits["train"]]
        return cls(
            ks, inverse_propensity(training, *propensity), scores_kept(labels, top, ks), rule, check_decoding(decoding)
        )

    def threshold(self, scores: TopScores, labels: Any) -> float:
        """The one global threshold that the rule picks on these documents."""
        return float(choose_threshold(scores, labels, rule=self.rule))

    def decoder(self, scores: TopScores, labels: Any, draws: int = 1) -> Decoder:
        """What makes sets of scores, chosen on these documents, `pooled` where there are several draws of each."""
        return DECODERS[self.decoding].fit(scores, labels, draws)

    def unchosen(self) -> Decoder:
        """What makes sets of scores where there are no documents to choose on."""
        if self.decoding == ExpectedF1.kind:
            return ExpectedF1()
        return GlobalThreshold(FIXED_THRESHOLD, f"fixed {FIXED_THRESHOLD}")

    def metrics(self, scores: TopScores, labels: Any, threshold: float | Decoder) -> dict[str, float]:
        """Every metric of `metric_names`, and `shortlist_recall` of a model with a shortlist."""
        return evaluate_scores(scores, labels, threshold=threshold, inverse_propensity=self.propensity_L, ks=self.ks)

    def documents(self, scores: TopScores, labels: Any, threshold: float | Decoder) -> dict[str, np.ndarray]:
        """Document by document, those metrics that are means over documents."""
        return document_values(scores, labels, threshold=threshold, inverse_propensity=self.propensity_L, ks=self.ks)


def evaluate(
    run_or_model: TrainedRun | Path | str | nn.Module | Any,
    dataset: MultiLabelDataset | None = None,
    *,
    split: str = "test",
    threshold: float | None = None,
    decoding: str | None = None,
    ks: Sequence[int] = (1, 3, 5),
    propensity: tuple[float, float] = (0.55, 1.5),
    top: int | None = None,
    batch_size: int = 256,
    device: str | None = None,
    loss: str = "bce",
    on_batch: OnBatch | None = None,
    on_inference: OnInference | None = None,
    on_scores: OnScores | None = None,
    observed: float | None = None,
    draws: int = 1,
) -> dict[str, float]:
    """Metrics of a run or a model on one split.

    Args:
        run_or_model: a run's folder (or `load_run` of it), whose own data, settings and threshold are then used; or a
            model x -> logits (B, L), or a baseline.
        dataset: for a model: data prepared for it, with a training split (propensities come from its labels).
            For a run: raw data other than the run's own, prepared here.
        split: train, validation or test.
        threshold: in [0, 1]; None decodes.
        decoding: what makes sets of scores (global, per_label or expected_f1), chosen on the validation split; None is
            the run's own as it was chosen, or for a model global. Without validation documents the threshold is 0.5,
            and expected_f1 takes the scores as they are.
        ks: of P@k, nDCG@k, PSP@k, PSnDCG@k (a model's; a run has its own).
        propensity: (a, b) of the propensity model (a model's; a run has its own).
        top: scores kept of each document; None is all up to 1,024 labels, else 256 (a model's; a run has its own).
        batch_size: documents at once.
        device: None is where the model is.
        loss: what the model was trained with; "softmax" gives probabilities over labels (a model's; a run has its own).
        on_batch: called with (documents done, N).
        on_inference: called with the `InferenceResult` of each batch of an energy network, e.g. for its certificates.
        observed: fraction of each document's labels that the model is shown, true and false ones, in [0, 1); the rest
            alone is measured, with a decoder chosen on the rest of validation.
        draws: times that the labels shown are drawn anew; metrics are means over them (a model's; a run has its own).
        on_scores: called with the scores and labels that are measured, e.g. for their `metrics.calibration`.

    Returns:
        metric -> value, fractions in [0, 1] (see `metric_names`); `shortlist_recall` of a model with a shortlist;
        `with_labels` with `observed`, the share of documents whose rest has a label.

    Raises:
        ConfigError: a model without a data set, a fraction that is none, or no draw.
        DataError: no such split, or no training split.

    Example:
        >>> from energynets import BagOfWords, Classifier, evaluate, load_dataset
        >>> from energynets.data.prepare import Preparation
        >>> raw = load_dataset(planted={"num_documents": 50, "num_test_documents": 10, "num_labels": 6})
        >>> dataset = Preparation.fit(raw, inputs="counts").prepare(raw)
        >>> model = Classifier(BagOfWords(dataset.documents.input_size, hidden=(8,)), num_labels=6)
        >>> 0 <= evaluate(model, dataset)["f1_example"] <= 1
        True
    """
    if observed is not None and not 0 <= observed < 1:
        raise ConfigError(f"evaluate: expected a fraction of observed labels in [0, 1), got {observed:g}")
    if draws < 1:
        raise ConfigError(f"evaluate: expected one draw of the labels shown or more, got {draws}")
    from energynets.training.load import TrainedRun, load_run

    model = run_or_model
    if isinstance(model, str | Path):
        model = load_run(model, device=device or "auto")
    if isinstance(model, TrainedRun):
        run = model
        dataset = run.prepare(dataset) if dataset is not None else run.dataset()
        measures = Measures.of(run.experiment.evaluation, dataset)
        draws = run.experiment.evaluation.draws
        loss, model = run.loss, run.model
        decoder = run.decoder_at(observed) if decoding is None else None
        if decoding is not None:
            measures = replace(measures, decoding=check_decoding(decoding))
    else:
        if dataset is None:
            raise ConfigError("evaluate: a model needs a data set; only a run knows its own")
        measures = Measures.make(dataset, ks, propensity, top, decoding=decoding or "global")
        decoder = None
    scoring: dict[str, Any] = {"k": measures.top, "batch_size": batch_size, "device": device, "loss": loss}

    def rest(split: str, **watched: Any) -> Iterator[tuple[TopScores, csr_array]]:
        documents = dataset.split(split)
        for reveal in reveals(observed, split, draws):
            yield score(model, documents, **scoring, **watched, reveal=reveal), sought(documents, reveal)

    if threshold is not None:
        decoder = GlobalThreshold(threshold, "given")
    if decoder is None and len(dataset.splits.get("validation", ())):
        drawn = list(rest("validation"))
        decoder = measures.decoder(*pooled(drawn), draws=len(drawn))
    decoder = decoder or measures.unchosen()
    parts: Iterable[tuple[TopScores, csr_array]] = rest(split, on_batch=on_batch, on_inference=on_inference)
    if on_scores is not None:
        parts = list(parts)
        on_scores(*pooled(parts))
    if observed is None:
        ((scores, labels),) = parts
        return measures.metrics(scores, labels, decoder)
    return mean_metrics([rest_metrics(measures, scores, labels, decoder) for scores, labels in parts])
