"""What the objectives have in common that read an energy's values, not only what inference returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from energynets.data.batches import Batch
from energynets.energies import Box
from energynets.energies.energy import one_each
from energynets.errors import ConfigError
from energynets.inference import Observed
from energynets.models import Classifier, EnergyNetwork, observed_in
from energynets.objectives.end_to_end import EndToEnd
from energynets.objectives.losses import expect_labels


class EnergyObjective(ABC):
    """Mean over documents of what an energy network is to minimise; a `Classifier` has the loss `EndToEnd("bce")`.

    A stage that trains neither the energy nor the amortised start sees the network's own classifier, so that features
    and unary can be trained first. A new objective needs one method, `of`.

    Labels that a batch reveals have their true values in every y that the objective reads: features that observe are
    told of them, inference and samples leave them as they are. Costs and agreements are of all labels, so those are
    right ones.
    """

    loss = "bce"
    """What probabilities mean: y = sigmoid(z), as after binary cross-entropy."""

    def __init__(self) -> None:
        self._of_classifier = EndToEnd("bce")

    def __call__(self, model: Classifier | EnergyNetwork, batch: Batch) -> Tensor:
        """The scalar to minimise.

        Raises:
            ConfigError: a model whose labels come in chunks or from a shortlist, or are not in a `Box`; a batch with
                unknown labels, which an energy's values do not leave out.
            ShapeError: values that are not one a document; labels of other documents than the inputs, or of another
                number of labels than the model's.
        """
        if not isinstance(model, EnergyNetwork):
            return self._of_classifier(model, batch)
        name = type(self).__name__
        if model.streams:
            raise ConfigError(f"{name}: reads the energy of all labels at once: no label_chunk, no shortlist")
        if not isinstance(model.domain, Box):
            raise ConfigError(f"{name}: expected labels, y in Box(), got {model.domain}: there is EndToEnd")
        if batch.unknown is not None:
            raise ConfigError(f"{name}: reads every label, and some are unknown: there is EndToEnd")
        observed = observed_in(batch)
        context, features = model.condition(batch.inputs, observed)
        targets = batch.labels.dense(features.dtype)
        expect_labels(targets, (len(features), model.num_labels))
        values = one_each(name, self.of(model, features, context, targets, observed), targets)
        return values.sum() / max(len(features), 1)

    @abstractmethod
    def of(
        self, model: EnergyNetwork, features: Tensor, context: Any, targets: Tensor, observed: Observed | None
    ) -> Tensor:
        """Of each document.

        Args:
            model: its energy, solver and amortised start.
            features: f (B, F).
            context: the energy's, of x.
            targets: t (B, L), 0 or 1.
            observed: those that are revealed, or None.

        Returns:
            (B,).
        """
