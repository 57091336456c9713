"""Sizes of the data that a configuration is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energynets.config import Experiment
    from energynets.training.build import Sizes


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
